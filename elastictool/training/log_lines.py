"""Log lines of a run: what it trains on, and the records of ``metrics.jsonl`` as sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from elastictool.config import RunConfig
from elastictool.data.splits import Splits
from elastictool.models.transformer import SpectrogramTransformer


def start_lines(config: RunConfig, splits: Splits, model: SpectrogramTransformer) -> list[str]:
    """Says what a run trains on, which model and where; warns where nothing is validated."""
    sizes = [(value.numel(), value.requires_grad) for value in model.parameters()]
    total, learning = sum(size for size, _ in sizes), sum(size for size, learns in sizes if learns)
    learns = "" if learning == total else f" ({learning:,} learn)"
    device = next(model.parameters()).device
    lines = [
        f"training on {len(splits.train):,} clips of {config.model.num_classes} classes, "
        f"validating on {len(splits.validation):,}, {len(splits.test):,} to test; "
        f"{total:,} parameters{learns}; {device}, {config.train.precision}"
    ]
    if not len(splits.validation):
        lines.append(
            "warning: without validation clips the last epoch counts as the best; "
            "--set data.validation_fraction=0.1 takes a part of the training clips"
        )
    return lines


def epoch_line(record: Mapping[str, Any], epochs: int) -> str:
    """Says the losses, scores and skipped steps of an epoch of ``epochs``."""
    parts = [f"epoch {record['epoch']}/{epochs}"]
    if record["train_loss"] is not None:
        parts.append(f"train loss {record['train_loss']:.4f}")
    if record["skipped_steps"]:
        parts.append(f"{record['skipped_steps']} steps skipped")
    return ", ".join(parts + _validation_parts(record))


def averaged_line(record: Mapping[str, Any], epochs: tuple[int, int]) -> str:
    """Says the scores of the mean of the epochs (first, last)."""
    head = f"mean of the weights of epochs {epochs[0]} to {epochs[1]}"
    return ", ".join([head, *_validation_parts(record)])


def _validation_parts(record: Mapping[str, Any]) -> list[str]:
    forms = (("loss", "loss {:.4f}"), ("top1", "top-1 {:.1%}"), ("map", "mAP {:.3f}"))
    return [
        "val " + form.format(record[f"val_{name}"])
        for name, form in forms
        if f"val_{name}" in record
    ]
