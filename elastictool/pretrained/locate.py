"""Finds weights: in a file, a folder as Hugging Face writes it, a run, or on the hub."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from elastictool.pretrained.hf_files import INDEXES, is_index, is_shard, shard_of_tensors
from elastictool.utils.errors import ElasticToolError, UsageError
from elastictool.utils.optional import missing_extra

WEIGHTS = ("model.safetensors", "pytorch_model.bin", *INDEXES)
"""Names of weights in a Hugging Face folder, the preferred one first."""
JSON_FILES = ("config.json", "preprocessor_config.json")
RUN_WEIGHTS = ("checkpoints/best.safetensors", "checkpoints/last.safetensors")

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_FILE_ENDINGS = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")


def find_weights(given: str, hub: bool = True) -> Path:
    """Returns the weights file that ``given`` names; with ``hub`` it may be an id on Hugging Face.

    Raises:
        UsageError: There is none.
        ElasticToolError: The hub cannot be reached, or ``huggingface_hub`` is not installed.
    """
    path = Path(os.path.expanduser(given))
    if path.is_file() and is_shard(path):
        raise UsageError(
            f"{path} is one of several files of a model", f"name their folder: {path.parent}"
        )
    if path.is_file():
        return path
    if path.is_dir():
        return _in_folder(path)
    if hub and _HUB_ID.fullmatch(given) and not given.endswith(_FILE_ENDINGS):
        return _from_hub(given)
    raise UsageError(
        f"{given} does not exist",
        "give a weights file, a folder with config.json, a run, or a Hugging Face id (owner/name)"
        if hub
        else "give a run directory, or a weights file that elastictool wrote",
    )


def _in_folder(folder: Path) -> Path:
    for name in (*RUN_WEIGHTS, *WEIGHTS):
        if (folder / name).is_file():
            return folder / name
    raise UsageError(
        f"{folder} holds no weights (looked for {', '.join((*RUN_WEIGHTS, *WEIGHTS))})",
        "name the file itself",
    )


def _from_hub(name: str) -> Path:
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
            for shard in sorted(set(shard_of_tensors(file).values())) if is_index(file) else ():
                hf_hub_download(name, shard)
        except (OSError, ValueError, EntryNotFoundError) as error:
            failures.append(error)
            continue
        for json_file in JSON_FILES:
            with suppress(OSError, ValueError, EntryNotFoundError):
                hf_hub_download(name, json_file)
        return file
    reason = str(failures[0]).partition("\n")[0]
    raise ElasticToolError(
        f"{name} is neither a file here nor available from the Hugging Face hub: {reason}",
        "check the id and the network; with HF_HUB_OFFLINE=1 only what is cached is found",
    )
