"""What a weights file says of itself, read without its weights: so many runs are listed at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

MOMENT = ("epoch", "step")
"""What tells the weights of a run from its earlier and later ones."""


def read_moment(file: Path) -> dict[str, int]:
    """Epoch and step at which the weights were saved; empty where nobody knows."""
    try:
        with safe_open(str(file), framework="np") as opened:
            metrics = json.loads((opened.metadata() or {})["metrics"])
    except (SafetensorError, OSError, KeyError, ValueError):
        return {}
    return moment_of(metrics)


def moment_of(metrics: Any) -> dict[str, int]:
    """Those of the numbers recorded with weights that say when they were saved."""
    if not isinstance(metrics, dict) or not all(type(metrics.get(n)) is int for n in MOMENT):
        return {}
    return {name: metrics[name] for name in MOMENT}


def former_weights(run_dir: Path, checkpoint: str, weights: Any) -> str:
    """In words which weights a result is of, where the run has others by now; else empty.

    Args:
        run_dir: The run.
        checkpoint: Which of its checkpoints.
        weights: What the result says of them; files of before they did say nothing.
    """
    told = moment_of(weights)
    now = read_moment(run_dir / "checkpoints" / f"{checkpoint}.safetensors")
    if not told or not now or told == now:
        return ""
    return f"former weights (step {told['step']}, now {now['step']})"
