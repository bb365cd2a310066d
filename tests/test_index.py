"""An index of embeddings records what made it, and other files are errors."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from elastictool.checkpoint.weights import load_run, save_weights
from elastictool.cli.app import app
from elastictool.data.store import PreparedStore
from elastictool.inference.vectors import EmbeddingMeta, EmbeddingTable, read_vectors, write_vectors
from elastictool.utils.errors import UsageError
from tests.helpers.corpus_trees import write_audio
from tests.helpers.saved_runs import save_run

ORIGIN = EmbeddingMeta("ab" * 32, "runs/a/checkpoints/best.safetensors", (16, 16), 10.0, 2.0, 1.0)


def vectors(count: int = 3) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(0).normal(size=(count, 4)).astype(np.float32)


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_what_made_an_index_comes_back(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"all{suffix}"
    write_vectors(path, EmbeddingTable(("a", "b", "c"), vectors(), ORIGIN))
    assert read_vectors(path).meta == ORIGIN
    write_vectors(path, EmbeddingTable(("a", "b", "c"), vectors()))
    assert read_vectors(path).meta is None


@pytest.mark.parametrize(
    ("change", "words", "hint"),
    [
        ({"weights": "cd" * 32}, "other weights", "--run runs/a/checkpoints/best.safetensors"),
        ({"patch_size": (32, 32)}, "patches of 16x16 at 10 ms", "--patch-size"),
        ({"shift_ms": 20.0}, "at 20 ms a frame", "--resolution"),
        ({"window_s": 0.0, "hop_s": 0.0}, "whole recordings", "--window 2 --hop 1"),
        ({"hop_s": 2.0}, "2 s apart", "--window 2 --hop 1"),
    ],
)
def test_vectors_of_something_else_are_refused(
    change: dict[str, Any], words: str, hint: str
) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        ORIGIN.check_compatible(dataclasses.replace(ORIGIN, **change), Path("all.npz"))
    assert hint in caught.value.hint
    ORIGIN.check_compatible(
        dataclasses.replace(ORIGIN, run="elsewhere/best.safetensors"), Path("all.npz")
    )


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_names_that_are_no_text_survive(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"all{suffix}"
    write_vectors(path, EmbeddingTable(("caf\udce9.wav", "b", "c"), vectors(), ORIGIN))
    assert read_vectors(path).names[0] in ("caf\udce9.wav", "caf\\xe9.wav")


def bad_files(folder: Path) -> dict[str, Path]:
    """By what is wrong with it."""
    good, names = vectors(), np.array(["a", "b", "c"])
    arrays: dict[str, dict[str, Any]] = {
        "no names": {"vectors": good},
        "no vectors": {"names": names},
        "pickled names": {"names": names.astype(object), "vectors": good},
        "one name": {"names": np.array("a"), "vectors": good},
        "numbers": {"names": np.arange(3), "vectors": good},
        "too few names": {"names": names[:2], "vectors": good},
        "one axis": {"names": names, "vectors": good[:, 0]},
        "integers": {"names": names, "vectors": good.astype(int)},
        "text": {"names": names, "vectors": good.astype(str)},
        "nan": {"names": names, "vectors": np.full_like(good, np.nan)},
        "empty": {"names": names[:0], "vectors": good[:0]},
        "origin": {"names": names, "vectors": good, "made_by": "{"},
        "origin list": {"names": names, "vectors": good, "made_by": "[]"},
        "origin lacks": {"names": names, "vectors": good, "made_by": '{"run": "x"}'},
    }
    files = {what: folder / f"{what}.npz" for what in arrays}
    for what, held in arrays.items():
        np.savez(files[what], **held)
    np.save(folder / "array.npy", good)
    files["one array"] = (folder / "array.npy").rename(folder / "array.npz")
    for what, content in {"none": b"", "words": b"hello", "cut": b"PK\x03\x04abc"}.items():
        for suffix in (".npz", ".parquet"):
            files[what + suffix] = folder / f"{what}{suffix}"
            files[what + suffix].write_bytes(content)
    tables = {
        "list": pa.table({"name": ["a"], "vector": [[1.0, 2.0]]}),
        "column": pa.table({"name": ["a"], "x": [1.0]}),
        "null": pa.table({"name": [None], "vector": pa.array([[1.0]], pa.list_(pa.float32(), 1))}),
    }
    for what, table in tables.items():
        files[what] = folder / f"{what}.parquet"
        pq.write_table(table, files[what])
    files["folder"] = folder / "folder.npz"
    files["folder"].mkdir()
    files["missing"] = folder / "missing.npz"
    files["ending"] = folder / "x.txt"
    return files


def test_a_damaged_index_is_refused(tmp_path: Path) -> None:
    for what, path in bad_files(tmp_path).items():
        with pytest.raises(UsageError) as caught:
            read_vectors(path)
        assert str(path) in caught.value.message, what


# The command ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(toy_store: PreparedStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_run(tmp_path_factory.mktemp("runs") / "elastic", toy_store, max_frames=300)


def embed(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["embed", *map(str, arguments)])


def test_a_query_must_be_made_as_the_index_was(
    run: Path, toy_store: PreparedStore, tmp_path: Path
) -> None:
    path, out = write_audio(tmp_path / "a.wav", 2.0), tmp_path / "all.npz"
    assert embed(path, "-r", run, "--out", out, "--window", 1).exit_code == 0
    ask = ("--index", out, "--query", path, "--json")
    copy = tmp_path / "copy.safetensors"
    loaded = load_run(run)
    save_weights(copy, loaded.model, loaded.metadata)
    for same in (run, copy):
        found = embed(*ask, "-r", same, "--window", 1, "--hop", 1)
        assert found.exit_code == 0, found.exception
    other = save_run(tmp_path / "other", toy_store, "elasticast", max_frames=200)
    changed = load_run(other)
    changed.model.head.bias.data += 1  # type: ignore[union-attr, operator]
    file = other / "checkpoints" / "best.safetensors"
    save_weights(file, changed.model, changed.metadata)
    for wrong, words in (
        (("-r", other, "--window", 1), "other weights"),
        (("-r", run), "windows of 1 s"),
        (("-r", run, "--window", 1, "--patch-size", 32), "patches of 16x16"),
        (("-r", run, "--window", 1, "--resolution", 2), "at 10 ms"),
    ):
        refused = embed(*ask, *wrong).exception
        assert isinstance(refused, UsageError) and words in refused.message


def test_an_index_without_a_record_is_searched_with_a_note(run: Path, tmp_path: Path) -> None:
    path, out = write_audio(tmp_path / "a.wav", 1.0), tmp_path / "all.npz"
    embed(path, "-r", run, "--out", out)
    table = read_vectors(out)
    np.savez(out, names=np.array(table.names), vectors=table.vectors)
    found = embed("--index", out, "--query", path, "-r", run, "--json")
    assert found.exit_code == 0 and "does not record what made it" in found.stderr
    assert json.loads(found.stdout)[str(path)][0]["recording"] == str(path)


def test_failures_are_in_the_document(run: Path, tmp_path: Path) -> None:
    good, bad = write_audio(tmp_path / "a.wav", 1.0), tmp_path / "b.wav"
    bad.write_text("x")
    out = tmp_path / "all.npy"
    made = embed(bad, good, "-r", run, "--out", out, "--json")
    document = json.loads(made.stdout)
    assert document["names"] == [str(good)] and list(document["failures"]) == [str(bad)]
    assert np.load(out).shape == (1, 32) and "has rows only for" in made.stderr
    none = embed(bad, "-r", run, "--out", tmp_path / "none.npz", "--json")
    document = json.loads(none.stdout)
    assert document["out"] is None and document["recordings"] == 0 and document["failures"]
    embed(good, "-r", run, "--out", tmp_path / "i.npz")
    ask = ("--index", tmp_path / "i.npz", "-r", run, "--json", "--query", bad)
    assert "error" in json.loads(embed(*ask).stdout)[str(bad)]
    mixed = json.loads(embed(*ask, "--query", good).stdout)
    assert "error" in mixed[str(bad)] and mixed[str(good)][0]["cosine"] == pytest.approx(1)


def test_vectors_of_silence_have_cosines(tmp_path: Path) -> None:
    table = EmbeddingTable(("silence",), np.zeros((1, 4), np.float32))
    assert table.nearest(np.zeros((1, 4), np.float32), 1) == [[("silence", 0.0)]]
