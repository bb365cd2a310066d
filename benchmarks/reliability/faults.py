"""Run every command while the system around it fails.

    python -m benchmarks.reliability faults

Each command must end by itself: done, or with a message and an exit code, never with a traceback.
After a fault that ended it, the same command must succeed once the fault is gone.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.reliability.child import Ended, end_session, fresh, run, run_cli, run_line
from benchmarks.reliability.readers import EXIT_CODES, Material

LIMIT_S = 60.0
PRELOADED = (
    "elastictool.cli.app", "elastictool.evaluation.evaluate", "elastictool.evaluation.sweep",
    "elastictool.evaluation.tokens", "elastictool.inference.model", "elastictool.recipes.run",
    "elastictool.reporting.run_report", "elastictool.training.run", "scipy.special",
    "matplotlib.backends.backend_agg", "torch._dynamo",
)  # fmt: skip
SMALL = "--set model.width=32 --set model.heads=2 --set model.depth=1 --set length.max_frames=128"
COMMANDS = {
    "prep": "prep --dataset csv --root toy.csv --out data --name new --workers 1",
    "train": f"train --dataset toy --run-dir new {SMALL} --set train.epochs=2",
    "resume": "train --resume --run-dir run --dataset toy --set train.epochs=3",
    "eval": "eval run --dataset toy",
    "sweep": "sweep run --dataset toy --lengths 32,64 --overwrite",
    "predict": "predict wav --run run --timeline lines --format csv",
    "embed": "embed wav --run run --out vectors.npz",
    "tokens": "tokens --dataset toy --batch-size 4",
    "data export": "data export toy --out files",
    "data verify": "data verify toy",
    "convert": "convert run --from run --out new.safetensors",
    "runs": "runs list --root .",
    "recipe run": "recipe run table1_token_usage --scale smoke --out recipes",
}
"""Commands, started in a folder of ``Material``."""
IN_THE_WAY = ("--resume", "is not empty")
"""Messages of a second run about what the first one left: a run, a folder of files."""
DONE, REFUSED, WRONG = "done", "refused", "wrong"


@dataclass(frozen=True)
class Fault:
    """Something that fails around a command.

    Attributes:
        name: What fails.
        inject: Called in the command's process before it begins.
        spoil: Changes the folder before; returns what puts it right.
        environment: Variables of a process of its own, from Python's start; None removes one.
        redirect: Redirections of a shell, for a process of its own.
        commands: Those that it concerns; all if left out.
        must_work: Whether the command has to succeed nevertheless.
    """

    name: str
    inject: Callable[[], None] = lambda: None
    spoil: Callable[[Path], Callable[[], object]] | None = None
    environment: Mapping[str, str | None] = field(default_factory=dict)
    redirect: str = ""
    commands: tuple[str, ...] = tuple(COMMANDS)
    must_work: bool = False


def measure(names: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Inject every fault into every command; print what goes wrong and return a row for each."""
    torch.set_num_threads(1)
    for module in PRELOADED:  # else a lack of memory or of files would meet an import first
        importlib.import_module(module)
    counts: dict[str, Counter[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        material = Material.make(Path(folder, "material"))
        for fault in FAULTS:
            if names and fault.name not in names:
                continue
            for command in fault.commands:
                found, why = outcome(fault, command, material, Path(folder, "work"))
                counts.setdefault(fault.name, Counter())[found] += 1
                if found == WRONG:
                    print(f"{fault.name}, {command}: {why}", flush=True)
    return [
        {"fault": name, "cases": counted.total()} | {k: counted[k] for k in (DONE, REFUSED, WRONG)}
        for name, counted in counts.items()
    ]


def outcome(fault: Fault, command: str, material: Material, work: Path) -> tuple[str, str]:
    """Return what a command comes to under a fault, and why if that is wrong."""
    fresh(work)
    shutil.copytree(material.folder, work, dirs_exist_ok=True)
    line = COMMANDS[command].split()
    mend = fault.spoil(work) if fault.spoil else lambda: None
    try:
        if fault.environment or fault.redirect:
            ended = _process(line, work, fault)
        else:
            ended = run(partial(_injected, fault.inject, line), work, limit_s=LIMIT_S)
    finally:
        mend()
    shown = " ".join(ended.shown.split())[-400:]
    if ended.hung or ended.orphans or "Traceback (most recent" in ended.shown:
        return WRONG, f"hung: {ended.hung}, orphans: {ended.orphans}: {shown}"
    quiet = ended.code in (-signal.SIGPIPE, 128 + signal.SIGPIPE)
    if ended.code not in EXIT_CODES and not quiet:
        return WRONG, f"exit code {ended.code}: {shown}"
    if ended.code in (0, 3):
        return DONE, ""
    if fault.must_work:
        return WRONG, f"exit code {ended.code}: {shown}"
    if not quiet and "2>" not in fault.redirect and not ended.shown.strip():
        return WRONG, f"exit code {ended.code} without a message"
    again = run_line(line, work, limit_s=LIMIT_S)
    if again.code and not any(text in again.shown for text in IN_THE_WAY):
        return WRONG, f"the second run: exit code {again.code}: {again.shown[-300:]}"
    return REFUSED, ""


def _injected(inject: Callable[[], None], line: list[str]) -> None:
    inject()
    run_cli(line)


def _process(line: Sequence[str], work: Path, fault: Fault) -> Ended:
    """Run a command in a process of its own, from Python's start."""
    source = str(Path(__file__).resolve().parents[2])
    given: dict[str, str | None] = {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"}
    variables = {k: v for k, v in (given | dict(fault.environment)).items() if v is not None}
    command = f'exec "$0" -m elastictool "$@" {fault.redirect}'
    begun = time.perf_counter()
    process = subprocess.Popen(
        ["sh", "-c", command, sys.executable, *line],
        cwd=work,
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    hung = False
    try:
        out, err = process.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        hung = True
    return Ended(
        process.returncode, out.decode("utf-8", "replace"), err.decode("utf-8", "replace"),
        time.perf_counter() - begun, 0.0, hung, end_session(process.pid, 5.0),
    )  # fmt: skip


# What fails ------------------------------------------------------------------------------------


def files_up_to(size: int) -> None:
    """Let no file become larger: writing fails as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)


def nearly_full(work: Path, left_kb: int) -> Callable[[], object]:
    """Put the folder on a disk of its own with little room."""
    with tempfile.TemporaryDirectory() as copy:
        shutil.copytree(work, Path(copy, "it"))
        shutil.rmtree(work)
        work.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(work)]
        subprocess.run(mount, check=True, capture_output=True)
        shutil.copytree(Path(copy, "it"), work, dirs_exist_ok=True)
    free = shutil.disk_usage(work).free - left_kb * 1_024
    (work / "ballast").write_bytes(bytes(max(0, free)))

    def mend() -> None:
        with tempfile.TemporaryDirectory() as copy:
            (work / "ballast").unlink()
            shutil.copytree(work, Path(copy, "it"))
            subprocess.run(["umount", "-l", str(work)], check=True)
            shutil.copytree(Path(copy, "it"), work, dirs_exist_ok=True)

    return mend


def can_mount() -> bool:
    """Return whether this process may mount a disk in memory."""
    with tempfile.TemporaryDirectory() as folder:
        mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder]
        with suppress(OSError):
            if subprocess.run(mount, capture_output=True, check=False).returncode == 0:
                return subprocess.run(["umount", folder], check=False).returncode == 0
    return False


def ordinary_rights() -> None:
    """Give up the rights of an administrator, whom no file's mode keeps out."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    ctypes.CDLL(None, use_errno=True).capset(header, (ctypes.c_uint32 * 6)())


def without_rights(work: Path, pattern: str, mode: int) -> Callable[[], object]:
    """Take rights from the files of a pattern; returns what gives them back."""
    found = sorted(work.glob(pattern)) if pattern else [work]
    changed = {path: path.stat().st_mode for path in found}
    for path in reversed(changed):
        path.chmod(mode)

    def mend() -> None:
        for path, before in changed.items():
            path.chmod(before)

    return mend


def few_files(more: int) -> None:
    """Allow a few more open files; gaps between the numbers of open ones are filled."""
    last = max(int(name) for name in os.listdir("/proc/self/fd"))
    opened = 0
    while opened < last:
        opened = os.open(os.devnull, os.O_RDONLY)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (opened + 1 + more, hard))


def little_memory(more_mb: int) -> None:
    """Allow some more memory."""
    with open("/proc/self/statm", encoding="ascii") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (more_mb << 20), resource.RLIM_INFINITY))


def broken_pipe(stream: int) -> None:
    """Let a stream be a pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    os.dup2(writer, stream)


def full_device(stream: int) -> None:
    """Let a stream be a device without room."""
    os.dup2(os.open("/dev/full", os.O_WRONLY), stream)


def clock_backwards() -> None:
    """Let every look at the clock show an hour less than the one before."""
    begin, looks = time.time(), 0

    def now() -> float:
        nonlocal looks
        looks += 1
        return begin - 3_600.0 * looks

    time.time = now
    time.time_ns = lambda: int(now() * 1e9)


def _folder_gone() -> None:
    """Let the current folder be one that was deleted."""
    place = tempfile.mkdtemp()
    os.chdir(place)
    os.rmdir(place)


def _unreadable(what: str, pattern: str, *commands: str) -> Fault:
    spoil = partial(without_rights, pattern=pattern, mode=0)
    return Fault(f"unreadable {what}", ordinary_rights, spoil, commands=commands)


WITH_DATA = ("train", "resume", "eval", "sweep", "tokens", "data export", "data verify")
WITH_RUN = ("resume", "eval", "sweep", "predict", "embed", "convert", "runs")
SLOW = ("prep", "train", "eval", "predict", "runs")
"""Commands for faults that need a process of its own."""
WRITING = tuple(name for name in COMMANDS if name not in ("tokens", "data verify", "runs"))

FAULTS: tuple[Fault, ...] = (
    *(
        Fault("files may not grow (RLIMIT_FSIZE)", partial(files_up_to, size), commands=WRITING)
        for size in (0, 100, 3_000, 12_000, 60_000)
    ),
    *(
        Fault("full disk", spoil=partial(nearly_full, left_kb=size), commands=WRITING)
        for size in ((0, 8, 40, 150, 400) if can_mount() else ())
    ),
    *(
        Fault("folder that may only be read", ordinary_rights,
              partial(without_rights, pattern=pattern, mode=0o500), commands=WRITING)
        for pattern in ("", "run")
    ),
    _unreadable("recordings", "wav/[0-3].wav", "prep", "predict", "embed"),
    _unreadable("folder of recordings", "wav", "prep", "predict", "embed"),
    _unreadable("table", "toy.csv", "prep"),
    _unreadable("shards", "toy/*.arrow", *WITH_DATA),
    _unreadable("dataset.json", "toy/dataset.json", *WITH_DATA),
    _unreadable("weights", "run/checkpoints/*", *WITH_RUN),
    _unreadable("config.yaml", "run/config.yaml", *WITH_RUN),
    _unreadable("metrics.jsonl", "run/metrics.jsonl", *WITH_RUN),
    *(Fault("too many open files", partial(few_files, more)) for more in (0, 2, 4, 8)),
    *(Fault("no memory", partial(little_memory, more)) for more in (1, 16, 64, 160)),
    Fault("broken pipe on stdout", partial(broken_pipe, 1)),
    Fault("broken pipe on stderr", partial(broken_pipe, 2)),
    Fault("stdout into a full device", partial(full_device, 1)),
    Fault("clock that goes backwards", clock_backwards, must_work=True),
    Fault("folder that was deleted", _folder_gone),
    *(
        Fault("no HOME", environment={"HOME": home}, commands=SLOW, must_work=True)
        for home in (None, "/nonexistent", "/dev/null")
    ),
    Fault("no TMPDIR", environment={"TMPDIR": "/nonexistent"}, commands=SLOW, must_work=True),
    *(
        Fault("locale that is not UTF-8", must_work=True, commands=SLOW,
              environment={"LC_ALL": name, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"})
        for name in ("C", "POSIX", "xx_YY.ISO-8859-15")
    ),
    Fault("closed stdin", redirect="<&-", commands=SLOW, must_work=True),
    Fault("closed stdout", redirect=">&-", commands=SLOW),
    Fault("closed stderr", redirect="2>&-", commands=SLOW),
)  # fmt: skip
