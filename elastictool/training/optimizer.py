"""The optimiser of a run."""

from __future__ import annotations

from typing import Any

import torch

from elastictool.config import RunConfig
from elastictool.models.transformer import SpectrogramTransformer


def build_optimizer(
    model: SpectrogramTransformer, config: RunConfig
) -> torch.optim.Adam | torch.optim.AdamW:
    """Adam (L2 in the gradient, as published) or AdamW (decoupled, matrices only)."""
    train = config.train
    shared: dict[str, Any] = {
        "lr": train.lr,
        "betas": train.betas,
        "weight_decay": train.weight_decay,
        "fused": True,
    }
    if train.optimizer == "adam":
        return torch.optim.Adam(model.parameters(), **shared)
    matrices = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
    others = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    groups: list[dict[str, Any]] = [{"params": matrices}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, **shared)
