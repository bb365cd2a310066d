"""The optimiser of a run, its rates, and the size of its steps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from elastictool.config import RunConfig
from elastictool.models.transformer import SpectrogramTransformer
from elastictool.training.parameter_groups import parameter_groups


def build_optimizer(
    model: SpectrogramTransformer, config: RunConfig
) -> torch.optim.Adam | torch.optim.AdamW:
    """Adam (L2 in the gradient, as published) or AdamW (decoupled), over what is not frozen."""
    train = config.train
    shared: dict[str, Any] = {"lr": train.lr, "betas": train.betas, "fused": True}
    kind = torch.optim.Adam if train.optimizer == "adam" else torch.optim.AdamW
    return kind(parameter_groups(model, train), **shared)


def set_rates(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group its part of the rate ``lr``."""
    for group in optimizer.param_groups:
        # States saved before there were factors have none: all of lr.
        group["lr"] = lr * group.get("lr_factor", 1.0)


def clip_gradients(optimizer: torch.optim.Optimizer, clip_norm: float) -> Tensor:
    """Scale the gradients down to a joint norm of ``clip_norm``, if that is above 0.

    Returns:
        () the norm before clipping, where the gradients are.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if clip_norm:
        nn.utils.clip_grads_with_norm_(parameters, clip_norm, norm)
    return norm
