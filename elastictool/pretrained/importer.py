"""Imports a file of any format as one of our models.

The result computes what the file's own model computes. Fitting it to another model (other patches,
positions, pooling, classes) is the job of ``transfer.py``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from elastictool.config import GridFit, InitConfig, ModelConfig, PoolingStart, Rgb, RunConfig
from elastictool.models.transformer import SpectrogramTransformer, tensor_shapes
from elastictool.pretrained.formats import BLOCK, FORMATS, Context, Described, Format, Key, Tensors
from elastictool.pretrained.locate import find_weights
from elastictool.pretrained.report import ImportReport, require_explained
from elastictool.pretrained.shapes import number_of_blocks
from elastictool.pretrained.source import OWN_FORMAT, OWN_NAME, Source, read_source, require_floats
from elastictool.utils.errors import CheckpointError, UsageError


@dataclass(frozen=True)
class Choices:
    """Choices on which published codes differ: those of ``InitConfig`` with ``compat`` applied."""

    rgb: Rgb = "sum"
    pos_embed: GridFit = "crop"
    grid_mean_twice: bool = False
    pooling: PoolingStart = "mean"
    official: bool = False


@dataclass(frozen=True)
class Imported:
    """Weights under our names, and their model.

    Attributes:
        config: Its ``model`` is the file's own; ``data``, ``fbank`` and ``length`` hold what the
            format knows of the filterbank.
        state: All tensors of that model, float32.
        label_names: Classes in order; empty where the file does not know them.
        choices: How to fit them to another model.
        image: The grid is of pictures.
        report: What was done with each key.
    """

    config: RunConfig
    state: Mapping[str, Tensor]
    label_names: tuple[str, ...]
    choices: Choices
    image: bool
    report: ImportReport

    def model(self, attention: str = "auto") -> SpectrogramTransformer:
        """Returns the file's own model in evaluation mode; it shares memory with ``state``."""
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
    choices = Choices(init.rgb, init.pos_embed, init.grid_mean == "twice", init.pooling)
    if init.compat == "official":
        choices = Choices("sum", form.official_fit, True, "official", True)
    state = _convert(form, described.config.model, choices, spelled, source, report)
    return Imported(described.config, state, described.label_names, choices, form.image, report)


def _described(form: Format, source: Source, tensors: Tensors, init: InitConfig) -> Described:
    """Returns the file's model; checks its JSON, if any, against the blocks that the file holds.

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
    """Returns a pattern for the keys of blocks, with a block's number as its group."""
    names = [key.sources[0] for key in form.keys if BLOCK in key.sources[0]] or [f"blocks.{BLOCK}."]
    prefix = names[0].partition(BLOCK)[0]
    return re.escape(prefix) + r"(\d+)\."


def _require_format(name: str, form: Format, source: Source) -> None:
    """Checks that the file looks like one of the format that the user named."""
    keys = list(source.tensors)
    found = [known for known in FORMATS if FORMATS[known].matches(keys)]
    if source.metadata.get("format") == OWN_FORMAT:
        found = [OWN_NAME]
    if name in found:
        return
    hint = f"it looks like {' or '.join(found)}: name that format" if found else (
        f"it looks like none of {', '.join(sorted([*FORMATS, OWN_NAME]))}; its first keys are "
        f"{', '.join(keys[:3])}"
    )  # fmt: skip
    raise CheckpointError(f"{source.file} is not of the format {name} ({form.title})", hint)


def _spelled(form: Format, source: Source) -> dict[str, str]:
    """Returns the file's keys by their one spelling."""
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
    """Returns the state of ``model``, converted key by key; fills in the report."""
    expected = tensor_shapes(model)
    entries = {name: Key(name, (name,)) for name in expected}
    if form.keys:
        entries = {key.target: key for key in numbered(form.keys, model.depth)}
    context = Context(model, choices.rgb)
    state: dict[str, Tensor] = {}
    missing: list[str] = []
    for target in expected:
        entry = entries.get(target, Key(target, (target,)))
        names, absent = _split(entry.sources, spelled)
        missing += absent
        if absent or target not in entries:
            continue
        held = {spelled[name]: source.tensors[spelled[name]] for name in names}
        report.loaded[target] = list(held)
        require_floats(source.file, held)
        parts = [value.float() for value in held.values()]
        state[target] = _joined(entry, parts, context, report)
    _require_shapes(state, expected, report)
    used = {key for keys in report.loaded.values() for key in keys}
    left = {name: key for name, key in spelled.items() if key not in used}
    reasons = {key: form.reason_to_ignore(name) for name, key in left.items()}
    report.ignored |= {key: reason for key, reason in reasons.items() if reason}
    report.ignored |= dict.fromkeys(source.others, "not a tensor")
    require_explained(
        report,
        unexplained=[key for key in left.values() if key not in report.ignored],
        missing=dict.fromkeys(missing),
        hint="it may be of another version of the model; nothing was imported",
    )
    return state


def numbered(keys: Sequence[Key], depth: int) -> Iterator[Key]:
    """Yields the keys of a table with each block's number in place of ``{n}``."""
    for key in keys:
        for number in map(str, range(depth if BLOCK in key.target else 1)):
            sources = tuple(source.replace(BLOCK, number) for source in key.sources)
            yield Key(key.target.replace(BLOCK, number), sources, key.join)


def _split(sources: Sequence[str], spelled: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Returns the sources that the file has, and those that it lacks and that are not optional."""
    names = {name.removesuffix("?"): name.endswith("?") for name in sources}
    absent = [name for name, optional in names.items() if name not in spelled and not optional]
    return [name for name in names if name in spelled], absent


def _joined(key: Key, parts: Sequence[Tensor], context: Context, report: ImportReport) -> Tensor:
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
