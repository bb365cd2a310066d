"""Kill commands at random moments, run them again, and compare every byte with a whole run.

    python -m benchmarks.kill_test --kills 20 --seed 0

``prep`` and ``train`` are started in processes of their own on toy data, killed, and started
again as a user would (``train`` with ``--resume`` once there is a run). One half of the moments
are drawn over the job's time, the other half over its file operations, because there the dangerous
moments lie close together: between two renames, or before a log and the state that it belongs to
agree. The first half hits the rest, such as a file half-written.

Only times are left out of the comparison: ``environment.json``, ``seconds``.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from elastictool.config.loader import load_run_config
from elastictool.data.options import PrepOptions
from elastictool.data.prepare import prepare
from elastictool.data.store import PreparedStore
from elastictool.training.run import resume_run, train_run

CONTEXT = multiprocessing.get_context("forkserver")
"""Processes that start at once, because a server that has imported everything forks them."""

FILE_EVENTS = frozenset(
    ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree")
)
"""Audit events of Python that stand for file operations."""

TRAINING = (
    "model.width=32",
    "model.heads=2",
    "model.depth=1",
    "model.dropout=0.1",
    "length.max_frames=128",
    "packing.batch_clips=6",
    "augment.length_diversity.share=0.5",
    "train.accumulate=2",
    "train.checkpoint_steps=2",
    "data.validation_fraction=0.2",
)


@dataclass(frozen=True)
class Job:
    """Something that is killed and run again.

    Attributes:
        name: For the report.
        run: Does the work in a folder, or continues it.
        content: What is to be equal: names to bytes.
    """

    name: str
    run: Callable[[Path], None]
    content: Callable[[Path], dict[str, bytes]]


@dataclass(frozen=True)
class Moment:
    """When to kill: at a file operation, counted from 1, or after ``seconds``."""

    operation: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        return f"operation {self.operation}" if self.operation else f"{self.seconds:.2f} s"


@dataclass(frozen=True)
class Trial:
    """Result of one kill.

    Attributes:
        moment: When.
        killed: Whether the job was still running then.
        differences: Files that are not as they should be after the second run, and its errors.
    """

    moment: Moment
    killed: bool
    differences: tuple[str, ...]


def main() -> None:
    """Kill, run again, compare and print; fail if anything differs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="kills of each job")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        jobs = (prep_job(clips=160), prep_job(clips=160, workers=2), train_job(root, clips=64))
        trials = {job.name: kill(job, root, args.kills, args.seed) for job in jobs}
    for name, found in trials.items():
        for trial in found:
            state = ", ".join(trial.differences) or "the same bytes"
            print(f"{name}: {'killed' if trial.killed else 'ended'} at {trial.moment}: {state}")
        same, killed = sum(not t.differences for t in found), sum(t.killed for t in found)
        print(f"{name}: {same} of {len(found)} the same ({killed} were killed before their end)")
    if any(trial.differences for found in trials.values() for trial in found):
        sys.exit(1)


def prep_job(clips: int, workers: int = 1) -> Job:
    """``prep`` of rendered clips."""
    return Job(
        f"prep with {workers} worker{'s' if workers > 1 else ''}",
        partial(_prepare, clips=clips, workers=workers),
        _files,
    )


def train_job(root: Path, clips: int, sets: Sequence[str] = ("train.epochs=4",)) -> Job:
    """``train`` on rendered clips that are prepared below ``root``."""
    store = prepare(PrepOptions("synth", out=root / "train-data", name="toy", limit=clips))
    return Job("train", partial(_train, data=store.path, sets=(*TRAINING, *sets)), _run_files)


def kill(job: Job, root: Path, kills: int, seed: int) -> list[Trial]:
    """Kill ``job`` at as many random moments, each time in a new folder below ``root``."""
    folder = root / job.name.replace(" ", "-")
    whole = folder / "whole" / "it"
    seconds, operations = _undisturbed(job, whole)
    expected = job.content(whole)
    rng = np.random.default_rng(seed)
    trials = []
    for number in range(kills):
        draw = float(rng.random())
        by_time = number >= kills - kills // 2
        moment = Moment(seconds=draw * seconds) if by_time else Moment(1 + int(draw * operations))
        trials.append(_trial(job, folder / str(number) / "it", moment, expected))
    return trials


def _trial(job: Job, root: Path, moment: Moment, expected: dict[str, bytes]) -> Trial:
    process = _start(job, root, moment)
    process.join(moment.seconds or None)
    process.kill()
    process.join()
    again = _start(job, root)
    again.join()
    found = job.content(root)
    wrong = [name for name in {*found, *expected} if found.get(name) != expected.get(name)]
    if again.exitcode:
        wrong.append((root.parent / "errors.txt").read_text())
    return Trial(moment, process.exitcode == -signal.SIGKILL, tuple(sorted(wrong)))


def _undisturbed(job: Job, root: Path) -> tuple[float, int]:
    """Return the seconds and file operations of a whole run."""
    counted = root.parent / "operations"
    root.parent.mkdir(parents=True)
    started = time.perf_counter()
    process = _start(job, root, counted=counted)
    process.join()
    if process.exitcode:
        raise RuntimeError(f"{job.name} fails undisturbed")
    return time.perf_counter() - started, int(counted.read_text())


def _start(
    job: Job, root: Path, moment: Moment = Moment(), counted: Path | None = None
) -> multiprocessing.process.BaseProcess:
    CONTEXT.set_forkserver_preload([__name__])
    process = CONTEXT.Process(target=_work, args=(job, root, moment.operation, counted))
    process.start()
    return process


def _work(job: Job, root: Path, last_operation: int, counted: Path | None) -> None:
    """Do the work in this process, and kill it at ``last_operation``."""
    torch.set_num_threads(1)
    root.mkdir(parents=True, exist_ok=True)
    with (root.parent / "errors.txt").open("w") as errors:  # joblib mourns each killed process
        os.dup2(errors.fileno(), sys.stderr.fileno())
    operations = _count_operations(last_operation)
    try:
        job.run(root)
        if counted:
            counted.write_text(str(operations()))
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)  # else idle workers of joblib would be waited for


def _count_operations(last: int) -> Callable[[], int]:
    """Count this process's file operations from here on, and kill it before operation ``last``."""
    process, count = os.getpid(), 0

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event in FILE_EVENTS and os.getpid() == process:
            count += 1
            if count == last:
                os.kill(process, signal.SIGKILL)

    sys.addaudithook(watch)
    return lambda: count


def _prepare(root: Path, clips: int, workers: int) -> None:
    prepare(PrepOptions("synth", out=root, name="toy", limit=clips, workers=workers))


def _train(root: Path, data: Path, sets: Sequence[str]) -> None:
    """Train, or resume what there is."""
    store = PreparedStore.open(data)
    if (root / "run" / "config.yaml").exists():
        resume_run(root / "run", store)
    else:
        train_run(load_run_config(None, list(sets)), store, root / "run")


def _files(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def _run_files(root: Path) -> dict[str, bytes]:
    """Return the files of a run without times."""
    files = _files(root)
    files.pop("run/environment.json", None)
    for name, content in files.items():
        if name.endswith(".jsonl"):
            files[name] = _timeless_lines(content)
        elif name.endswith(".training.pt"):
            files[name] = _timeless_state(content)
    return files


def _timeless_lines(content: bytes) -> bytes:
    records = [json.loads(line) for line in content.splitlines()]
    kept = [{key: value for key, value in r.items() if key != "seconds"} for r in records]
    return json.dumps(kept).encode()


def _timeless_state(content: bytes) -> bytes:
    """Return the contents of a training state without times and object identities."""
    state = torch.load(io.BytesIO(content), weights_only=True)
    del state["state"]["seconds"]
    return repr(_plain(state)).encode()


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return str(value.dtype), list(value.shape), value.numpy().tobytes()
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value


if __name__ == "__main__":
    main()
