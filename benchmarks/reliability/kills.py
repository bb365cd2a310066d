"""Kill commands at random moments, run them again, and compare every byte with a whole run.

    python -m benchmarks.reliability kills --kills 12 --seed 1

``prep``, ``train``, ``eval``, ``sweep`` and ``recipe run`` are started on toy data, killed, and
started again as a user would (``train`` with ``--resume`` once there is a run). A third of the
moments are drawn over the job's file operations, because there the dangerous moments lie close
together: between two renames, or before a log and the state that it belongs to agree. A third are
drawn over its time, which hits the rest, such as a file half-written; and a third over the time of
a whole process from its start. Some of the second runs are killed, too.

Only times are left out of the comparison: ``environment.json``, ``seconds``, dates on pages.
"""

from __future__ import annotations

import csv
import io
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.reliability.child import end_session, run_cli
from elastictool.data.options import PrepOptions
from elastictool.data.prepare import prepare

CONTEXT = multiprocessing.get_context("forkserver")
"""Processes that start at once, because a server that has imported everything forks them."""
PRELOADED = [__name__, "elastictool.cli.app", "elastictool.training.run", "torch._dynamo",
             "elastictool.evaluation.sweep", "elastictool.reporting.run_report"]  # fmt: skip

FILE_EVENTS = frozenset(
    ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree")
)
"""Audit events of Python that stand for file operations."""
ORPHANS_S = 10.0
"""Seconds within which the workers of a killed process have to end."""
AGAIN = 0.3
"""Share of the second runs that are killed, too."""

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
TIMES = re.compile(rb"\d{4}-\d\d-\d\d[T\d:+]*|\b[\d.,]+ s\b|<tr><td>command</td>.*")
NOT_COMPARED = ("environment.json", "lock", ".lock")
TIME_KEYS = ("seconds", "date", "load_average")
RECIPE = "elasticast/table1_pooling"


def nothing(root: Path) -> None:
    """Begin in an empty folder."""


def same_line(root: Path, line: tuple[str, ...]) -> tuple[str, ...]:
    """Start again with the same command."""
    return line


def resumed(root: Path, line: tuple[str, ...]) -> tuple[str, ...]:
    """Start again with ``--resume`` once there is a run."""
    there = (root / "run" / "config.yaml").exists()
    return ("train", "--resume", "--run-dir", "run") if there else line


@dataclass(frozen=True)
class Job:
    """A command that is killed and run again.

    Attributes:
        name: For the report.
        line: The command, without ``elastictool``.
        begin: Fills the folder that it starts in.
        again: The command that continues what there is.
    """

    name: str
    line: tuple[str, ...]
    begin: Callable[[Path], None] = nothing
    again: Callable[[Path, tuple[str, ...]], tuple[str, ...]] = same_line


@dataclass(frozen=True)
class Moment:
    """When to kill: at a file operation, counted from 1, or after ``seconds``.

    With ``from_start`` the seconds are those of a process that begins with Python's start.
    """

    operation: int = 0
    seconds: float = 0.0
    from_start: bool = False

    def __str__(self) -> str:
        since = " from the start" if self.from_start else ""
        return f"operation {self.operation}" if self.operation else f"{self.seconds:.2f} s{since}"


@dataclass(frozen=True)
class Trial:
    """Result of one kill, or of two.

    Attributes:
        moments: When.
        kills: How often the job was still running then.
        orphans: Whether processes that it had started were still running ``ORPHANS_S`` later.
        differences: Files that are not as they should be after the last run, and its errors.
    """

    moments: tuple[Moment, ...]
    kills: int
    orphans: bool
    differences: tuple[str, ...]

    @property
    def survived(self) -> bool:
        """Whether all is as if nothing had happened."""
        return not self.orphans and not self.differences


def measure(kills: int, seed: int, names: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Kill each job that often; print each trial and return a row for each job."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for job in all_jobs(Path(folder)):
            if names and job.name not in names:
                continue
            trials = kill(job, Path(folder), kills, seed)
            for trial in trials:
                moments = " and ".join(map(str, trial.moments))
                state = ", ".join(trial.differences) or "the same bytes"
                orphans = ", orphans" if trial.orphans else ""
                print(f"{job.name}: killed {trial.kills}x at {moments}: {state}{orphans}")
            rows.append(
                {
                    "job": job.name,
                    "trials": len(trials),
                    "kills": sum(trial.kills for trial in trials),
                    "same_bytes": sum(not trial.differences for trial in trials),
                    "orphans": sum(trial.orphans for trial in trials),
                }
            )
    return rows


def all_jobs(root: Path) -> Iterable[Job]:
    """Return every job; data and runs that they need are made below ``root``."""
    yield prep_job(clips=160)
    yield prep_job(clips=160, workers=2)
    train = train_job(root, clips=64)
    yield train
    whole = root / "trained"
    whole.mkdir()
    _finish(_start(train, whole), "train")
    copy = partial(_copied, run=whole / "run")
    yield Job("eval", ("eval", "run"), copy)
    yield Job("sweep", ("sweep", "run", "--lengths", "32:128:32", "--overwrite"), copy)
    yield Job("recipe run", ("recipe", "run", RECIPE, "--scale", "smoke"))


def prep_job(clips: int, workers: int = 1) -> Job:
    """``prep`` of rendered clips."""
    name = f"prep with {workers} worker{'s' if workers > 1 else ''}"
    line = ("prep", "--limit", str(clips), "--out", "data", "--workers", str(workers))
    return Job(name, line)


def train_job(root: Path, clips: int, sets: Sequence[str] = ("train.epochs=4",)) -> Job:
    """``train`` on rendered clips that are prepared below ``root``."""
    store = prepare(PrepOptions("synth", out=root / "train-data", name="toy", limit=clips))
    settings = [part for text in (*TRAINING, *sets) for part in ("--set", text)]
    line = ("train", "--dataset", str(store.path), "--run-dir", "run", *settings)
    return Job("train", line, again=resumed)


def _copied(root: Path, run: Path) -> None:
    shutil.copytree(run, root / "run")


def kill(job: Job, root: Path, kills: int, seed: int) -> list[Trial]:
    """Try a number of random moments, each in a new folder below ``root``."""
    folder = root / job.name.replace(" ", "-")
    whole = folder / "whole" / "it"
    seconds, operations = _undisturbed(job, whole)
    expected = content(whole)
    started = _seconds_of_process(job, folder / "process" / "it")
    rng = np.random.default_rng([seed, *job.name.encode()])

    def at_operation() -> Moment:
        return Moment(1 + int(float(rng.random()) * operations))

    trials = []
    for number in range(kills):
        first = at_operation()
        if 3 * number // kills == 1:
            first = Moment(seconds=float(rng.random()) * seconds)
        elif 3 * number // kills == 2:
            first = Moment(seconds=float(rng.random()) * started, from_start=True)
        second = (at_operation(),) if rng.random() < AGAIN else ()
        trials.append(_trial(job, folder / str(number) / "it", (first, *second), expected))
    return trials


def _trial(job: Job, root: Path, moments: tuple[Moment, ...], expected: dict[str, bytes]) -> Trial:
    kills, orphans = 0, False
    root.mkdir(parents=True)
    job.begin(root)
    for moment in moments:
        killed, orphaned = _kill_at(job, root, moment)
        kills, orphans = kills + killed, orphans or orphaned
    again = _start(job, root)
    again.join()
    found = content(root)
    wrong = [name for name in {*found, *expected} if found.get(name) != expected.get(name)]
    if again.exitcode:
        wrong.append((root.parent / "errors.txt").read_text())
    return Trial(moments, kills, orphans, tuple(sorted(wrong)))


def _kill_at(job: Job, root: Path, moment: Moment) -> tuple[bool, bool]:
    """Start the job and kill it; return whether it still ran, and whether workers outlived it."""
    if moment.from_start:
        process = _command(job, root)
        try:
            process.wait(moment.seconds)
        except subprocess.TimeoutExpired:
            process.kill()
        return process.wait() == -signal.SIGKILL, end_session(process.pid, ORPHANS_S)
    child = _start(job, root, moment)
    child.join(moment.seconds or None)
    child.kill()
    child.join()
    return child.exitcode == -signal.SIGKILL, end_session(child.pid or 0, ORPHANS_S)


def _undisturbed(job: Job, root: Path) -> tuple[float, int]:
    """Return the seconds and file operations of a whole run."""
    counted = root.parent / "operations"
    root.mkdir(parents=True)
    job.begin(root)
    started = time.perf_counter()
    _finish(_start(job, root, counted=counted), job.name)
    return time.perf_counter() - started, int(counted.read_text())


def _seconds_of_process(job: Job, root: Path) -> float:
    """Return the seconds of a whole run from Python's start on."""
    root.mkdir(parents=True)
    job.begin(root)
    started = time.perf_counter()
    _command(job, root).wait()
    return time.perf_counter() - started


def _finish(process: multiprocessing.process.BaseProcess, name: str) -> None:
    process.join()
    if process.exitcode:
        raise RuntimeError(f"{name} fails undisturbed")


def _command(job: Job, root: Path) -> subprocess.Popen[bytes]:
    """Start the job as a user does, in a session of its own."""
    source = Path(__file__).resolve().parents[2]
    return subprocess.Popen(
        [sys.executable, "-m", "elastictool", *job.again(root, job.line)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _start(
    job: Job, root: Path, moment: Moment = Moment(), counted: Path | None = None
) -> multiprocessing.process.BaseProcess:
    CONTEXT.set_forkserver_preload(PRELOADED)
    line = job.again(root, job.line)
    process = CONTEXT.Process(target=_work, args=(line, root, moment.operation, counted))
    process.start()
    return process


def _work(line: Sequence[str], root: Path, last_operation: int, counted: Path | None) -> None:
    """Run the command in this process, and kill it at ``last_operation``."""
    os.setsid()
    os.chdir(root)
    multiprocessing.set_start_method(None, force=True)  # workers start as from a terminal
    torch.set_num_threads(1)
    with (root.parent / "errors.txt").open("w") as errors:  # joblib mourns each killed process
        os.dup2(errors.fileno(), sys.stderr.fileno())
        os.dup2(errors.fileno(), sys.stdout.fileno())
    operations = _count_operations(last_operation)
    code = 1
    try:
        run_cli(list(line))
    except SystemExit as left:
        code = int(left.code or 0)
    except BaseException:
        traceback.print_exc()
    if counted:
        counted.write_text(str(operations()))
    os._exit(code)  # else idle workers of joblib would be waited for


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


def content(root: Path) -> dict[str, bytes]:
    """Return the bytes of all files below ``root``, without times."""
    files = {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not path.name.startswith(NOT_COMPARED)
    }
    return {name: _timeless(name, found) for name, found in files.items()}


def _timeless(name: str, found: bytes) -> bytes:
    if name.endswith(".training.pt"):
        state = torch.load(io.BytesIO(found), weights_only=True)
        return repr(_plain(_without_times(state))).encode()
    if name.endswith((".json", ".jsonl")):
        lines = found.splitlines() if name.endswith("l") else [found]
        return json.dumps([_without_times(json.loads(line)) for line in lines]).encode()
    if name.endswith(".csv"):
        rows = csv.DictReader(io.StringIO(found.decode()))
        return json.dumps([_without_times(row) for row in rows]).encode()
    return TIMES.sub(b"", found) if name.endswith((".html", ".md")) else found


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_times(v) for k, v in value.items() if not str(k).endswith(TIME_KEYS)}
    return [_without_times(inner) for inner in value] if isinstance(value, list) else value


def _plain(value: Any) -> Any:
    """Return the contents of a training state without object identities."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), list(value.shape), value.numpy().tobytes()
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value
