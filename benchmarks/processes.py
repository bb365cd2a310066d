"""Measure training by one and by several processes on the cores of this machine.

Run: ``python -m benchmarks.scaling processes``, on a machine that does nothing else

Each run is the trainer's own, of the same clips in the same global batches, in processes that
torchrun starts with one thread each; gloo sums the gradients. Runs of one and of more processes
take turns. Steps are timed from one to the next, loading included, after a first epoch that is not
counted. Before each sum the processes wait for one another, so that waiting and summing are
separate; that costs a message a step.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

from elastictool.config.loader import load_run_config
from elastictool.data.options import PrepOptions
from elastictool.data.prepare import prepare
from elastictool.data.store import PreparedStore
from elastictool.evaluation.bench.timing import environment
from elastictool.training.distributed import Ranks
from elastictool.training.run import train_run
from elastictool.utils.io import write_json
from elastictool.utils.launch import launched

T = TypeVar("T")
Row = dict[str, Any]

CLIPS = 200
BATCH_CLIPS = 24
EPOCHS = 5
MODEL = {"size": "tiny", "depth": 4}
SETS = (
    *(f"model.{name}={value}" for name, value in MODEL.items()),
    f"packing.batch_clips={BATCH_CLIPS}",
    f"train.epochs={EPOCHS}",
    f"train.validate_every={EPOCHS}",
    "train.precision=fp32",
    "train.device=cpu",
)
MOST_PROCESSES = 8


def processes(rounds: int) -> Row:
    """Return the seconds of a training step for one process up to the number of cores."""
    conditions = environment()  # before our own processes add to the load
    counts = [n for n in (1, 2, 4, MOST_PROCESSES) if n <= (os.cpu_count() or 1)]
    found: dict[int, list[Row]] = {count: [] for count in counts}
    with tempfile.TemporaryDirectory() as folder:
        data = prepare(PrepOptions("synth", out=Path(folder) / "data", limit=CLIPS))
        clips = int((data.splits == "train").sum())
        for turn in range(rounds):
            for count in counts if turn % 2 == 0 else counts[::-1]:
                out = Path(folder) / f"{turn}-{count}"
                found[count].append(measured(_trained(count, data.path, out)))
                print(f"round {turn + 1}, {count}: {found[count][-1]}", flush=True)
    rows = [{"processes": count, **_median(runs)} for count, runs in found.items()]
    for row in rows:
        row["clips_per_second"] = (EPOCHS - 1) * clips / (row["steps"] * row["seconds_per_step"])
        row["speed_up"] = rows[0]["seconds_per_step"] / row["seconds_per_step"]
    return {
        "environment": conditions,
        "model": MODEL,
        "clips": clips,
        "batch_clips": BATCH_CLIPS,
        "rounds": rounds,
        "rows": rows,
    }


def _trained(count: int, data: Path, out: Path) -> list[Row]:
    """Return the times that each of ``count`` processes recorded in one run."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    module = ["-m", "benchmarks.processes", str(data), str(out)]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *torchrun, *module], env=one_thread, check=True)
    return [json.loads(_notes(out, rank).read_text("utf-8")) for rank in range(count)]


def measured(notes: Sequence[Row]) -> Row:
    """Return the number of steps, their mean seconds, and the shares of waiting and summing.

    Args:
        notes: Of each process: ``waiting`` and ``summing``, seconds of each step (none where it is
            alone); of the first one also ``steps``, the seconds of each, by epoch.
    """
    steps = [seconds for epoch in notes[0]["steps"][1:] for seconds in epoch]
    total = sum(steps)
    shares = {
        f"{what}_share": statistics.mean(sum(note[what][-len(steps) :]) for note in notes) / total
        for what in ("waiting", "summing")
    }
    return {"steps": len(steps), "seconds_per_step": total / len(steps), **shares}


def _median(runs: Sequence[Row]) -> Row:
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def _notes(out: Path, rank: int) -> Path:
    return out.with_suffix(f".{rank}.json")


# In each process


def main() -> None:
    """Train as one of the processes and write the times of each step."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    clock, notes = StepClock(), timed_sums()
    train_run(load_run_config(None, SETS), PreparedStore.open(args.data), args.out, progress=clock)
    write_json(_notes(args.out, launched().rank), {"steps": clock.epochs, **notes})


class StepClock:
    """A progress display that records the seconds of each step instead of showing them."""

    def __init__(self) -> None:
        self.epochs: list[list[float]] = []
        self._before = 0.0

    @contextmanager
    def task(self, what: str, total: float | None) -> Iterator[StepClock]:
        """Start an epoch."""
        self.epochs.append([])
        self._before = time.perf_counter()
        yield self

    def advance(self, amount: float = 1, note: str = "") -> None:
        """Record the end of a step."""
        now = time.perf_counter()
        self.epochs[-1].append(now - self._before)
        self._before = now

    def log(self, message: str) -> None:
        """Ignore a message."""


def timed_sums() -> dict[str, list[float]]:
    """Record from now on the seconds of each step that this process waits and sums."""
    notes: dict[str, list[float]] = {"waiting": [], "summing": []}
    all_reduce = Ranks.all_reduce

    def timed(what: str, call: Callable[[], T]) -> T:
        begin = time.perf_counter()
        result = call()
        notes[what].append(time.perf_counter() - begin)
        return result

    def noted(
        self: Ranks, parameters: Sequence[nn.Parameter], loss: Tensor, counts: Sequence[int]
    ) -> tuple[Tensor, list[int]]:
        timed("waiting", self.wait)
        return timed("summing", lambda: all_reduce(self, parameters, loss, counts))

    Ranks.all_reduce = noted  # type: ignore[method-assign]
    return notes


if __name__ == "__main__":
    main()
