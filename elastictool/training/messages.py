"""Records of ``metrics.jsonl`` as one line each, for people who watch a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def epoch_line(record: Mapping[str, Any], epochs: int) -> str:
    """An epoch of ``epochs``: losses, scores, skipped steps."""
    parts = [f"epoch {record['epoch']}/{epochs}"]
    if record["train_loss"] is not None:
        parts.append(f"train loss {record['train_loss']:.4f}")
    if record["skipped_steps"]:
        parts.append(f"{record['skipped_steps']} steps skipped")
    return ", ".join(parts + _validation_parts(record))


def averaged_line(record: Mapping[str, Any], epochs: tuple[int, int]) -> str:
    """The scores of the mean of the epochs (first, last)."""
    head = f"mean of the weights of epochs {epochs[0]} to {epochs[1]}"
    return ", ".join([head, *_validation_parts(record)])


def _validation_parts(record: Mapping[str, Any]) -> list[str]:
    forms = (("loss", "loss {:.4f}"), ("top1", "top-1 {:.1%}"), ("map", "mAP {:.3f}"))
    return [
        "val " + form.format(record[f"val_{name}"])
        for name, form in forms
        if f"val_{name}" in record
    ]
