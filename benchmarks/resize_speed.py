"""Compare PI-resize of a base model's patch kernel with the dense pseudo-inverse.

Run: ``python -m benchmarks.resize_speed [--json FILE]``

Three ways to the same kernel; the largest difference is part of the result. ``rebuilt`` does at
each call what published code (FlexiAST, timm) does: it resizes every unit patch, which gives the
map of whole patches, takes the pseudo-inverse of that and multiplies. ``dense`` keeps the
pseudo-inverse. elastictool caches one small matrix an axis. Processor time of one thread, in turns.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.pages import made_by
from benchmarks.performance import resize
from elastictool.evaluation.bench.timing import environment, interleaved
from elastictool.models.resize import pi_resize
from elastictool.utils.io import write_json

WIDTH, BASE, SIZES = 768, 16, (8, 12, 24, 32, 48)
ROUNDS = 15


def main() -> None:
    """Measure, print and, if asked, write what was measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    kernel = torch.randn(WIDTH, 1, BASE, BASE, generator=torch.Generator().manual_seed(0))
    rows = [measure(kernel, size, arguments.rounds) for size in SIZES]
    document = {
        "benchmark": "resize",
        "command": f"python -m benchmarks.resize_speed --rounds {arguments.rounds}",
        "environment": environment(),
        "width": WIDTH,
        "rows": rows,
    }
    print(resize(document) + made_by(document))
    if arguments.json:
        write_json(arguments.json, document)


def measure(kernel: Tensor, size: int, rounds: int) -> dict[str, Any]:
    """Return median milliseconds of each way, and the largest difference."""
    kept = pseudo_inverse(size)
    ways: dict[str, Callable[[], Tensor]] = {
        "rebuilt": lambda: apply(kernel, pseudo_inverse(size), size),
        "dense": partial(apply, kernel, kept, size),
        "elastictool": partial(pi_resize, kernel, (size, size)),
    }
    seconds = interleaved(ways, rounds, clock=time.process_time)
    return {
        "size": size,
        **{f"{name}_ms": 1e3 * spent for name, spent in seconds.items()},
        "largest_difference": float((ways["elastictool"]() - ways["rebuilt"]()).abs().max()),
    }


def pseudo_inverse(size: int) -> Tensor:
    """Return pinv(B^T) (size^2, 256) in float32, B the map of whole patches (Equation 3)."""
    units = torch.eye(BASE * BASE).view(-1, 1, BASE, BASE)
    patches = F.interpolate(units, (size, size), mode="bilinear", antialias=False)
    inverse: Tensor = torch.linalg.pinv(patches.flatten(1))
    return inverse


def apply(kernel: Tensor, matrix: Tensor, size: int) -> Tensor:
    """Return (D, 1, size, size): the matrix times each flattened kernel."""
    return (kernel.flatten(1) @ matrix.T).view(len(kernel), 1, size, size)


if __name__ == "__main__":
    main()
