"""Weights in several files, as Hugging Face writes large models, and the index that names them."""

from __future__ import annotations

import re
from pathlib import Path

from elastictool.pretrained.hf_files import read_json
from elastictool.utils.errors import CheckpointError

INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_SHARD = re.compile(r"[^/\\]+-\d+-of-0*(?P<count>\d+)\.(safetensors|bin)")


def is_index(file: Path) -> bool:
    """Whether ``file`` is an index of shards and holds no weights itself."""
    return file.name in INDEXES


def is_shard(file: Path) -> bool:
    """Whether ``file`` is called like one of several files of a model."""
    found = _SHARD.fullmatch(file.name)
    return found is not None and found["count"] != "1"


def shard_of_tensors(index: Path) -> dict[str, str]:
    """The shard (a plain name beside ``index``) of each tensor.

    Raises:
        CheckpointError: It is no index, or names files elsewhere.
    """
    table = read_json(index).get("weight_map")
    if not isinstance(table, dict) or not table:
        raise CheckpointError(f"{index} has no weight_map", "fetch it again")
    for name in table.values():
        if not isinstance(name, str) or _SHARD.fullmatch(name) is None:
            raise CheckpointError(
                f"{index} names {str(name)[:60]!r}, which is no shard beside it",
                "shards are called NAME-00001-of-00002.safetensors",
            )
    return table
