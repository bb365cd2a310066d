"""JSON files next to weights: configurations, and the index of several weights files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from elastictool.utils.errors import CheckpointError

INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_SHARD = re.compile(r"[^/\\]+-\d+-of-0*(?P<count>\d+)\.(safetensors|bin)")


def read_json(file: Path) -> dict[str, Any]:
    """Returns the JSON object in ``file``; empty where there is no such file.

    Raises:
        CheckpointError: It is not JSON, or not an object.
    """
    if not file.is_file():
        return {}
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(document, dict):
        raise CheckpointError(f"{file} must hold a JSON object")
    return document


def is_index(file: Path) -> bool:
    """Says whether ``file`` is an index of shards and holds no weights itself."""
    return file.name in INDEXES


def is_shard(file: Path) -> bool:
    """Says whether ``file`` is named like one of several files of a model."""
    found = _SHARD.fullmatch(file.name)
    return found is not None and found["count"] != "1"


def shard_of_tensors(index: Path) -> dict[str, str]:
    """Returns the shard (a plain name next to ``index``) of each tensor.

    Raises:
        CheckpointError: It is not an index, or names files elsewhere.
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
