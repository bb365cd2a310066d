"""What is no regular file, or cannot be read, is named, and nothing waits for it or ends at it."""

from __future__ import annotations

import csv
import errno
import inspect
import io
import json
import os
import resource
import signal
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from elastictool.audio import reader
from elastictool.data.options import PrepOptions
from elastictool.data.prepare import prepare
from elastictool.data.store import PreparedStore
from elastictool.utils.errors import (
    ElasticToolError,
    OutOfMemory,
    UsageError,
    WriteError,
    from_system,
)
from elastictool.utils.io import atomic_path, check_output, open_text, walk_files
from tests.helpers.children import Child
from tests.helpers.children import run as run_child
from tests.helpers.command_line import run_command
from tests.helpers.corpus_trees import folder_tree, write_audio, write_table
from tests.helpers.saved_runs import save_run
from tests.helpers.strange_files import NAMES, broken_links, obey_rights, strange_files


@pytest.fixture
def run(toy_store: PreparedStore, tmp_path: Path) -> Path:
    return save_run(tmp_path / "runs" / "toy", toy_store, max_frames=300)


def prep(monkeypatch: pytest.MonkeyPatch, kind: str, root: Path, out: Path) -> int:
    return run_command(monkeypatch, "prep", "--dataset", kind, "--root", root, "--out", out)


def reasons(folder: Path) -> dict[str, str]:
    with (folder / "rejected.csv").open(encoding="utf-8", newline="") as file:
        return {row["path"]: row["reason"] for row in csv.DictReader(file)}


def test_prep_of_a_folder_names_what_is_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "root"
    folder_tree(root)
    strange = strange_files(root / "cat")
    links = broken_links(root / "dog")
    (root / "dog" / "folder.wav").mkdir()
    assert prep(monkeypatch, "folder", root, tmp_path / "out") == 3
    found = reasons(tmp_path / "out" / "root")
    assert found.keys() == {f"cat/{name}" for name in strange} | {f"dog/{name}" for name in links}
    for name, reason in strange.items():
        assert found[f"cat/{name}"] == f"cannot be read ({reason}, not a file)"
    assert len(PreparedStore.open(tmp_path / "out" / "root")) == len(list(walk_files(root))) - 5


def list_of(kind: str, folder: Path, names: list[str]) -> Path:
    """A table, or a JSON list, of clips of one class."""
    if kind == "csv":
        rows = [(name, "x", "train") for name in names]
        return write_table(folder / "t.csv", [("path", "label", "split"), *rows])
    entries = [{"wav": name, "labels": "x"} for name in names]
    path = folder / "train.json"
    path.write_text(json.dumps({"data": entries}))
    return path


@pytest.mark.parametrize("kind", ["csv", "json"])
def test_prep_of_a_list_names_what_is_no_file_and_what_cannot_be_one(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "root"
    write_audio(root / "a.wav")
    strange = strange_files(root) | {"folder.wav": "a folder"}
    (root / "folder.wav").mkdir()
    gone = [*broken_links(root), *NAMES.values()]
    if kind == "json":
        gone.append("half a character \ud800.wav")
    path = list_of(kind, root, ["a.wav", *strange, *gone])
    assert prep(monkeypatch, kind, path, tmp_path / "out") == 3
    (made,) = (tmp_path / "out").iterdir()
    assert PreparedStore.open(made).ids.tolist() == ["a.wav"]
    found = reasons(made)
    assert len(found) == len(strange) + len(gone)
    for name, reason in strange.items():
        assert found[name] == f"cannot be read ({reason}, not a file)"
    assert all(found[name] == "missing" for name in gone[:-1])


def test_a_table_without_splits_may_list_names_that_no_file_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "root"
    names = [write_audio(root / f"{number}.wav", seed=number).name for number in range(4)]
    rows = [("path", "label"), *((name, "x") for name in (*names, *NAMES.values()))]
    table = write_table(root / "t.csv", rows)
    assert prep(monkeypatch, "csv", table, tmp_path / "out") == 3
    assert len(reasons(tmp_path / "out" / "t")) == len(NAMES)


@pytest.mark.parametrize("way", ["folder", "names", "stdin", "embed"])
def test_recordings_that_are_no_files_are_left_out(
    way: str,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = tmp_path / "root"
    good = write_audio(root / "a.wav", seconds=1)
    strange = [*strange_files(root), *broken_links(root)]
    given: list[object] = [root]
    if way != "folder":
        names = [root / name for name in (good.name, *strange, *NAMES.values())]
        given = names if way == "names" else ["-"]
        strange += NAMES.values()
        content = io.BytesIO(b"".join(os.fsencode(f"{name}\n") for name in names))
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=content))
        given = [name for name in given if "\0" not in str(name)]
    options = ("embed", "--out", tmp_path / "all.npz") if way == "embed" else ("predict", "--json")
    assert run_command(monkeypatch, options[0], *given, "--run", run, *options[1:]) == 3
    shown = capsys.readouterr()
    expected = [name for name in strange if way != "names" or "\0" not in name]
    left_out = [line for line in shown.err.splitlines() if line.startswith("left out: ")]
    assert len(left_out) == len(expected) and "a pipe, not a file" in shown.err
    if way != "embed":
        found = json.loads(shown.out)["predictions"]
        assert [item["recording"] for item in found if "labels" in item] == [str(good)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_command_that_waits_for_a_list_ends_at_a_signal(
    number: signal.Signals, tmp_path: Path
) -> None:
    child = Child(tmp_path, "predict", "-", before=wait_for_stdin)
    while not (tmp_path / "waits").exists():
        time.sleep(0.01)
    time.sleep(0.3)
    assert child.process.pid is not None
    os.kill(child.process.pid, number)
    assert child.wait(60) == 130
    assert "interrupted" in child.shown()


def wait_for_stdin() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.dup2(os.pipe()[0], 0)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    Path("waits").touch()


def locked_folder(folder: Path) -> Path:
    """Class folders in which a folder, and a file, may not be read."""
    root = folder / "root"
    folder_tree(root)
    write_audio(root / "dog" / "locked" / "a.wav")
    write_audio(root / "dog" / "secret.wav")
    for path in (root / "dog" / "secret.wav", root / "dog" / "locked"):
        path.chmod(0)
    return root


def test_prepared_data_that_may_not_be_read_are_not_called_damaged(tmp_path: Path) -> None:
    store = prepare(PrepOptions("synth", None, tmp_path / "out", limit=3))
    for shard in store.path.glob("shard-*"):
        shard.chmod(0)
    child = run_child(tmp_path, "data", "show", str(store.path), before=obey_rights)
    shown = child.shown()
    assert child.process.exitcode == 1 and "damaged" not in shown
    assert "cannot read" in shown and "Permission denied" in shown


def test_prep_reports_what_it_may_not_read_and_prepares_the_rest(tmp_path: Path) -> None:
    root = locked_folder(tmp_path)
    clips = len(list(walk_files(root)))
    child = run_child(
        tmp_path,
        "prep",
        "--dataset",
        "folder",
        "--root",
        "root",
        "--out",
        "out",
        before=obey_rights,
    )
    (root / "dog" / "locked").chmod(0o700)
    shown = child.shown()
    assert child.process.exitcode == 3 and "Traceback" not in shown and "write" not in shown
    assert "1 folder cannot be read" in shown and "dog/locked/ (Permission denied)" in shown
    assert reasons(tmp_path / "out" / "root") == {
        "dog/locked/": "folder cannot be read (Permission denied)",
        "dog/secret.wav": "cannot be read (Permission denied)",
    }
    assert len(PreparedStore.open(tmp_path / "out" / "root")) == clips - 2


@pytest.mark.parametrize("given", ["root", "root/dog/locked"])
def test_predict_reports_what_it_may_not_read(given: str, run: Path, tmp_path: Path) -> None:
    root = locked_folder(tmp_path)
    write_audio(tmp_path / "good.wav", seconds=1)
    child = run_child(
        tmp_path, "predict", given, "good.wav", "--run", run, "--json", before=obey_rights
    )
    (root / "dog" / "locked").chmod(0o700)
    assert child.process.exitcode == 3 and "Traceback" not in child.shown()
    assert "root/dog/locked: cannot be read (Permission denied)" in child.shown()
    assert '"recording": "good.wav", "duration_s"' in child.shown()


@pytest.mark.parametrize("name", ["long", "deep"])
@pytest.mark.parametrize(
    "command",
    [
        ("train", "--recipe"),
        ("train", "--run-dir"),
        ("train", "--resume", "--run-dir"),
        ("train", "--dataset"),
        ("prep", "--dataset", "folder", "--root"),
        ("prep", "--dataset", "csv", "--root"),
        ("prep", "--limit", 1, "--out"),
        ("predict", "a.wav", "--run"),
        ("predict", "a.wav", "--timeline"),
        ("tokens", "--durations"),
        ("data", "show"),
        ("runs", "list", "--root"),
    ],
    ids=lambda command: " ".join(map(str, command)),
)
def test_an_option_with_a_name_that_no_file_has_is_a_clear_error(
    command: tuple[str, ...],
    name: str,
    toy_store: PreparedStore,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = ("--dataset", toy_store.path) if command[-1] == "--run-dir" else ()
    assert run_command(monkeypatch, *command, NAMES[name], *data) == 2
    shown = capsys.readouterr().err
    assert "error: " in shown and NAMES[name][:40] in shown


@pytest.mark.parametrize("name", ["pipe.wav", "zero.wav", "socket.wav"])
@pytest.mark.parametrize(
    "command",
    [
        ("train", "--dry-run", "--recipe"),
        ("train", "--run-dir"),
        ("prep", "--dataset", "csv", "--root"),
        ("prep", "--dataset", "json", "--root"),
        ("data", "export", "--out"),
        ("tokens", "--durations"),
        ("convert", "--from", "hf-ast", "--out", "o.safetensors"),
        ("eval",),
    ],
    ids=" ".join,
)
def test_an_option_that_names_no_file_is_refused_and_not_waited_for(
    command: tuple[str, ...],
    name: str,
    toy_store: PreparedStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    strange_files(tmp_path)
    data: tuple[object, ...] = ("--dataset", toy_store.path) if command[-1] == "--run-dir" else ()
    data = (toy_store.path,) if command[-1] == "--out" and command[0] == "data" else data
    assert run_command(monkeypatch, *command, tmp_path / name, *data) == 2


def test_texts_of_users_are_regular_files(tmp_path: Path) -> None:
    for name, reason in strange_files(tmp_path).items():
        with pytest.raises(UsageError, match=f"{reason}, not a file"), open_text(tmp_path / name):
            pass


@pytest.mark.parametrize("ending", ["npz", "parquet"])
def test_an_index_that_is_a_pipe_is_refused(
    ending: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / f"all.{ending}")
    options = ("--index", tmp_path / f"all.{ending}", "--query", "a.wav", "--run", run)
    assert run_command(monkeypatch, "embed", *options) == 2


def test_an_output_never_replaces_a_device_or_pipe(tmp_path: Path) -> None:
    for name in strange_files(tmp_path):
        before = (tmp_path / name).stat()
        with pytest.raises(WriteError, match="not a file"), atomic_path(tmp_path / name) as new:
            new.write_text("x")
        with pytest.raises(WriteError, match="not a file"):
            check_output(tmp_path / name, is_folder=False)
        assert os.path.samestat(before, (tmp_path / name).stat())


@pytest.mark.parametrize("name", ["x" * 251 + ".wav", "ü" * 125 + ".wav", "🐕" * 62 + ".wav"])
def test_an_output_may_have_any_name_that_the_disk_takes(name: str, tmp_path: Path) -> None:
    with atomic_path(tmp_path / name) as new:
        new.write_text("x")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_timelines_of_long_names_are_shortened_and_distinct(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [
        f"{letter * length}{end}" for letter, length in (("x", 250), ("ü", 124)) for end in "ab"
    ]
    sounds = [write_audio(tmp_path / "in" / f"{name}.wav", seconds=0.5) for name in names]
    out = tmp_path / "out"
    assert run_command(monkeypatch, "predict", *sounds, "--run", run, "--timeline", out) == 0
    pictures = sorted(path.name for path in out.glob("*.png"))
    assert len(pictures) == 4 and {name[:50] for name in pictures} == {name[:50] for name in names}


def test_a_timeline_that_cannot_be_written_leaves_the_others(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sounds = [write_audio(tmp_path / f"{name}.wav", seconds=0.5) for name in "abc"]
    (tmp_path / "out" / "b.png").mkdir(parents=True)
    out = tmp_path / "out"
    assert run_command(monkeypatch, "predict", *sounds, "--run", run, "--timeline", out) == 1
    assert (out / "a.png").is_file() and (out / "c.svg").is_file()
    shown = capsys.readouterr()
    assert f"left out: the figure of {sounds[1]}: cannot write {out / 'b.png'}" in shown.err
    assert "1 figure could not be written" in shown.err and "predictions" in shown.out


def few_open_files() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (30, 30))


def test_loader_workers_without_open_files_are_refused(
    toy_store: PreparedStore, tmp_path: Path
) -> None:
    options = ("--dataset", toy_store.path, "--run-dir", "run", "--set", "train.loader_workers=2")
    child = run_child(tmp_path, "train", *options, before=few_open_files)
    shown = child.shown()
    assert child.process.exitcode == 1 and "Traceback" not in shown
    assert "2 loader workers need 80 open files, and only 30 are allowed" in shown
    assert "ulimit -n" in shown


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_a_process_that_may_open_no_more_files_rejects_no_clip(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder_tree(tmp_path / "root")

    def lack(path: Path) -> None:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(reader, "open_file", lack)
    with pytest.raises(ElasticToolError, match="open files") as caught:
        prepare(PrepOptions("folder", tmp_path / "root", tmp_path / "out"))
    assert "ulimit -n" in caught.value.hint
    assert not (tmp_path / "out" / "root" / "dataset.json").exists()


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("could not create a primitive"),
        RuntimeError("could not execute a primitive"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("can't start new thread"),
        RuntimeError("std::bad_alloc"),
        MemoryError(),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
    ids=str,
)
def test_missing_memory_is_a_message_whoever_reports_it(error: Exception) -> None:
    found = from_system(error)
    assert isinstance(found, OutOfMemory) and found.hint


def test_a_primitive_that_does_not_exist_is_no_lack_of_memory() -> None:
    text = "could not create a primitive descriptor for a matmul primitive"
    assert from_system(RuntimeError(text)) is None


def test_a_walk_goes_deeper_than_a_program_may_recurse(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = "d/" * 300
    write_audio(tmp_path / folder / "a.wav")
    request.addfinalizer(partial(sys.setrecursionlimit, sys.getrecursionlimit()))
    sys.setrecursionlimit(len(inspect.stack()) + 100)
    assert [file.path for file in walk_files(tmp_path)] == [f"{folder}a.wav"]
