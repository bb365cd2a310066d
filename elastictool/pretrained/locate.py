"""Finds weights: in a file, a folder as Hugging Face writes it, a run, or on the hub.

Also reads the JSON files next to weights: configurations, and the index of several weights files.
"""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from elastictool.utils.errors import CheckpointError, ElasticToolError, UsageError
from elastictool.utils.optional import missing_extra

INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
"""Names of an index of shards, which holds no weights itself."""
WEIGHTS = ("model.safetensors", "pytorch_model.bin", *INDEXES)
"""Names of weights in a Hugging Face folder, the preferred one first."""
RUN_WEIGHTS = ("checkpoints/best.safetensors", "checkpoints/last.safetensors")
_SHARD = re.compile(r"[^/\\]+-\d+-of-0*(?P<count>\d+)\.(safetensors|bin)")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def find_weights(given: str, hub: bool = True) -> Path:
    """Returns the weights file that ``given`` names; with ``hub`` it may be an id on Hugging Face.

    Raises:
        UsageError: There is none.
        ElasticToolError: The hub cannot be reached, or ``huggingface_hub`` is not installed.
    """
    path = Path(os.path.expanduser(given))
    shard = _SHARD.fullmatch(path.name)
    if path.is_file() and shard and shard["count"] != "1":
        raise UsageError(
            f"{path} is one of several files of a model", f"name their folder: {path.parent}"
        )
    if path.is_file():
        return path
    if path.is_dir():
        names = (*RUN_WEIGHTS, *WEIGHTS)
        for name in names:
            if (path / name).is_file():
                return path / name
        raise UsageError(
            f"{path} holds no weights (looked for {', '.join(names)})", "name the file itself"
        )
    endings = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
    if hub and _HUB_ID.fullmatch(given) and not given.endswith(endings):
        return from_hub(given)
    raise UsageError(
        f"{given} does not exist",
        "give a weights file, a folder with config.json, a run, or a Hugging Face id (owner/name)"
        if hub
        else "give a run directory, or a weights file that elastictool wrote",
    )


def from_hub(name: str) -> Path:
    """Fetches ``name``, or takes it from the hub's cache; HF_HUB_OFFLINE fetches nothing."""
    if lack := missing_extra("hub", "huggingface_hub"):
        raise ElasticToolError(
            f"{name} is not a file here, and looking it up on the Hugging Face hub needs the extra "
            "hub",
            lack,
        )
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    failures: list[Exception] = []
    for weights in WEIGHTS:
        try:
            file = Path(hf_hub_download(name, weights))
            for shard in sorted(set(shard_of_tensors(file).values())) if weights in INDEXES else ():
                hf_hub_download(name, shard)
        except (OSError, ValueError, EntryNotFoundError) as error:
            failures.append(error)
            continue
        for json_file in ("config.json", "preprocessor_config.json"):
            with suppress(OSError, ValueError, EntryNotFoundError):
                hf_hub_download(name, json_file)
        return file
    reason = str(failures[0]).partition("\n")[0]
    raise ElasticToolError(
        f"{name} is neither a file here nor available from the Hugging Face hub: {reason}",
        "check the id and the network; with HF_HUB_OFFLINE=1 only what is cached is found",
    )


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
                f"{index} names {str(name)[:60]!r}, which is no shard next to it",
                "shards are called NAME-00001-of-00002.safetensors",
            )
    return table
