"""Run directories and prepared data whose files were damaged or edited: a message, or a way on."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from elastictool.checkpoint.weights import load_run
from elastictool.data.store import PreparedStore
from elastictool.training.run import resume_run, train_run
from elastictool.training.state import load_training_state
from elastictool.utils.errors import CheckpointError, ElasticToolError, Interrupted
from tests.helpers.command_line import run_command
from tests.helpers.files import content
from tests.helpers.training import records, same, small, train_and_stop, weights

_STRANGE = (
    b'null\n[]\n3\n"kind"\n{"kind": "epoch"}\n{"kind": "step", "step": "x"}\n'
    b'{"kind": "epoch", "epoch": null, "step": null}\n{"kind": ["epoch"], "step": 1e400}\n'
    b'{"kind": "step", "step": ' + b"9" * 5_000 + b"}\n" + b"[" * 100_000 + b"\n\xff\xfe\n\n"
)
DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "removed": lambda was: None,
    "empty": lambda was: b"",
    "half": lambda was: was[: len(was) // 2],
    "not UTF-8": lambda was: was[: len(was) // 2] + b"\xe9\xff" + was[len(was) // 2 :],
    "null": lambda was: b"null\n",
    "list": lambda was: b"[]\n",
    "object": lambda was: b"{}\n",
    "number": lambda was: b"3\n",
    "zeros": lambda was: bytes(len(was)),
    "brackets": lambda was: b"[" * 100_000,
    "other types": lambda was: re.sub(rb": [^,\n}{\[]+", b": [{}]", was),
    "texts": lambda was: re.sub(rb": [0-9][^,\n}]*", b': "x"', was),
    "strange lines": lambda was: _STRANGE + was + b'{"kind": "st',
}


def damage(file: Path, how: str) -> None:
    changed = DAMAGES[how](file.read_bytes())
    if changed is None:
        file.unlink()
    else:
        file.write_bytes(changed)


@pytest.fixture(scope="module")
def run(toy_store: PreparedStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run stopped one step before its end, with the results of ``eval``."""
    path = tmp_path_factory.mktemp("runs") / "run"
    with pytest.raises(Interrupted):
        train_and_stop(small("packing.batch_clips=9"), toy_store, path, steps=3)
    patch = pytest.MonkeyPatch()
    assert run_command(patch, "eval", path) == 0
    assert run_command(patch, "sweep", path, "--lengths", "32") == 0
    (path / "skipped_steps.jsonl").write_text('{"epoch": 1, "step": 1, "where": "inputs"}\n')
    patch.undo()
    return path


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "run"))


@pytest.fixture(scope="module")
def finished(run: Path, toy_store: PreparedStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = Path(shutil.copytree(run, tmp_path_factory.mktemp("finished") / "run"))
    resume_run(path, toy_store)
    return path


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("log", ["metrics.jsonl", "skipped_steps.jsonl"])
def test_a_damaged_log_never_keeps_a_run_from_resuming_to_the_same_bytes(
    log: str, how: str, copy: Path, finished: Path, toy_store: PreparedStore
) -> None:
    good = [record["step"] for record in records(copy, "step")]
    damage(copy / log, how)
    resume_run(copy, toy_store)
    last = "checkpoints/last.safetensors"
    assert (copy / last).read_bytes() == (finished / last).read_bytes()
    kept = [record["step"] for record in records(copy, "step")]
    assert kept[-1] == good[-1] + 1 and set(kept) <= {*good, good[-1] + 1}
    if how == "strange lines" or log == "skipped_steps.jsonl":
        assert kept == [*good, good[-1] + 1]


def test_lines_of_a_log_that_are_damaged_are_counted(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(copy / "metrics.jsonl", "strange lines")
    assert run_command(monkeypatch, "train", "--resume", "--run-dir", copy) == 0
    assert re.search(r"metrics\.jsonl that were damaged and are left out: 11", squeeze(capsys))


def squeeze(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())


STATE = ("config.yaml", "environment.json", "checkpoints/last.training.pt")


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("name", STATE)
def test_damaged_state_ends_with_a_message_that_names_the_file(
    name: str, how: str, copy: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    damage(copy / name, how)
    code = run_command(monkeypatch, "train", "--resume", "--run-dir", copy)
    told = squeeze(capsys)
    if code == 0:  # nothing that training needs is missing, or it begins anew
        assert (name, how) in {(STATE[1], "removed"), (STATE[1], "texts"), (STATE[2], "removed")}
    else:
        named = "no run" if (name, how) == ("config.yaml", "removed") else Path(name).name
        assert (code in (2, 4) and named in told.replace(" ", "")) or named in told
    for command in (["eval", copy], ["runs", "list", "--root", copy.parent]):
        assert run_command(monkeypatch, *command) in (0, 2, 4)


RESULTS = ("results/eval_test.json", "results/sweep.csv", "results/sweep.json")


@pytest.mark.parametrize("how", DAMAGES)
def test_damaged_results_and_weights_end_with_a_message(
    how: str, copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in RESULTS:
        if (copy / name).exists():
            damage(copy / name, how)
    for command in (
        ["runs", "list", "--root", copy.parent],
        ["runs", "show", copy, "--html"],
        ["sweep", copy, "--lengths", "32"],
    ):
        assert run_command(monkeypatch, *command) in (0, 1, 2)
    capsys.readouterr()
    damage(copy / "checkpoints/best.safetensors", how)
    assert run_command(monkeypatch, "eval", copy) in (2, 4)
    assert "best.safetensors" in squeeze(capsys)


_READ = ["config.yaml", "metrics.jsonl", "environment.json"]


@pytest.mark.parametrize(
    ("name", "make"),
    [(name, make) for name in (*_READ, *RESULTS) for make in (os.mkdir, os.mkfifo)],
)
def test_a_folder_or_pipe_in_the_place_of_a_file_ends_with_a_message(
    name: str, make: Callable[[Path], None], copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (copy / name).unlink(missing_ok=True)
    make(copy / name)
    for command in (
        ["train", "--resume", "--run-dir", copy],
        ["eval", copy],
        ["sweep", copy, "--lengths", "32"],
        ["runs", "list", "--root", copy.parent],
        ["runs", "show", copy, "--html"],
    ):
        assert run_command(monkeypatch, *command) in (0, 1, 2, 4)


def edited(**changes: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda document: document | changes


EDITS = {
    "labels": edited(label_names=None),
    "no labels": edited(label_names=[]),
    "label twice": edited(label_names=["high", "high", "low"]),
    "other labels": edited(label_names=["a", "b", "c"]),
    "labels of lists": edited(label_names=[["high"], ["low"], ["noise"]]),
    "rate": edited(sample_rate_hz="x"),
    "rate of nothing": edited(sample_rate_hz=0),
    "clips": edited(num_clips=None),
    "more clips": edited(num_clips=10**18),
    "shards": edited(num_shards=10**9),
    "half a shard": edited(num_shards=0.5),
    "splits": edited(splits=[]),
    "split of text": edited(splits={"train": "x"}),
    "sums": edited(fbank_sums=None),
    "sums of texts": edited(fbank_sums=[{"split": "train", "fold": 0, "frames": "x"}]),
    "features": edited(fbank_config={}),
    "features of lists": edited(fbank_config={"num_mel_bins": []}),
    "many labels": edited(multi_label="perhaps"),
    "format": edited(format=[2]),
    "key": lambda document: {key: document[key] for key in document if key != "fingerprint"},
    "list": lambda document: [document],
}


@pytest.mark.parametrize("name", EDITS)
def test_edited_prepared_data_end_with_a_message(
    name: str, toy_store: PreparedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = Path(shutil.copytree(toy_store.path, tmp_path / "data"))
    document = json.loads((data / "dataset.json").read_text())
    (data / "dataset.json").write_text(json.dumps(EDITS[name](document)))
    with pytest.raises(ElasticToolError):
        train_run(small(), PreparedStore.open(data), tmp_path / "run")
    for command in (["data", "list"], ["data", "show", data], ["data", "verify", data]):
        monkeypatch.setenv("ELASTICTOOL_DATA", str(tmp_path))
        assert run_command(monkeypatch, *command) in (0, 1, 2, 3)


@pytest.mark.parametrize("how", [how for how in DAMAGES if how not in ("strange lines", "texts")])
def test_damaged_prepared_data_end_with_a_message(
    how: str, toy_store: PreparedStore, tmp_path: Path
) -> None:
    data = Path(shutil.copytree(toy_store.path, tmp_path / "data"))
    damage(data / "dataset.json", how)
    with pytest.raises(ElasticToolError, match="dataset"):
        PreparedStore.open(data)


@pytest.mark.parametrize("key", ["state", "config", "model", "optimizer", "rng"])
@pytest.mark.parametrize("value", [None, 3, [], {}, {"step": "x"}, "text"])
def test_a_training_state_of_other_values_ends_with_a_message(
    key: str, value: Any, copy: Path, toy_store: PreparedStore
) -> None:
    import torch

    file = copy / "checkpoints/last.training.pt"
    torch.save(load_training_state(file) | {key: value}, file)
    with pytest.raises(CheckpointError, match=r"last\.training\.pt|config\.yaml"):
        resume_run(copy, toy_store)


# Rights


@contextmanager
def new_files_are(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@pytest.mark.skipif(os.name != "posix", reason="rights of POSIX")
@pytest.mark.parametrize("mask", [0o022, 0o027, 0o002])
def test_all_that_a_run_writes_has_the_rights_that_the_umask_gives(
    mask: int, toy_store: PreparedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with new_files_are(mask):
        train_run(small("train.epochs=1"), toy_store, tmp_path / "run")
        for command in (
            ["eval", tmp_path / "run", "--predictions", tmp_path / "run/clips.csv"],
            ["export", tmp_path / "run", "--out", tmp_path / "run/model.safetensors"],
            ["runs", "show", tmp_path / "run", "--html"],
        ):
            assert run_command(monkeypatch, *command) == 0
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in files}
    assert "best.safetensors" in modes and "eval_test.json" in modes
    assert {name: mode for name, mode in modes.items() if mode != 0o666 & ~mask} == {}


@contextmanager
def without_rights(folder: Path) -> Iterator[None]:
    """Runs the block as another user, where the tests run as the administrator."""
    if os.geteuid() != 0:
        yield
        return
    folder.chmod(0o755)
    os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.skipif(os.name != "posix", reason="rights of POSIX")
@pytest.mark.parametrize("name", ["best.safetensors", "last.training.pt"])
def test_a_file_that_may_not_be_read_is_not_called_damaged(name: str, run: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(shutil.copy(run / "checkpoints" / name, folder))
        file.chmod(0)
        read = load_run if name.endswith("safetensors") else load_training_state
        with without_rights(Path(folder)), pytest.raises(ElasticToolError) as caught:
            read(file)
    assert caught.value.exit_code == 1
    assert "cannot read" in caught.value.message and "Permission denied" in caught.value.message


# Finished runs


def test_resuming_a_finished_run_touches_nothing(
    finished: Path, toy_store: PreparedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(shutil.copytree(finished, tmp_path / "run"))
    assert run_command(monkeypatch, "train", "--resume", "--run-dir", path) == 0  # its report
    before, times = content(path), {file: file.stat().st_mtime_ns for file in path.rglob("*")}
    assert run_command(monkeypatch, "train", "--resume", "--run-dir", path) == 0
    assert content(path) == before
    assert {file: file.stat().st_mtime_ns for file in path.rglob("*")} == times
    assert same(weights(path), weights(finished))
    assert resume_run(path, toy_store).seconds > 0
