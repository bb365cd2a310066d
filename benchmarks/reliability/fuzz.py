"""Damage inputs of every reader at random, and count what becomes of them.

    python -m benchmarks.reliability fuzz --inputs 200 --seed 1 --keep FOLDER

Each input gets one of six outcomes: it is read; it is refused with a message; a traceback or a
crash; a hang of more than 20 s; more than 500 MB of memory; a loss without a word (rows, members,
or more than a tenth of the audio). The last four are bugs; ``--keep`` saves their inputs.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.reliability.child import fresh
from benchmarks.reliability.mutate import Damaged
from benchmarks.reliability.readers import (
    OUTCOMES,
    READ,
    READERS,
    REFUSED,
    TRACEBACK,
    Found,
    Material,
)

PRELOADED = [__name__, "elastictool.cli.app", "elastictool.data.prepare",
             "elastictool.training.run", "elastictool.evaluation.evaluate",
             "elastictool.inference.model", "elastictool.reporting.run_report"]  # fmt: skip
SHARE = 20
"""Inputs of a task of a worker."""


@dataclass(frozen=True)
class Task:
    """Inputs ``first`` and following of a reader; each is drawn with a seed of its own."""

    reader: str
    seed: int
    first: int
    count: int
    folder: Path


def measure(
    inputs: int, seed: int, names: Sequence[str], workers: int, keep: Path | None
) -> list[dict[str, Any]]:
    """Fuzz the readers; print each bug and return a row for each reader."""
    counts: dict[str, Counter[str]] = {name: Counter() for name in names or READERS}
    with tempfile.TemporaryDirectory() as folder:
        material = Path(folder, "material")
        tasks = [
            Task(name, seed, first, min(SHARE, inputs - first), Path(folder))
            for name in counts
            for first in range(0, inputs, SHARE)
        ]
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        with context.Pool(workers) as pool:
            pool.apply(make_material, (material,))
            for task, results in pool.imap_unordered(work, tasks):
                for number, (damaged, found) in enumerate(results, start=task.first):
                    counts[task.reader][found.outcome] += 1
                    if found.outcome not in (READ, REFUSED):
                        _report(task, number, damaged, found, keep)
    return [
        {"reader": name, "inputs": counted.total()} | {key: counted[key] for key in OUTCOMES}
        for name, counted in counts.items()
    ]


def make_material(folder: Path) -> None:
    """Make what the commands need."""
    torch.set_num_threads(1)
    Material.make(folder)


def work(task: Task) -> tuple[Task, list[tuple[Damaged, Found]]]:
    """Damage and read the inputs of a task."""
    torch.set_num_threads(1)
    return task, list(results(task, Material(task.folder / "material")))


def results(task: Task, material: Material) -> Iterator[tuple[Damaged, Found]]:
    """Yield each damaged input of a task with what became of it."""
    reader = READERS[task.reader]
    samples = reader.samples(material)
    drawn = [
        reader.damaged(samples, np.random.default_rng([task.seed, *task.reader.encode(), number]))
        for number in range(task.first, task.first + task.count)
    ]
    place = task.folder / f"{task.reader}-{task.first}".replace(" ", "-")
    for first in range(0, len(drawn), reader.at_once):
        some = drawn[first : first + reader.at_once]
        yield from zip(some, reader.check(some, material, fresh(place)), strict=True)


def _report(task: Task, number: int, damaged: Damaged, found: Found, keep: Path | None) -> None:
    name = f"{task.reader} {task.seed}-{number}"
    lines = found.output.strip().splitlines() or [""]
    line = lines[-1 if found.outcome == TRACEBACK else 0]
    print(f"{name}: {found.outcome}: {damaged.how[:300]}: {line[:300]}", flush=True)
    if keep:
        keep.mkdir(parents=True, exist_ok=True)
        path = keep / name.replace(" ", "-")
        path.with_name(path.name + ".input").write_bytes(damaged.data)
        text = f"{found.outcome}\n{damaged.how}\n{found.output}"
        path.with_name(path.name + ".txt").write_text(text, "utf-8", "replace")
