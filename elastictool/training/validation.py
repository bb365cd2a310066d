"""What validation says of a model, and which of its numbers chooses the best weights."""

from __future__ import annotations

import math

import torch

from elastictool.config import RunConfig
from elastictool.metrics.classification import class_probabilities, classification_metrics
from elastictool.training.losses import clip_losses
from elastictool.training.predict_logits import Scores


def validation_metrics(scores: Scores, config: RunConfig) -> dict[str, float]:
    """Mean loss, top-1 and mAP of ``scores``.

    A metric without a value (no labelled clip, no class to rank) is left out.

    Raises:
        ElasticToolError: Scores are not finite.
    """
    # As eval ranks them: the softmax weighs a clip's classes against each other.
    probabilities = class_probabilities(scores.logits, config.train.loss)
    metrics = classification_metrics(probabilities, scores.targets).values
    losses = clip_losses(torch.from_numpy(scores.logits), torch.from_numpy(scores.targets), config)
    values = {"loss": float(losses.mean()), "top1": metrics["top1"], "map": metrics["map"]}
    return {name: value for name, value in values.items() if math.isfinite(value)}


def selection_metric(config: RunConfig, multi_label: bool) -> str:
    """The metric that chooses the best weights."""
    chosen = config.train.selection_metric
    if chosen != "auto":
        return chosen
    return "map" if multi_label else "top1"
