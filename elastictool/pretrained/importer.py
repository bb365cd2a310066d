"""Imports a file of any format as a ``SpectrogramTransformer``.

The imported model computes what the file's own model computes. ``transfer.py`` fits it to another
model (other patches, positions, pooling, classes).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from elastictool.config import InitConfig, ModelConfig, RunConfig
from elastictool.models.transformer import SpectrogramTransformer, tensor_shapes
from elastictool.pretrained.formats import FORMATS, Format, Key
from elastictool.pretrained.locate import find_weights
from elastictool.pretrained.report import ImportReport, listed
from elastictool.pretrained.shapes import number_of_blocks
from elastictool.pretrained.source import OWN_FORMAT, OWN_NAME, Source, read_source, require_floats
from elastictool.utils.errors import CheckpointError, UsageError


@dataclass(frozen=True)
class Imported:
    """Imported weights under our names, and the configuration of their model.

    Attributes:
        config: Its ``model`` is the file's own; ``data``, ``fbank`` and ``length`` hold what the
            format knows of the filterbank.
        state: All tensors of that model, float32.
        label_names: Classes in order; empty where the file does not know them.
        init: How to fit them to another model, with ``compat`` replaced by what it stands for.
        official: Whether that is ``official``.
        image: The grid is of pictures.
        report: What was done with each key.
    """

    config: RunConfig
    state: Mapping[str, Tensor]
    label_names: tuple[str, ...]
    init: InitConfig
    official: bool
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
        UsageError: There is no such file, or ``init`` contradicts it.
        CheckpointError: The file is unsound, of another format, or has keys that its format does
            not explain.
    """
    source = read_source(init.path, find_weights(init.path, hub=not form.own))
    file, official = source.file, init.compat == "official"
    _require_format(init.source, form, source)
    spelled: dict[str, str] = {}
    for key in source.tensors:
        name = form.spell(key)
        if name in spelled:
            raise CheckpointError(f"{file} holds {name} twice: {spelled[name]} and {key}")
        spelled[name] = key
    tensors = {name: source.tensors[key] for name, key in spelled.items()}
    try:
        described = form.describe(source, tensors, init)
    except (CheckpointError, UsageError) as error:
        if str(file) in error.message:
            raise
        raise CheckpointError(f"{file}: {error.message}", error.hint) from error
    model = described.config.model
    _require_agreement(form, model, tensors, init, source)
    report = ImportReport(
        init.source, source.given, str(file), source.sha256, notes=list(described.notes)
    )
    if official:
        init = replace(
            init, compat="none", pos_embed=form.official_fit, grid_mean="twice",
            pooling="official", fc_norm=form.official_fc_norm,
        )  # fmt: skip
    state = _convert(form, model, init, spelled, source, report)
    names = described.label_names
    return Imported(described.config, state, names, init, official, form.image, report)


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


def _require_agreement(
    form: Format, model: ModelConfig, names: Mapping[str, Tensor], init: InitConfig, source: Source
) -> None:
    """Checks the described ``model`` against the blocks of the file and against ``init.heads``."""
    of_blocks = [key.sources[0] for key in form.keys if "{n}" in key.sources[0]] or ["blocks.{n}."]
    prefix = re.escape(of_blocks[0].partition("{n}")[0])
    blocks = number_of_blocks(names, prefix + r"(\d+)\.", source.file)
    if blocks != model.depth:
        raise CheckpointError(
            f"{source.file} holds {blocks} blocks, its configuration says {model.depth}",
            "take weights and configuration from the same source",
        )
    if init.heads not in (0, model.heads):
        raise UsageError(
            f"init.heads = {init.heads}, but the configuration of {source.file} says {model.heads}",
            "leave init.heads out",
        )


def _convert(
    form: Format,
    model: ModelConfig,
    init: InitConfig,
    spelled: Mapping[str, str],
    source: Source,
    report: ImportReport,
) -> dict[str, Tensor]:
    """Returns the state of ``model``, converted key by key; fills in the report."""
    expected = tensor_shapes(model)
    entries = {key.target: key for key in form.numbered_keys(model.depth)}
    if not form.keys:
        entries = {name: Key(name, (name,)) for name in expected}
    state: dict[str, Tensor] = {}
    missing: set[str] = set()
    for target in expected:
        entry = entries.get(target, Key(target, (target,)))
        names = {source.removesuffix("?"): source for source in entry.sources}
        absent = {name for name, as_written in names.items() if name == as_written} - set(spelled)
        missing |= absent
        if absent or target not in entries:
            continue
        held = {spelled[name]: source.tensors[spelled[name]] for name in names if name in spelled}
        report.loaded[target] = list(held)
        require_floats(source.file, held)
        try:
            parts = [value.float() for value in held.values()]
            state[target] = entry.join(parts, model, init).contiguous()
        except (RuntimeError, IndexError, ValueError) as error:
            shapes = ", ".join(str(tuple(part.shape)) for part in parts)
            raise CheckpointError(
                f"{source.file}: {', '.join(held)} of {shapes} cannot become {target}"
            ) from error
    wrong = [
        f"{', '.join(report.loaded[name])} makes {tuple(value.shape)}, not {expected[name]}"
        for name, value in state.items()
        if tuple(value.shape) != expected[name]
    ]
    if wrong:
        raise CheckpointError(
            f"{source.file} does not fit the model that it seems to hold: {'; '.join(wrong[:3])}",
            "the file may be damaged, or put together from several",
        )
    _explain_rest(form, missing, spelled, source, report)
    return state


def _explain_rest(
    form: Format,
    missing: set[str],
    spelled: Mapping[str, str],
    source: Source,
    report: ImportReport,
) -> None:
    """Notes why each key that was not loaded is not needed; refuses keys that nothing explains."""
    used = {key for keys in report.loaded.values() for key in keys}
    unexplained = []
    for name, key in spelled.items():
        reasons = [why for pattern, why in form.ignored.items() if re.match(pattern, name)]
        if key not in used and reasons:
            report.ignored[key] = reasons[0]
        elif key not in used:
            unexplained.append(key)
    report.ignored |= dict.fromkeys(source.others, "not a tensor")
    problems = [
        f"{what} {listed(sorted(keys))}"
        for what, keys in (("unexplained", unexplained), ("missing", missing))
        if keys
    ]
    if problems:
        raise CheckpointError(
            f"{source.file} is not quite a file of the format {report.format}: "
            f"{'; '.join(problems)}",
            "it may be of another version of the model; nothing was imported",
        )
