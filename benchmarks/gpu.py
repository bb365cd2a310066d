"""Check on a GPU that the CUDA paths agree with ``reference``, and measure their speed.

    python -m benchmarks.gpu --json docs/results/gpu.json [--minutes 7] [--quick]

One command, meant for eight minutes of one GPU; jobs in the order of what must not be missing:
first agreement (logits, gradients, segments that never mix, features of the device), then the
base model in training (bf16, compiled, long streams) against a measured matrix-product peak, the
dense mask, the input's share of a step, the loader against the step, memory against
tokens, attention alone, a short run of the trainer. The document has device, versions and
source revision, and ``docs/performance.md`` is made from it. ``--device cpu --quick`` runs the same
jobs without a GPU, to see that the script works.

A job that fails or comes too late is noted under ``errors`` and the next one runs; the document is
written before and after each. Jobs run in a child process, because after one illegal access CUDA
refuses everything else to the process: when the device no longer responds, or the process dies or
hangs, another one continues with the same document. A started job is never started again, so this
ends.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import json
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_jobs import Job, Rows, Setup, all_jobs
from elastictool.checkpoint.run_directory import git_revision
from elastictool.evaluation.bench.timing import environment
from elastictool.evaluation.bench.workload import epic_like
from elastictool.evaluation.durations import read_durations
from elastictool.utils.io import write_json

PARTS = (
    "agreement", "features", "training", "dense_mask", "input", "loader", "memory", "attention",
    "trainer",
)  # fmt: skip
COMPARISONS = ("agreement", "features")
"""Parts whose rows record whether they agree."""
HANGS_S = 180.0
"""A job that takes so long on a GPU hangs: the longest compile and measure for a minute or two."""
GRACE_S = 45.0
"""A job that began in time may take so much longer."""

Document = dict[str, Any]


@dataclass
class Session:
    """Runs jobs and collects their results.

    Attributes:
        document: What is written.
        path: Where to.
        limit_s: Seconds after which no job starts.
        since: Unix time of the beginning, in the first process.
        works: Whether the device still works.
        patience_s: Seconds after which a job is given up and its process ends; 0 for no limit.
        stopped: Why no more jobs are to begin.
    """

    document: Document
    path: Path
    limit_s: float
    since: float = field(default_factory=time.time)
    works: Callable[[], bool] = lambda: True
    patience_s: float = 0.0
    stopped: str = ""

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.time() - self.since

    def run(self, job: Job) -> bool:
        """Run a job that has not started; return whether this process can run another."""
        if job.name in self.document["jobs"]:
            return True
        why = "the time is up" if self.seconds > self.limit_s else self.stopped
        if why:
            fail(self.document, job.name, f"left out: {why}")
            self.write()
            return True
        self.document["jobs"][job.name] = "started"
        self.write()
        if self.patience_s:
            faulthandler.dump_traceback_later(self.patience_s, exit=True)
        self._try(job)
        gc.collect()
        alive = self.works()
        faulthandler.cancel_dump_traceback_later()
        if not alive and self.document["jobs"][job.name] == "done":
            fail(self.document, job.name, "the device does not answer after it")
        self.write()
        return alive

    def write(self) -> None:
        """Write the current document."""
        self.document["seconds"] = round(self.seconds, 1)
        write_json(self.path, self.document)

    def _try(self, job: Job) -> None:
        begin = self.seconds
        try:
            rows: Rows = job.measure()
        # Anything may go wrong in code that has never met this device, and there may be no
        # second chance: what the other jobs find must not be lost.
        except Exception as error:
            traceback.print_exc()
            fail(self.document, job.name, f"{type(error).__name__}: {str(error)[:500]}")
        else:
            self.document["jobs"][job.name] = "done"
            self.document[job.part] += rows
            print(f"[{self.seconds:5.0f} s] {job.name}: {self.seconds - begin:.1f} s")
            print(*rows, sep="\n", flush=True)


def fail(document: Document, name: str, why: str) -> None:
    """Record that a job has no result."""
    part, _, label = name.partition(": ")
    document["jobs"][name] = "failed"
    document["errors"].append({"part": part, "job": label, "error": why})
    if part in COMPARISONS:  # what could not be compared does not agree
        document[part].append({"job": label, "agrees": False, "error": why})
    print(f"{name}: {why}", flush=True)


def device_works(device: torch.device) -> bool:
    """Return whether the device still works in this process."""
    if device.type != "cuda":
        return True
    try:
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
    except RuntimeError:
        return False
    return True


def main() -> None:
    """Check, measure, print, and write the document."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the measurements to this file")
    parser.add_argument("--durations", type=Path, help="CSV of clips' durations")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=7.0, help="begin no job after these")
    parser.add_argument("--quick", action="store_true", help="tiny model, few clips")
    parser.add_argument("--revision", help="of the source, where it lies without its repository")
    parser.add_argument("--since", type=float, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.since is not None:
        work(args)
        return
    with tempfile.TemporaryDirectory() as folder:
        document = supervise(args.json or Path(folder) / "gpu.json", 60 * args.minutes)
    failed = [row for part in COMPARISONS for row in document[part] if not row["agrees"]]
    print(
        f"{document['seconds']:.0f} s, {len(failed)} disagreements, "
        f"{len(document['errors'])} without result"
    )
    if failed or not all(document[part] for part in COMPARISONS):
        raise SystemExit(f"{len(failed)} disagreements with reference, or nothing compared")


def supervise(path: Path, limit_s: float) -> Document:
    """Run processes one after the other until every job has run; return the document.

    Each but the last starts a job that no other has started, so their number is limited.
    """
    since, started = time.time(), -1
    while True:
        code = run_child(path, since, limit_s)
        document = _own_document(path, since)
        if document is None:
            raise SystemExit(f"no document was started ({code})")
        open_jobs = [name for name, state in document["jobs"].items() if state == "started"]
        for name in open_jobs:
            fail(document, name, f"its process ended ({code})")
        over = document["ended"] or time.time() - since > limit_s
        if not over and len(document["jobs"]) > started:
            started = len(document["jobs"])
            write_json(path, document)
            continue
        if not document["ended"]:
            why = f"left out: the time is up, or no process begins a job ({code})"
            document["errors"].append({"part": "all", "job": "what is missing", "error": why})
        write_json(path, document)
        return document


def run_child(path: Path, since: float, limit_s: float) -> str:
    """Run this command in a process that runs jobs; return its exit code."""
    command = [sys.executable, *sys.orig_argv[1:], "--json", str(path), "--since", repr(since)]
    left_s = limit_s + GRACE_S - (time.time() - since)
    try:
        return f"exit code {subprocess.run(command, timeout=max(left_s, 1.0)).returncode}"
    except subprocess.TimeoutExpired:
        return "stopped: the time is up"


def _own_document(path: Path, since: float) -> Document | None:
    """Return the document that the processes of this run have written; None without one."""
    if not path.exists():
        return None
    document: Document = json.loads(path.read_text("utf-8"))
    return document if document.get("since") == since else None


def work(args: argparse.Namespace) -> None:
    """Run the jobs that have not started, until all are done or the device fails."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    durations = read_durations(args.durations) if args.durations else epic_like(4_096)
    setup = Setup(torch.device(args.device), durations, args.quick)

    def works() -> bool:
        return device_works(setup.device)

    continued = _own_document(args.json, args.since)
    session = Session(
        continued or new_document(setup, args),
        args.json,
        60 * args.minutes,
        args.since,
        works,
        HANGS_S if setup.device.type == "cuda" else 0.0,
    )
    if continued and not works():
        session.stopped = "the device does not answer a fresh process either"
    session.write()
    for job in all_jobs(setup, session.document["training"]):
        if not session.run(job):
            raise SystemExit("the device no longer responds, the rest runs in a fresh process")
    session.document["ended"] = True
    session.write()


def new_document(setup: Setup, args: argparse.Namespace) -> Document:
    """Return the document before the first job."""
    facts: dict[str, Callable[[], Any]] = {
        "name": torch.cuda.get_device_name,
        "capability": torch.cuda.get_device_capability,
        "memory_gb": lambda: torch.cuda.get_device_properties(0).total_memory / 1e9,
    }
    there = setup.device.type == "cuda"
    made_on = environment() | {"cuda": torch.version.cuda}
    return {
        "command": "python -m benchmarks.gpu" + (" --quick" if args.quick else ""),
        # A GPU that was there and not used has shown nothing.
        "environment": made_on if there else made_on | {"gpu": None},
        "git_revision": args.revision or git_revision(),
        "gpu": {name: look() for name, look in facts.items()} if there else None,
        "device": setup.device.type,
        "clips": setup.durations.label,
        "model": {"size": setup.size, "depth": setup.depth, "attention": setup.fastest},
        "since": args.since,
        "ended": False,
        "jobs": {},
        "errors": [],
        **{part: [] for part in PARTS},
    }


if __name__ == "__main__":
    main()
