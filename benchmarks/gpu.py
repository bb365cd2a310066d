"""What only a GPU can show: that the CUDA paths agree with ``reference``, and how fast they are.

    python -m benchmarks.gpu --json docs/results/gpu.json [--minutes 7] [--quick]

One command, meant for eight minutes of one GPU; jobs in the order of what must not be missing:
first agreement (logits, gradients, segments that never mix, features of the device), then the
base model in training (bf16, compiled, long streams) against a measured matrix-product peak, the
dense mask beside it, the input's share of a step, memory against tokens, attention alone, a short
run of the trainer. A job that fails or comes too late is noted under ``errors`` and the next one
runs; the document is written after each. It says which device and versions it was made with, and
``docs/performance.md`` is made from it. ``--device cpu --quick`` runs the same jobs without a GPU,
to see that the script works.
"""

from __future__ import annotations

import argparse
import gc
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_jobs import Job, Rows, Setup, all_jobs
from elastictool.evaluation.bench.timing import environment
from elastictool.evaluation.bench.workload import epic_like
from elastictool.evaluation.durations import read_durations
from elastictool.files import write_json

PARTS = (
    "agreement", "features", "training", "dense_mask", "input", "memory", "attention", "trainer",
)  # fmt: skip


@dataclass
class Session:
    """Runs jobs and keeps what they find.

    Attributes:
        document: What is written.
        path: Where to; None is nowhere.
        limit_s: No job begins after so many seconds.
    """

    document: dict[str, Any]
    path: Path | None
    limit_s: float
    started: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.perf_counter() - self.started

    def run(self, job: Job) -> None:
        """One job; whatever becomes of it, the next can run."""
        if self.seconds > self.limit_s:
            self._fail(job, "left out: the time is up")
        else:
            self._try(job)
        self.document["seconds"] = round(self.seconds, 1)
        if self.path is not None:
            write_json(self.path, self.document)

    def _try(self, job: Job) -> None:
        begin = self.seconds
        try:
            rows: Rows = job.measure()
        # Anything may go wrong in code that has never met this device, and there may be no
        # second chance: what the other jobs find must not be lost.
        except Exception as error:
            traceback.print_exc()
            self._fail(job, f"{type(error).__name__}: {str(error)[:500]}")
        else:
            self.document[job.part] += rows
            print(f"[{self.seconds:5.0f} s] {job.part}, {job.label}: {self.seconds - begin:.1f} s")
            print(*rows, sep="\n", flush=True)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _fail(self, job: Job, why: str) -> None:
        self.document["errors"].append({"part": job.part, "job": job.label, "error": why})
        if job.part == "agreement":  # what could not be compared does not agree
            self.document["agreement"].append(
                {"attention": job.label, "agrees": False, "error": why}
            )
        print(f"[{self.seconds:5.0f} s] {job.part}, {job.label}: {why}", flush=True)


def main() -> None:
    """Check, measure, print, and write the document."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the measurements to this file")
    parser.add_argument("--durations", type=Path, help="CSV of clips' durations")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=7.0, help="begin no job after these")
    parser.add_argument("--quick", action="store_true", help="tiny model, few clips")
    args = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    durations = read_durations(args.durations) if args.durations else epic_like(4_096)
    setup = Setup(torch.device(args.device), durations, args.quick)
    session = Session(document(setup, args), args.json, 60 * args.minutes)
    for job in all_jobs(setup):
        session.run(job)
    failed = [row for row in session.document["agreement"] if not row["agrees"]]
    errors = session.document["errors"]
    print(
        f"{session.seconds:.0f} s, {len(failed)} disagreements, {len(errors)} jobs without result"
    )
    if failed:
        raise SystemExit(f"{len(failed)} disagreements with reference")


def document(setup: Setup, args: argparse.Namespace) -> dict[str, Any]:
    """The document before the first job."""
    facts: dict[str, Callable[[], Any]] = {
        "name": torch.cuda.get_device_name,
        "capability": torch.cuda.get_device_capability,
        "memory_gb": lambda: torch.cuda.get_device_properties(0).total_memory / 1e9,
    }
    there = setup.device.type == "cuda"
    return {
        "command": "python -m benchmarks.gpu" + (" --quick" if args.quick else ""),
        "environment": environment() | {"cuda": torch.version.cuda},
        "gpu": {name: look() for name, look in facts.items()} if there else None,
        "device": setup.device.type,
        "clips": setup.durations.label,
        "model": {"size": setup.size, "depth": setup.depth},
        "errors": [],
        **{part: [] for part in PARTS},
    }


if __name__ == "__main__":
    main()
