"""Loads imported weights into a model with other patches, positions, pooling or classes.

Tensors that both models have are copied; kernels and positions are fitted; tensors that the file
does not have keep the new model's initial values or those that ``InitConfig`` sets. Every step is
written into the report.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from elastictool.config import InitConfig, ModelConfig, RunConfig
from elastictool.models.resize import pi_resize
from elastictool.models.transformer import SpectrogramTransformer
from elastictool.packing.grid import scaled_stride
from elastictool.pretrained.geometry import FREQUENCY, GRID, TIME, fit_positions, same_area_grid
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
KERNEL, QUERY = "patch_embed.proj.weight", "attn_pool.latent"


def model_for(weights: Imported, config: RunConfig) -> RunConfig:
    """Returns ``config`` with the settings that the weights fix: the encoder's or all the model's.

    An open ``model.grid`` becomes the weights' own grid (the same area), unless clips are brought
    to one length or the weights are of pictures: then the data decide.

    Raises:
        UsageError: A setting contradicts the weights.
    """
    own, source = weights.config, weights.config.model
    given, bins = config.model, config.fbank.num_mel_bins
    taken = {name: getattr(source, name) for name in BODY}
    if config.init.model == "weights":
        geometry = ("patch_size", "patch_stride", "grid")
        _require_agreement({name: getattr(source, name) for name in geometry}, given)
        taken |= {name: getattr(source, name) for name in SHAPE}
        if source.num_mel_bins != bins:
            raise UsageError(
                f"the weights' own model takes {source.num_mel_bins} rows, "
                f"fbank.num_mel_bins is {bins}",
                "set init.model=config: the grid is then fitted to the spectrogram",
            )
        config = replace(config, length=replace(config.length, edge=own.length.edge))
    pooling = str(taken.get("pooling", given.pooling))
    official = official_settings(weights, pooling, given, ModelConfig())
    _require_agreement({name: taken[name] for name in BODY if name not in official}, given)
    model = replace(given, **taken | official)
    if not weights.image and not config.length.fixed_frames:
        bands, columns = same_area_grid(source, model)
        model = replace(model, grid=(model.grid[0] or bands, model.grid[1] or columns))
    for name in () if weights.image else (field.name for field in fields(config.fbank)):
        old, new = getattr(own.fbank, name), getattr(config.fbank, name)
        if old != new:
            weights.report.notes.append(f"trained with fbank.{name} = {old}, here it is {new}")
    return replace(config, model=model)


def official_settings(
    weights: Imported, pooling: str, given: ModelConfig, before: ModelConfig
) -> dict[str, Any]:
    """Returns what ``init.compat = official`` sets in a model with this ``pooling``.

    Source: published ElasticAST code: how new parts start, and attention without scale; its AST
    keeps that of the weights.

    Raises:
        UsageError: The user has set one of them to another value: it differs in ``given`` from it
            and from ``before``.
    """
    if not weights.official:
        return {}
    settings: dict[str, Any] = {"initialization": "official"}
    if pooling == "attention":
        settings["attention_scale"] = weights.config.model.attention_scale or 1.0
    _require_agreement(settings, given, before, "init.compat = official makes it")
    return settings


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
    state, own = dict(weights.state), model.state_dict()
    if source.patch_size != target.patch_size:
        kernel = state[KERNEL].reshape(-1, *source.patch_size)
        state[KERNEL] = pi_resize(kernel, target.patch_size).flatten(1)
        sizes = f"{_by(source.patch_size)} to {_by(target.patch_size)}"
        report.resized[KERNEL] = f"patches {sizes}, PI-resize"
    _fit_positions(state, weights, target)
    _fit_prefix(state, own, report)
    _start_pooling(state, own, weights)
    _start_head(state, own, weights, init, target)
    useless = {"prefix": "has no prefix tokens", "attn_pool": "does not pool by attention"}
    for name in [name for name in state if name not in own]:
        del state[name]
        why = [why for part, why in useless.items() if name.startswith(part)]
        report.leave_out(name, f"the model {why[0] if why else 'has no such part'}")
    wrong = [name for name, value in state.items() if value.shape != own[name].shape]
    wrong += [name for name in own if name not in state and name not in report.missing]
    if wrong:
        raise CheckpointError(f"{report.file} does not fit the model: {', '.join(wrong)}")
    model.load_state_dict({**own, **state})
    return report


def _fit_positions(state: dict[str, Tensor], weights: Imported, target: ModelConfig) -> None:
    """Replaces the position tables in ``state`` by those of ``target``.

    Source: the published AST code takes a picture's rows as they are, whatever the stride.
    """
    source, init, report = weights.config.model, weights.init, weights.report
    alike = source.pos_embed == target.pos_embed
    stride = scaled_stride(source.patch_size, source.patch_stride, target.patch_size)
    patches = replace(target, patch_stride=stride) if weights.image else target
    area = same_area_grid(source, patches)
    if alike and source.grid == target.grid == area:
        return
    names = (GRID,) if source.pos_embed == "grid" else (FREQUENCY, TIME)
    tables = {name: state.pop(name) for name in names}
    keys = [key for name in tables for key in report.loaded.pop(name)]
    mean_twice = init.grid_mean == "twice"
    fitted = fit_positions(tables, area, source, target, init.pos_embed, mean_twice)
    how = [f"{_by(source.grid)} to {_by(target.grid)}"]
    how += ["stretched with the patches"] if area != source.grid else []
    how += [init.pos_embed] if area != target.grid else []
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
    """Initialises attention pooling from the encoder's: the blocks' sum over a divisor."""
    if QUERY not in own or QUERY in state:
        return
    report, how, depth = weights.report, weights.init.pooling, weights.config.model.depth
    new = "the weights have no attention pooling"
    names = [name for name in own if name.startswith("attn_pool.")]
    report.missing |= dict.fromkeys(names, f"new: {new}")
    if how == "random" or not depth:
        return
    # The published code counts six tensors a block as layers, hence its 72 for 12 blocks.
    divisor = 6 * depth if how == "official" else depth
    start: dict[str, Tensor] = {}
    for part in ("weight", "bias"):
        qkv, proj = (
            torch.stack([state[f"blocks.{n}.attn.{layer}.{part}"] for n in range(depth)]).sum(0)
            / divisor
            for layer in ("qkv", "proj")
        )
        width = len(proj)
        start[f"attn_pool.q.{part}"] = qkv[:width].clone()
        start[f"attn_pool.kv.{part}"] = qkv[width:].clone()
        start[f"attn_pool.proj.{part}"] = proj
    state |= start
    what = f"the encoder's attention, its sum over {divisor} ({how})"
    report.missing |= dict.fromkeys(start, f"{what}: {new}")


def _start_head(
    state: dict[str, Tensor],
    own: Mapping[str, Tensor],
    weights: Imported,
    init: InitConfig,
    target: ModelConfig,
) -> None:
    """Keeps the classifier and its LayerNorm, or starts new ones.

    Source: published ElasticAST code, which copies SSAST's last LayerNorm; its AST, whose patches
    have prefix tokens, does not.
    """
    report = weights.report
    copied = weights.init.fc_norm == "encoder" and not (weights.official and target.prefix_tokens)
    for name in [name for name in own if name.startswith(("head.", "fc_norm."))]:
        why = "the weights have none" if name not in state else "init.head = replace"
        if name in state and init.head != "replace":
            continue
        if name in state:
            report.leave_out(name, why)
            del state[name]
        if copied and name.startswith("fc_norm."):
            state[name] = state[name.removeprefix("fc_")].clone()
            report.missing[name] = f"the encoder's last LayerNorm: {why}"
        else:
            report.missing[name] = f"new: {why}"


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
