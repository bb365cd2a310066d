"""Loads imported weights into a model with other patches, positions, pooling or classes.

Tensors that both models have are copied; kernels and positions are fitted; tensors that the file
does not have keep the new model's own starting values, or start as ``InitConfig`` says. Every step
is written into the report.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from elastictool.config import InitConfig, ModelConfig, RunConfig
from elastictool.models.transformer import SpectrogramTransformer
from elastictool.pretrained.geometry import (
    FREQUENCY,
    GRID,
    TIME,
    fit_kernel,
    fit_positions,
    mean_attention,
    picture_grid,
    same_area_grid,
)
from elastictool.pretrained.importer import Imported
from elastictool.pretrained.report import ImportReport
from elastictool.utils.errors import CheckpointError, UsageError

BODY = ("width", "depth", "heads", "mlp_ratio", "norm_eps", "attention_scale")
"""Settings of a model that are always those of its weights."""
SHAPE = (
    "preset", "num_mel_bins", "patch_size", "patch_stride", "pos_embed", "grid", "prefix_tokens",
    "pooling", "fc_norm", "fc_norm_eps",
)  # fmt: skip
"""Settings that are the weights' own where ``init.model`` is ``weights``."""
_GEOMETRY = ("patch_size", "patch_stride", "grid")
POSITIONS = {"grid": (GRID,), "factorised": (FREQUENCY, TIME)}
KERNEL, QUERY = "patch_embed.proj.weight", "attn_pool.latent"


def model_for(weights: Imported, config: RunConfig) -> RunConfig:
    """Returns ``config`` with what the weights decide: the model's body, or the whole model.

    An open ``model.grid`` becomes the weights' own grid (the same area), unless clips are brought
    to one length or the weights are of pictures: then the data decide.

    Raises:
        UsageError: A setting contradicts the weights.
    """
    init, source = config.init, weights.config.model
    taken = {name: getattr(source, name) for name in BODY}
    given = config.model
    if init.model == "weights":
        _require_agreement({name: getattr(source, name) for name in _GEOMETRY}, given)
        taken |= {name: getattr(source, name) for name in SHAPE}
        config = _front_end_of(weights, config)
    official = official_settings(weights, str(taken.get("pooling", given.pooling)))
    _require_agreement({name: taken[name] for name in BODY if name not in official}, given)
    require_official(official, given, ModelConfig())
    model = dataclasses.replace(given, **taken | official)
    if not weights.image and not config.length.fixed_frames:
        bands, columns = same_area_grid(source, model)
        model = dataclasses.replace(model, grid=(model.grid[0] or bands, model.grid[1] or columns))
    _note_differences(weights, config)
    return dataclasses.replace(config, model=model)


def official_settings(weights: Imported, pooling: str) -> dict[str, Any]:
    """Returns what ``init.compat = official`` sets in a model with this ``pooling``.

    Source: published ElasticAST code: how new parts start, and attention without scale; its AST
    keeps that of the weights.
    """
    if not weights.choices.official:
        return {}
    settings: dict[str, Any] = {"initialization": "official"}
    if pooling == "attention":
        settings["attention_scale"] = weights.config.model.attention_scale or 1.0
    return settings


def require_official(official: Mapping[str, Any], given: ModelConfig, before: ModelConfig) -> None:
    """Checks that the user has not set (changed from ``before``) what ``official`` sets.

    Raises:
        UsageError: Such a setting has another value.
    """
    _require_agreement(official, given, before, "init.compat = official makes it")


def _require_agreement(
    taken: Mapping[str, Any],
    given: ModelConfig,
    before: ModelConfig = ModelConfig(),
    because: str = "that of the weights is",
) -> None:
    for name, value in taken.items():
        found = getattr(given, name)
        if found not in (getattr(before, name), value):
            raise UsageError(
                f"model.{name} = {found}, but {because} {value}",
                f"leave model.{name} out, or take other weights",
            )


def _front_end_of(weights: Imported, config: RunConfig) -> RunConfig:
    """Takes over the weights' own patches; the model of a whole picture takes no spectrogram."""
    bins = config.fbank.num_mel_bins
    source = weights.config
    if source.model.num_mel_bins != bins:
        raise UsageError(
            f"the weights' own model takes {source.model.num_mel_bins} rows, "
            f"fbank.num_mel_bins is {bins}",
            "set init.model=config: the grid is then fitted to the spectrogram",
        )
    length = dataclasses.replace(config.length, edge=source.length.edge)
    return dataclasses.replace(config, length=length)


def _note_differences(weights: Imported, config: RunConfig) -> None:
    """Notes in the report where the filterbank is another one."""
    if weights.image:
        return
    for name in (field.name for field in dataclasses.fields(config.fbank)):
        old, new = (getattr(each.fbank, name) for each in (weights.config, config))
        if old != new:
            weights.report.notes.append(f"trained with fbank.{name} = {old}, here it is {new}")


def require_labels(weights: Imported, label_names: Sequence[str], init: InitConfig) -> None:
    """Checks that a classifier that is kept was trained for these labels.

    Raises:
        CheckpointError: It was trained for others.
    """
    hint = "set init.head=replace to start with a new classifier"
    count = weights.config.model.num_classes
    if init.head == "replace" or not count:
        return
    if count != len(label_names):
        raise CheckpointError(
            f"the classifier of {init.path} has {count} classes, the data have {len(label_names)}",
            hint,
        )
    for old, new in zip(weights.label_names, label_names, strict=False):
        if old != new:
            raise CheckpointError(
                f"the labels of {init.path} are not those of the data: {old!r} is where the data "
                f"have {new!r}",
                hint,
            )


def transfer(model: SpectrogramTransformer, weights: Imported, init: InitConfig) -> ImportReport:
    """Loads ``weights`` into ``model``; returns the report of the whole import.

    Raises:
        CheckpointError: They do not fit.
    """
    source, target, report = weights.config.model, model.config, weights.report
    state = dict(weights.state)
    own = model.state_dict()
    _fit_kernel(state, source, target, report)
    _fit_positions(state, weights, target)
    _fit_prefix(state, own, report)
    _start_pooling(state, own, weights)
    _start_head(state, own, init.head, report)
    for name in [name for name in state if name not in own]:
        del state[name]
        report.leave_out(name, _useless(name))
    wrong = [name for name, value in state.items() if value.shape != own[name].shape]
    wrong += [name for name in own if name not in state and name not in report.missing]
    if wrong:
        raise CheckpointError(f"{report.file} does not fit the model: {', '.join(wrong)}")
    model.load_state_dict({**own, **state})
    return report


def _fit_kernel(
    state: dict[str, Tensor], source: ModelConfig, target: ModelConfig, report: ImportReport
) -> None:
    if source.patch_size != target.patch_size:
        state[KERNEL] = fit_kernel(state[KERNEL], source.patch_size, target.patch_size)
        report.resized[KERNEL] = (
            f"patches {_by(source.patch_size)} to {_by(target.patch_size)}, PI-resize"
        )


def _fit_positions(state: dict[str, Tensor], weights: Imported, target: ModelConfig) -> None:
    source, choices, report = weights.config.model, weights.choices, weights.report
    alike = source.pos_embed == target.pos_embed
    area = (picture_grid if weights.image else same_area_grid)(source, target)
    if alike and source.grid == target.grid == area:
        return
    tables = {name: state.pop(name) for name in POSITIONS[source.pos_embed]}
    keys = [key for name in tables for key in report.loaded.pop(name)]
    mean_twice = choices.grid_mean_twice
    fitted = fit_positions(tables, area, source, target, choices.pos_embed, mean_twice)
    how = [f"{_by(source.grid)} to {_by(target.grid)}"]
    how += ["stretched with the patches"] if area != source.grid else []
    how += [choices.pos_embed] if area != target.grid else []
    if not alike:
        how += ["marginal means" if source.pos_embed == "grid" else "sums of both tables"]
        how += ["the grid's mean in both"] if source.pos_embed == "grid" and mean_twice else []
    state |= fitted
    report.loaded |= dict.fromkeys(fitted, keys)
    report.resized |= dict.fromkeys(fitted, ", ".join(how))


def _fit_prefix(state: dict[str, Tensor], own: Mapping[str, Tensor], report: ImportReport) -> None:
    """Copies the first prefix tokens that both have; further ones of the model start anew."""
    for name in ("prefix_tokens", "prefix_pos_embed"):
        if name not in own:
            continue
        if name not in state:
            report.missing[name] = "new: the weights have no prefix tokens"
            continue
        old, new = state[name], own[name].clone()
        kept = min(len(old), len(new))
        new[:kept] = old[:kept].to(new.device)
        state[name] = new
        if len(old) != len(new):
            report.resized[name] = f"{kept} of {len(old)} kept, {len(new) - kept} new"


def _start_pooling(state: dict[str, Tensor], own: Mapping[str, Tensor], weights: Imported) -> None:
    if QUERY not in own or QUERY in state:
        return
    report, how, depth = weights.report, weights.choices.pooling, weights.config.model.depth
    names = [name for name in own if name.startswith("attn_pool.")]
    report.missing |= dict.fromkeys(names, "new: the weights have no attention pooling")
    if how == "random" or not depth:
        return
    # The published code counts six tensors a block as layers, hence its 72 for 12 blocks.
    divisor = 6 * depth if how == "official" else depth
    start = mean_attention(state, depth, divisor)
    state |= start
    what = f"the encoder's attention, its sum over {divisor} ({how})"
    report.missing |= dict.fromkeys(start, f"{what}: the weights have no attention pooling")


def _start_head(
    state: dict[str, Tensor], own: Mapping[str, Tensor], head: str, report: ImportReport
) -> None:
    for name in [name for name in own if name.startswith(("head.", "fc_norm."))]:
        if name not in state:
            report.missing[name] = "new: the weights have none"
        elif head == "replace":
            report.leave_out(name, "init.head = replace")
            report.missing[name] = "new: init.head = replace"
            del state[name]


def _useless(name: str) -> str:
    if name.startswith("prefix"):
        return "the model has no prefix tokens"
    if name.startswith("attn_pool"):
        return "the model does not pool by attention"
    return "the model has no such part"


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
