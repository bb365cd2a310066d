"""From a file to a model of ours: the one walk through every format's tables.

The import is faithful: what it returns computes what the file's own model computes. Fitting it to
another model (other patches, positions, pooling, classes) is the business of ``transfer.py``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from elastictool.config import GridFit, InitConfig, ModelConfig, PoolingStart, Rgb, RunConfig
from elastictool.models.transformer import SpectrogramTransformer, tensor_shapes
from elastictool.pretrained.formats import (
    BLOCK,
    FORMATS,
    Context,
    Described,
    Format,
    Key,
    Tensors,
)
from elastictool.pretrained.locate import find_weights
from elastictool.pretrained.report import ImportReport, require_explained
from elastictool.pretrained.shapes import number_of_blocks
from elastictool.pretrained.source import OWN_FORMAT, OWN_NAME, Source, read_source, require_floats
from elastictool.utils.errors import CheckpointError, UsageError


@dataclass(frozen=True)
class Choices:
    """How practice differs, decided: the settings of ``InitConfig`` with ``compat`` applied."""

    rgb: Rgb = "sum"
    positions: GridFit = "crop"
    grid_mean_twice: bool = False
    pooling: PoolingStart = "mean"
    official: bool = False


@dataclass(frozen=True)
class Imported:
    """Weights under our names, and the model that they are of.

    Attributes:
        config: Its ``model`` is the file's own; ``data``, ``fbank`` and ``length`` hold what the
            format knows of the front end.
        state: All tensors of that model, float32.
        label_names: Classes in order; empty where the file does not know them.
        choices: How to fit them to another model.
        image: The grid is of pictures.
        report: What became of each key.
    """

    config: RunConfig
    state: Mapping[str, Tensor]
    label_names: tuple[str, ...]
    choices: Choices
    image: bool
    report: ImportReport

    def model(self, attention: str = "auto") -> SpectrogramTransformer:
        """The file's own model, in evaluation mode; it shares memory with ``state``."""
        with torch.device("meta"):
            model = SpectrogramTransformer(self.config.model, attention)
        model.load_state_dict(dict(self.state), assign=True)
        return model.eval()


def import_as(form: Format, init: InitConfig) -> Imported:
    """Reads the weights at ``init.path`` as a file of the format ``form``.

    Raises:
        UsageError: There is no such file.
        CheckpointError: The file is unsound, of another format, or has keys that its format does
            not explain.
    """
    source = read_source(init.path, find_weights(init.path, hub=not form.own))
    _require_format(init.source, form, source)
    spelled = _spelled(form, source)
    tensors = {name: source.tensors[key] for name, key in spelled.items()}
    described = _described(form, source, tensors, init)
    report = ImportReport(
        format=init.source,
        source=source.given,
        file=str(source.file),
        sha256=source.sha256,
        notes=list(described.notes),
    )
    choices = _choices(form, init)
    state = _convert(form, described.config.model, choices, spelled, source, report)
    return Imported(described.config, state, described.label_names, choices, form.image, report)


def _described(form: Format, source: Source, tensors: Tensors, init: InitConfig) -> Described:
    """What the file's model is, held against what the file holds: a JSON can say anything.

    Raises:
        CheckpointError: They do not agree.
        UsageError: ``init`` contradicts the file.
    """
    try:
        described = form.describe(source, tensors, init)
    except (CheckpointError, UsageError) as error:
        if str(source.file) in error.message:
            raise
        raise CheckpointError(f"{source.file}: {error.message}", error.hint) from error
    model = described.config.model
    blocks = number_of_blocks(tensors, _block_pattern(form), source.file)
    if blocks != model.depth:
        raise CheckpointError(
            f"{source.file} holds {blocks} blocks, its configuration says {model.depth}",
            "take weights and configuration from one place",
        )
    if init.heads not in (0, model.heads):
        raise UsageError(
            f"init.heads = {init.heads}, but the configuration of {source.file} says {model.heads}",
            "leave init.heads out",
        )
    return described


def _block_pattern(form: Format) -> str:
    """A pattern for the keys of blocks, with a block's number as its group."""
    names = [key.sources[0] for key in form.keys if BLOCK in key.sources[0]] or [f"blocks.{BLOCK}."]
    prefix = names[0].partition(BLOCK)[0]
    return re.escape(prefix) + r"(\d+)\."


def looks_like(source: Source) -> list[str]:
    """Names of the formats whose files look like this one."""
    if source.metadata.get("format") == OWN_FORMAT:
        return [OWN_NAME]
    keys = list(source.tensors)
    return [name for name in FORMATS if FORMATS[name].matches(keys)]


def _require_format(name: str, form: Format, source: Source) -> None:
    found = looks_like(source)
    if name in found:
        return
    hint = f"it looks like {' or '.join(found)}: name that format" if found else (
        f"it looks like none of {', '.join(sorted([*FORMATS, OWN_NAME]))}; its first keys are "
        f"{', '.join(list(source.tensors)[:3])}"
    )  # fmt: skip
    raise CheckpointError(f"{source.file} is not of the format {name} ({form.title})", hint)


def _choices(form: Format, init: InitConfig) -> Choices:
    if init.compat == "official":
        official: GridFit = form.official.get("pos_embed", "crop")
        return Choices("sum", official, True, "official", True)
    return Choices(init.rgb, init.pos_embed, init.grid_mean == "twice", init.pooling)


def _spelled(form: Format, source: Source) -> dict[str, str]:
    """The file's keys by their one spelling."""
    spelled: dict[str, str] = {}
    for key in source.tensors:
        name = form.spell(key)
        if name in spelled:
            raise CheckpointError(f"{source.file} holds {name} twice: {spelled[name]} and {key}")
        spelled[name] = key
    return spelled


def _convert(
    form: Format,
    model: ModelConfig,
    choices: Choices,
    spelled: Mapping[str, str],
    source: Source,
    report: ImportReport,
) -> dict[str, Tensor]:
    """The state of ``model``, key by key; fills in the report."""
    expected = tensor_shapes(model)
    context = Context(model, choices.rgb)
    state: dict[str, Tensor] = {}
    for entry in _expanded(form.keys or _own_keys(expected), model.depth):
        names = _present(entry.sources, spelled)
        if entry.target not in expected or names is None:
            continue
        report.loaded[entry.target] = [spelled[name] for name in names]
        held = {spelled[name]: source.tensors[spelled[name]] for name in names}
        require_floats(source.file, held)
        parts = [value.float() for value in held.values()]
        state[entry.target] = _joined(entry, parts, context, report)
    _require_shapes(state, expected, report)
    used = {key for keys in report.loaded.values() for key in keys}
    left = {name: key for name, key in spelled.items() if key not in used}
    reasons = {key: form.reason_to_ignore(name) for name, key in left.items()}
    report.ignored |= {key: reason for key, reason in reasons.items() if reason}
    report.ignored |= dict.fromkeys(source.others, "no tensor")
    require_explained(
        report,
        unexplained=[key for key in left.values() if key not in report.ignored],
        missing=_missing(form, expected, model.depth, state, spelled),
        hint="it may be of another version of the model; nothing was imported",
    )
    return state


def _missing(
    form: Format,
    expected: Mapping[str, object],
    depth: int,
    state: Mapping[str, object],
    spelled: Mapping[str, str],
) -> list[str]:
    """Keys that the file should have, in its own spelling; our names where no key makes one."""
    made_of = {
        key.target: key.sources for key in _expanded(form.keys or _own_keys(expected), depth)
    }
    names: list[str] = []
    for target in expected:
        if target not in state:
            sources = [name for name in made_of.get(target, (target,)) if not name.endswith("?")]
            names += [name for name in sources if name not in spelled]
    return list(dict.fromkeys(names))


def _own_keys(expected: Mapping[str, object]) -> tuple[Key, ...]:
    return tuple(Key(name, (name,)) for name in expected)


def _expanded(keys: Sequence[Key], depth: int) -> list[Key]:
    """The keys with each block's number in place of ``{n}``."""
    return [
        Key(key.target.replace(BLOCK, str(n)), tuple(s.replace(BLOCK, str(n)) for s in key.sources),
            key.join)
        for key in keys
        for n in (range(depth) if BLOCK in key.target else range(1))
    ]  # fmt: skip


def _present(sources: Sequence[str], spelled: Mapping[str, str]) -> list[str] | None:
    """The sources in the file, optional ones only if they are there; None if another is not."""
    wanted = [(name.removesuffix("?"), name.endswith("?")) for name in sources]
    if any(name not in spelled and not optional for name, optional in wanted):
        return None
    return [name for name, _ in wanted if name in spelled]


def _joined(
    key: Key, parts: Sequence[Tensor], context: Context, report: ImportReport
) -> Tensor:  # fmt: skip
    try:
        return key.join(parts, context).contiguous()
    except (RuntimeError, IndexError, ValueError) as error:
        shapes = ", ".join(str(tuple(part.shape)) for part in parts)
        raise CheckpointError(
            f"{report.file}: {', '.join(report.loaded[key.target])} of {shapes} cannot become "
            f"{key.target}"
        ) from error


def _require_shapes(
    state: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]], report: ImportReport
) -> None:
    wrong = [
        f"{', '.join(report.loaded[name])} makes {tuple(value.shape)}, not {expected[name]}"
        for name, value in state.items()
        if tuple(value.shape) != expected[name]
    ]
    if wrong:
        raise CheckpointError(
            f"{report.file} does not fit the model that it seems to hold: {'; '.join(wrong[:3])}",
            "the file may be damaged, or put together from several",
        )
