"""Build the optimiser of a run: frozen parameters, learning rates, weight decay, clipping.

A parameter's name starts with its module group (``patch_embed``,
``pos_embed``, ``prefix_tokens``, ``blocks.3``, ``norm``, ``attn_pool``, ``head``). Freezing,
layer-wise rates and the reach of weight decay all use these groups.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from elastictool.config import ModelConfig, RunConfig, TrainConfig
from elastictool.models.transformer import SpectrogramTransformer
from elastictool.utils.errors import UsageError
from elastictool.utils.registry import nearest_hint

_GROUPS = {"prefix_pos_embed": "pos_embed", "fc_norm": "head"}
_RANGE = re.compile(r"blocks\.(\d+)(?:-(\d+))?")


def build_optimizer(
    model: SpectrogramTransformer, config: RunConfig
) -> torch.optim.Adam | torch.optim.AdamW:
    """Returns Adam (L2 in the gradient, as published) or AdamW (decoupled) without frozen parts."""
    train = config.train
    kind = torch.optim.Adam if train.optimizer == "adam" else torch.optim.AdamW
    return kind(parameter_groups(model, train), lr=train.lr, betas=train.betas, fused=True)


def set_rates(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Gives every parameter group its factor of the rate ``lr``."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]


def clip_gradients(optimizer: torch.optim.Optimizer, clip_norm: float) -> Tensor:
    """Scales the gradients down to a joint norm of ``clip_norm``, if that is above 0.

    Returns:
        () the norm before clipping, where the gradients are.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if clip_norm:
        nn.utils.clip_grads_with_norm_(parameters, clip_norm, norm)
    return norm


def module_group(name: str) -> str:
    """Returns the module group of the parameter called ``name``."""
    first, *rest = name.split(".")
    return f"blocks.{rest[0]}" if first == "blocks" else _GROUPS.get(first, first)


def freeze(model: SpectrogramTransformer, wanted: Sequence[str]) -> None:
    """Stops the module groups ``wanted`` from learning: no gradient, no decay, no optimiser state.

    Args:
        model: Its parameters' ``requires_grad`` is changed.
        wanted: Module groups; ``blocks`` for all blocks, ``blocks.0-5`` for some of them, both
            ends included; ``all_but_head``.

    Raises:
        UsageError: The model has no such group, or nothing is left to train.
    """
    groups = {name: module_group(name) for name, _ in model.named_parameters()}
    known = list(dict.fromkeys(groups.values()))
    frozen = {group for item in wanted for group in _expand(item, known, model.config.depth)}
    if frozen.issuperset(known):
        raise UsageError(
            f"train.freeze = {', '.join(wanted)} leaves nothing to train",
            f"take a group out of train.freeze (the model has: {', '.join(_choices(known))})",
        )
    for name, parameter in model.named_parameters():
        if groups[name] in frozen:
            parameter.requires_grad_(False)


def check_freeze(config: ModelConfig, wanted: Sequence[str]) -> None:
    """Raises what ``freeze`` would raise, without making the weights of a model.

    Raises:
        UsageError: See ``freeze``.
    """
    if wanted:
        with torch.device("meta"):
            freeze(SpectrogramTransformer(config), wanted)


def parameter_groups(model: SpectrogramTransformer, config: TrainConfig) -> list[dict[str, Any]]:
    """Returns the parameters that learn, in groups of equal rate and decay.

    ``lr_factor`` of a group multiplies the run's learning rate; see ``set_rates``.
    """
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    reach = config.weight_decay_on
    if reach == "auto":
        reach = "all" if config.optimizer == "adam" else "matrices"
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        factor = lr_factor_of(name, model.config.depth, config)
        tables = reach == "kernels" and module_group(name) in ("pos_embed", "prefix_tokens")
        decays = reach == "all" or (parameter.ndim >= 2 and not tables)
        decay = config.weight_decay if decays else 0.0
        fresh = {"params": [], "lr_factor": factor, "weight_decay": decay}
        groups.setdefault((factor, decays), fresh)["params"].append(parameter)
    return list(groups.values())


def lr_factor_of(name: str, depth: int, config: TrainConfig) -> float:
    """Returns the factor on the learning rate of the parameter called ``name``.

    Source: layer-wise decay as in BEiT's fine-tuning, all behind the last block at the full rate;
        the head's own factor is ``head_lr`` of the SSAST and CAV-MAE fine-tuning scripts.
    """
    group = module_group(name)
    if group in ("patch_embed", "pos_embed", "prefix_tokens"):
        layer = 0
    elif group.startswith("blocks."):
        layer = 1 + int(group.removeprefix("blocks."))
    else:
        layer = depth + 1
    factor = config.layer_decay ** (depth + 1 - layer)
    return factor * config.head_lr_factor if group == "head" else factor


def _expand(item: str, known: Sequence[str], depth: int) -> list[str]:
    """Returns the module groups that one entry of ``train.freeze`` stands for."""
    if item in known:
        return [item]
    if item == "all_but_head":
        return [group for group in known if group != "head"]
    if item == "blocks" and depth:
        return [group for group in known if group.startswith("blocks.")]
    blocks = _RANGE.fullmatch(item)
    if blocks is None or not depth:
        raise UsageError(
            f"train.freeze: the model has no module group {item!r}",
            nearest_hint(item, _choices(known)),
        )
    first, last = int(blocks[1]), int(blocks[2] or blocks[1])
    if not first <= last < depth:
        raise UsageError(
            f"train.freeze: the model has no blocks {item.removeprefix('blocks.')}",
            f"its {depth} blocks are blocks.0-{depth - 1}",
        )
    return [f"blocks.{block}" for block in range(first, last + 1)]


def _choices(known: Sequence[str]) -> list[str]:
    """Returns the names that ``train.freeze`` may hold, blocks as a range."""
    blocks = [group for group in known if group.startswith("blocks.")]
    others = [group for group in known if group not in blocks]
    ranges = ["blocks", f"blocks.0-{len(blocks) - 1}"] if blocks else []
    return [*others, *ranges, "all_but_head"]
