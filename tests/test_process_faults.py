"""Faults that strike whole processes: full disks, no memory, signals to groups, kill -9."""

from __future__ import annotations

import errno
import os
import pickle
import random
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch

from benchmarks.reliability.kills import kill, prep_job, train_job
from elastictool.data.options import PrepOptions
from elastictool.data.prepare import prepare
from elastictool.data.store import PreparedStore
from elastictool.training import trainer
from elastictool.training.run import resume_run, train_run
from elastictool.training.state import load_training_state, save_training_state
from elastictool.utils.errors import (
    ElasticToolError,
    LoaderError,
    WriteError,
    from_system,
    write_error,
)
from elastictool.utils.io import append_line, atomic_path, remove_temporaries, write_text
from tests.helpers.children import Child, run
from tests.helpers.files import content
from tests.helpers.saved_runs import save_run
from tests.helpers.training import SMALL, same, small, weights


def sets(*more: str) -> list[str]:
    return [part for text in (*SMALL, *more) for part in ("--set", text)]


def limit_files(size: int) -> None:
    """From here on no file may become larger: writing fails as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


# Full disks


def no_room_after_the_first_epoch() -> None:
    def save_and_fill(*arguments: Any) -> None:
        save_training_state(*arguments)
        limit_files(10_000)

    trainer.save_training_state = save_and_fill


def test_a_full_disk_in_training_leaves_the_last_state_and_resumes_when_there_is_room(
    toy_store: PreparedStore, tmp_path: Path
) -> None:
    options = ("--dataset", toy_store.path, "--run-dir", "run", *sets())
    child = run(tmp_path, "train", *options, before=no_room_after_the_first_epoch)
    assert child.process.exitcode == 1
    shown = child.shown()
    assert "cannot write run/checkpoints/last.safetensors: File too large" in shown
    assert "ulimit -f" in shown and "--resume --run-dir run" in shown
    assert "Traceback" not in shown
    assert not list((tmp_path / "run").rglob("*.tmp"))
    state = load_training_state(tmp_path / "run" / "checkpoints" / "last.training.pt")
    assert state["state"]["epoch"] == 1
    train_run(small(), toy_store, tmp_path / "whole")
    resume_run(tmp_path / "run", toy_store)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "run"))


def hardly_any_room() -> None:
    limit_files(100)


@pytest.mark.slow
def test_a_disk_that_is_full_from_the_start_leaves_nothing_in_the_way(
    toy_store: PreparedStore, tmp_path: Path
) -> None:
    options = ("train", "--dataset", toy_store.path, "--run-dir", "run", *sets("train.epochs=1"))
    child = run(tmp_path, *options, before=hardly_any_room)
    assert child.process.exitcode == 1 and "cannot write run/config.yaml" in child.shown()
    assert run(tmp_path, *options).process.exitcode == 0


def room_for_no_shard() -> None:
    limit_files(300_000)


def test_a_full_disk_in_prep_keeps_finished_shards_and_continues_to_the_same_bytes(
    tmp_path: Path,
) -> None:
    options = ("prep", "--out", "out", "--limit", 60, "--workers", 1)
    child = run(tmp_path / "a", *options, before=room_for_no_shard)
    shown = child.shown()
    assert child.process.exitcode == 1 and "Traceback" not in shown
    assert "cannot write out/synth/shard-0000" in shown and "File too large" in shown
    assert "the same command continues" in shown
    assert not list((tmp_path / "a").rglob("*.tmp"))
    again = prepare(PrepOptions("synth", out=tmp_path / "a" / "out", limit=60))
    assert content(again.path) == content(
        prepare(PrepOptions("synth", out=tmp_path / "b", limit=60)).path
    )


@pytest.mark.parametrize("command", ["eval", "sweep"])
def test_a_full_disk_leaves_earlier_results_as_they_were(
    toy_store: PreparedStore, tmp_path: Path, command: str
) -> None:
    save_run(tmp_path / "run", toy_store)
    options = [command, "run", "--dataset", toy_store.path]
    options += ["--lengths", "64"] if command == "sweep" else []
    assert run(tmp_path, *options).process.exitcode == 0
    before = content(tmp_path / "run")
    child = run(tmp_path, *options, before=hardly_any_room)
    assert child.process.exitcode == 1 and "Traceback" not in child.shown()
    assert "cannot write" in child.shown() and "File too large" in child.shown()
    assert content(tmp_path / "run") == before


def full_output() -> None:
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)


def test_output_into_a_full_disk_is_a_clear_error(tmp_path: Path) -> None:
    child = run(tmp_path, "tokens", "--json", before=full_output)
    assert child.process.exitcode == 1
    assert "the disk is full" in child.shown() and "Traceback" not in child.shown()


def close_output() -> None:
    os.close(1)
    sys.stdout = None  # type: ignore[assignment]


@pytest.mark.parametrize("form", ["table", "csv", "json"])
def test_predictions_into_a_closed_stream_are_dropped(
    toy_store: PreparedStore, tmp_path: Path, form: str
) -> None:
    save_run(tmp_path / "run", toy_store)
    soundfile.write(tmp_path / "a.wav", toy_store.waveform(0), 16_000)
    line = ("predict", "a.wav", "--run", "run", "--format", form, "--timeline", "lines")
    child = run(tmp_path, *line, before=close_output)
    assert child.process.exitcode == 0, child.shown()
    assert len(list((tmp_path / "lines").iterdir())) == 2  # PNG and SVG


@pytest.mark.parametrize(
    ("number", "hint"),
    [
        (errno.ENOSPC, "disk is full"),
        (errno.EDQUOT, "quota"),
        (errno.EFBIG, "ulimit"),
        (errno.EROFS, "only be read"),
        (errno.EACCES, "no right"),
    ],
    ids=errno.errorcode.get,
)
def test_each_disk_error_is_reported_and_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, hint: str
) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(WriteError, match=os.strerror(number)) as caught, atomic_path(path) as new:
        new.write_text("new")
    assert hint in caught.value.hint and str(path) in caught.value.message
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]
    found = from_system(OSError(number, os.strerror(number), "out.json"))
    assert found is not None and "out.json" in found.message and found.exit_code == 1


def test_our_own_errors_are_not_system_errors() -> None:
    assert from_system(FileNotFoundError(errno.ENOENT, "x")) is None
    assert from_system(RuntimeError("shapes do not fit")) is None


def append_until_full(path: Path) -> None:
    limit_files(250)
    while True:
        append_line(path, "x" * 99)


def save_a_state(path: Path) -> None:
    limit_files(10_000)
    save_training_state(path, {"weights": torch.zeros(10_000)})


def write_error_in_fork(write: Callable[[Path], None], path: Path) -> bool:
    """Whether ``write`` ends with our error, in a process of its own because of the limit."""
    process = os.fork()
    if process == 0:
        try:
            write(path)
        except WriteError:
            os._exit(7)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 7


def test_a_line_that_does_not_fit_is_taken_back_whole(tmp_path: Path) -> None:
    assert write_error_in_fork(append_until_full, tmp_path / "log")
    assert (tmp_path / "log").read_text() == ("x" * 99 + "\n") * 2


def test_a_training_state_that_does_not_fit_leaves_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("old")
    assert write_error_in_fork(save_a_state, tmp_path / "state")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def read_damaged(folder: Path, whole: bytes) -> None:
    """Read a store again and again, each time with other bytes at the ends of its shard damaged."""
    shard = folder / "shard-00000.arrow"
    for seed in range(60):
        draw = random.Random(seed)
        damaged = bytearray(whole)
        place = draw.randrange(3_000) if seed % 2 else len(whole) - 6_000 + draw.randrange(5_990)
        damaged[place : place + 4] = draw.randbytes(4)
        shard.write_bytes(damaged)
        with suppress(ElasticToolError):
            store = PreparedStore.open(folder)
            for clip in range(len(store)):
                store.targets(clip)
                store.clip(clip)
                if seed % 10 == 0:
                    store.waveform(clip)


def test_damaged_shards_never_crash_the_process(toy_store: PreparedStore, tmp_path: Path) -> None:
    shutil.copytree(toy_store.path, tmp_path / "toy")
    whole = (toy_store.path / "shard-00000.arrow").read_bytes()
    process = os.fork()
    if process == 0:
        try:
            read_damaged(tmp_path / "toy", whole)
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0


def test_errors_survive_the_way_out_of_a_worker() -> None:
    died = pickle.loads(pickle.dumps(LoaderError("what", "hint")))
    assert (died.message, died.hint) == ("what", "hint")
    full = pickle.loads(pickle.dumps(write_error("x", OSError(errno.ENOSPC, "No space"))))
    assert "No space" in full.message and full.hint


# Memory


def little_memory() -> None:
    with open("/proc/self/statm", encoding="ascii") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (600 << 20), resource.RLIM_INFINITY))


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_no_memory_for_a_step_names_the_settings(toy_store: PreparedStore, tmp_path: Path) -> None:
    wide = sets("model.width=256", "model.depth=3", "model.mlp_ratio=100", "packing.batch_clips=18")
    options = ("--dataset", toy_store.path, "--run-dir", "run", *wide)
    child = run(tmp_path, "train", *options, before=little_memory)
    shown = child.shown()
    assert child.process.exitcode == 1 and "Traceback" not in shown
    assert "out of memory with 18 clips at once" in shown
    assert "lower packing.batch_clips (18)" in shown


def no_room_for_a_library() -> None:
    def start() -> None:
        raise ImportError("_x.so: failed to map segment from shared object")

    import elastictool.cli.app

    elastictool.cli.app.app = start  # type: ignore[assignment]


def test_no_memory_for_a_library_is_a_clear_error(tmp_path: Path) -> None:
    child = run(tmp_path, "tokens", before=no_room_for_a_library)
    assert child.process.exitcode == 1 and "Traceback" not in child.shown()
    assert "out of memory: _x.so: failed to map" in child.shown()


# Signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_the_whole_group_saves_while_loader_workers_run(
    toy_store: PreparedStore, tmp_path: Path, number: signal.Signals
) -> None:
    many = sets("train.epochs=2000", "train.loader_workers=2")
    child = Child(tmp_path, "train", "--dataset", toy_store.path, "--run-dir", "run", *many)
    state = tmp_path / "run" / "checkpoints" / "last.training.pt"
    while not state.exists() and child.process.is_alive():
        time.sleep(0.02)
    assert child.process.pid is not None
    os.killpg(child.process.pid, number)
    assert child.wait() == 130, child.shown()
    assert "everything is saved" in child.shown() and "Traceback" not in child.shown()
    assert load_training_state(state)["state"]["step"] > 0


# Kill -9; many more kills: python -m benchmarks.reliability kills


def kill_while_writing(path: Path) -> int:
    """Lets a process leave its temporary file; returns its number."""
    process = os.fork()
    if process == 0:
        with atomic_path(path) as half:
            half.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(process, 0)
    return process


def test_prep_killed_at_its_figure_leaves_nothing_behind(tmp_path: Path) -> None:
    options = PrepOptions("synth", out=tmp_path, limit=20)
    whole = content(prepare(options).path)
    kill_while_writing(tmp_path / "synth" / "durations.png")
    assert len(content(tmp_path / "synth")) == len(whole) + 1
    assert content(prepare(options).path) == whole


def test_temporary_files_go_with_the_process_that_wrote_them(tmp_path: Path) -> None:
    process = kill_while_writing(tmp_path / "killed")
    elsewhere = tmp_path / f".file.{process}-0a1b2c3d-0a1b2c3d.tmp"
    elsewhere.touch()
    with atomic_path(tmp_path / "running") as other:
        write_text(other, "whole")
        assert len(list(tmp_path.iterdir())) == 3
        remove_temporaries(tmp_path, shared=True)
        assert sorted(tmp_path.iterdir()) == sorted([elsewhere, other])
    remove_temporaries(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["running"]


def test_prep_killed_anywhere_ends_with_the_same_bytes(tmp_path: Path) -> None:
    trials = kill(prep_job(clips=40), tmp_path, kills=3, seed=1)
    assert trials[0].kills
    assert [trial for trial in trials if not trial.survived] == []


def living(session: int) -> list[str]:
    """The processes of a session, as ``/proc`` shows them, without those that have ended."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, _, its_session = stat.read_text().rpartition(")")[2].split()[:4]
            if int(its_session) == session and state not in "ZX":
                found.append(stat.with_name("cmdline").read_text().replace("\0", " "))
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize("delay_s", [0.0, 0.2, 0.5, 1.5])
@pytest.mark.parametrize("command", ["prep", "train"])
def test_workers_end_with_a_killed_parent_also_while_they_start(
    toy_store: PreparedStore, tmp_path: Path, command: str, delay_s: float
) -> None:
    line: tuple[object, ...] = ("prep", "--out", "out", "--limit", 600, "--workers", 2)
    if command == "train":
        many = sets("train.epochs=2000", "train.loader_workers=2")
        line = ("train", "--dataset", toy_store.path, "--run-dir", "run", *many)
    child = Child(tmp_path, *line)
    session = child.process.pid
    assert session is not None
    while len(living(session)) < 3 and child.process.is_alive():
        time.sleep(0.01)
    time.sleep(delay_s)
    assert child.process.is_alive(), child.shown()
    child.process.kill()
    child.process.join()
    end = time.monotonic() + 10
    while (left := living(session)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not left


@pytest.mark.slow
def test_training_killed_anywhere_ends_with_the_same_bytes(tmp_path: Path) -> None:
    job = train_job(tmp_path, clips=40, sets=("train.epochs=2", "packing.batch_clips=12"))
    trials = kill(job, tmp_path, kills=3, seed=1)
    assert trials[0].kills
    assert [trial for trial in trials if not trial.survived] == []
