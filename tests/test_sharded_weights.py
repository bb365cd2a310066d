"""Weights in several files are the weights in one."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from elastictool.checkpoint.weights import import_weights
from elastictool.config import InitConfig
from elastictool.utils.errors import CheckpointError, UsageError
from tests.helpers import foreign_weights


def write_shards(folder: Path, kind: str = "safetensors") -> list[Path]:
    """An AST of Hugging Face in two shards with their index."""
    sample = foreign_weights.hf_ast(depth=1)
    sample.write(folder)
    (folder / sample.file).unlink()
    stem = {"safetensors": "model", "bin": "pytorch_model"}[kind]
    names = [f"{stem}-{number:05}-of-00002.{kind}" for number in (1, 2)]
    keys = list(sample.tensors)
    where = {key: names[number % 2] for number, key in enumerate(keys)}
    for name in names:
        held = {key: sample.tensors[key] for key in keys if where[key] == name}
        if kind == "bin":
            torch.save(held, folder / name)
        else:
            save_file(held, folder / name)
    index = {"metadata": {}, "weight_map": where}
    (folder / f"{stem}.{kind}.index.json").write_text(json.dumps(index))
    return [folder / name for name in names]


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_shards_are_read_as_one_file(kind: str, tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "parts", kind)
    whole = foreign_weights.hf_ast(depth=1).write(tmp_path / "whole")
    one, two = (import_weights(InitConfig("hf-ast", str(path.parent)))
                for path in (whole / "model.safetensors", shards[0]))  # fmt: skip
    assert one.state.keys() == two.state.keys()
    assert all(torch.equal(one.state[name], two.state[name]) for name in one.state)
    joined = b"".join(shard.read_bytes() for shard in shards)
    assert two.report.sha256 == hashlib.sha256(joined).hexdigest()


def test_one_shard_of_several_is_no_model(tmp_path: Path) -> None:
    shards = write_shards(tmp_path)
    with pytest.raises(UsageError, match="one of several files") as caught:
        import_weights(InitConfig("hf-ast", str(shards[0])))
    assert str(tmp_path) in caught.value.hint


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", "sub/model-00001-of-00002.safetensors", "", 7]
)
def test_an_index_leads_nowhere_else(name: object, tmp_path: Path) -> None:
    write_shards(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    table = json.loads(index.read_text())["weight_map"]
    index.write_text(json.dumps({"weight_map": table | {"x": name}}))
    with pytest.raises(CheckpointError, match="no shard next to it"):
        import_weights(InitConfig("hf-ast", str(tmp_path)))


def test_an_index_must_agree_with_its_shards(tmp_path: Path) -> None:
    shards = write_shards(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    table = json.loads(index.read_text())["weight_map"]
    changes = {
        "promises": table | {"more": shards[0].name},
        "looks for elsewhere": table | {next(iter(table)): shards[1].name},
        "has no weight_map": {},
    }
    for words, changed in changes.items():
        index.write_text(json.dumps({"weight_map": changed}))
        with pytest.raises(CheckpointError, match=words):
            import_weights(InitConfig("hf-ast", str(tmp_path)))
    index.write_text(json.dumps({"weight_map": table}))
    shards[1].unlink()
    with pytest.raises(UsageError, match="cannot read"):
        import_weights(InitConfig("hf-ast", str(tmp_path)))
