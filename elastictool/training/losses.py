"""Compute the loss of each clip, from which batches of any size are averaged exactly."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from elastictool.config import RunConfig


def clip_losses(logits: Tensor, targets: Tensor, config: RunConfig) -> Tensor:
    """Returns the (S,) loss of each clip from (S, C) logits and targets.

    Cross-entropy spreads a clip's weight over its labels; BCE is the mean over classes. Targets
    may be soft (mixup): cross-entropy takes them as they are where they sum to at most 1, so that
    a labelled clip mixed with an unlabelled one counts by its own share only.
    """
    smoothing = config.train.label_smoothing
    if config.train.loss == "ce":
        shares = targets / targets.sum(1, keepdim=True).clamp_min(1.0)
        return F.cross_entropy(logits, shares, reduction="none", label_smoothing=smoothing)
    smooth = targets * (1 - smoothing) + 0.5 * smoothing
    return F.binary_cross_entropy_with_logits(logits, smooth, reduction="none").mean(1)
