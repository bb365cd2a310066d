"""Writes prepared data as plain files: audio and a table that ``prep --dataset csv`` reads.

For listening, for other programs, and to hand on a selection. Stored bytes are copied where the
format is the stored one; the other format holds the same 16-bit samples. JSON lists for the AST
repositories are optional.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np

from elastictool.audio.decode import decode, encode
from elastictool.audio.formats import AUDIO_SUFFIXES
from elastictool.corpora.classes import CLASS_TABLE
from elastictool.corpora.csv_list import EXPORTED, LABELS_NAME, TABLE_NAME
from elastictool.data.plan import file_name
from elastictool.data.splits import Indices
from elastictool.data.store import Clip, PreparedStore
from elastictool.utils.csv_files import write_rows
from elastictool.utils.errors import UsageError
from elastictool.utils.io import atomic_path, write_json, write_text
from elastictool.utils.progress import SILENT, Progress

AUDIO_FOLDER = "audio"


def export(
    store: PreparedStore,
    out: Path,
    *,
    split: str = "",
    encoding: Literal["flac", "wav"] = "flac",
    lists: bool = False,
    raw: bool = False,
    progress: Progress = SILENT,
) -> int:
    """Writes clips to ``out/audio``, and ``clips.csv`` and ``labels.txt`` next to it.

    Args:
        store: The prepared data.
        out: A folder that is new or empty.
        split: Only this split; empty takes all.
        encoding: Format of the files, 16 bit.
        lists: Also write the JSON lists of the AST repositories, one for each split, and their
            class table.
        raw: Write texts of the tables as they are, see ``write_rows``.
        progress: Where to show how far it is.

    Returns:
        Clips written.

    Raises:
        UsageError: ``out`` is not empty, there is no such split, or a label cannot be written
            into a table.
        ElasticToolError: ``out`` cannot be written.
    """
    if os.path.exists(out) and not os.path.isdir(out):
        raise UsageError(f"{out} is a file", "--out names a new folder")
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"{out} is not empty", "--out names a new or an empty folder")
    chosen = np.flatnonzero(store.splits == split) if split else np.arange(len(store))
    if not len(chosen):
        known = ", ".join(sorted(set(store.splits.tolist())))
        raise UsageError(f"{store.path} has no clip in split {split!r}", f"its splits are: {known}")
    _check_labels(store, chosen)
    names = file_names(store.ids[chosen].tolist(), encoding)
    rows = []
    with progress.task("export", len(chosen)) as bar:
        for index, name in zip(chosen.tolist(), names, strict=True):
            content = bytes(store.audio_bytes(index))
            if store.info.encoding != encoding:
                content = encode(*decode(content), encoding)
            with atomic_path(out / AUDIO_FOLDER / name) as temporary:
                temporary.write_bytes(content)
            rows.append(_row(store.clip(index), f"{AUDIO_FOLDER}/{name}"))
            bar.advance()
    write_text(out / LABELS_NAME, "".join(f"{label}\n" for label in store.info.label_names))
    write_rows(out / TABLE_NAME, EXPORTED, rows, raw)
    if lists:
        _write_lists(out, rows, store.info.label_names, raw)
    return len(rows)


def _write_lists(
    out: Path, rows: Sequence[Mapping[str, Any]], label_names: Sequence[str], raw: bool
) -> None:
    """Writes lists with absolute paths: the AST repositories run in other folders.

    Classes get identifiers: names may hold the commas by which these lists join labels.
    """
    identifiers = {name: f"class_{index:04d}" for index, name in enumerate(label_names)}
    table = [
        {"index": index, "mid": identifiers[name], "display_name": name}
        for index, name in enumerate(label_names)
    ]
    write_rows(out / CLASS_TABLE, ("index", "mid", "display_name"), table, raw)
    for split in dict.fromkeys(str(row["split"]) for row in rows):
        entries = [
            {
                "wav": str((out / row["path"]).absolute()),
                "labels": ",".join(identifiers[name] for name in row["label"].split("|")),
            }
            for row in rows
            if row["split"] == split
        ]
        write_json(out / f"{file_name(split)}.json", {"data": entries})


def file_names(ids: Sequence[str], ending: str) -> list[str]:
    """Returns a distinct file name of plain characters for each id, also where case is ignored."""
    taken: set[str] = set()
    names = []
    for clip_id in ids:
        suffix = PurePosixPath(clip_id).suffix
        text = clip_id[: -len(suffix)] if suffix.lower() in AUDIO_SUFFIXES else clip_id
        stem = re.sub(r"[^\w.-]+", "_", text, flags=re.ASCII).strip("._-")[:150] or "clip"
        name, number = f"{stem}.{ending}", 1
        while name.casefold() in taken:
            number += 1
            name = f"{stem}-{number}.{ending}"
        taken.add(name.casefold())
        names.append(name)
    return names


def _check_labels(store: PreparedStore, chosen: Indices) -> None:
    """Refuses labels that a table would change, and clips without one: every row needs one."""
    for label in store.info.label_names:
        if "|" in label or "\n" in label or label != label.strip() or not label:
            raise UsageError(
                f"the label {label!r} cannot be written into a table (labels are joined by |)",
                "rename it in the source and prepare the data again",
            )
    bare = np.setdiff1d(chosen, store.label_pairs()[0])
    if len(bare):
        splits = ", ".join(sorted(set(store.splits[bare].tolist())))
        raise UsageError(
            f"{len(bare)} clips have no label (split {splits}), and the table wants one for each: "
            f"the first is {str(store.ids[bare[0]])!r}",
            "export another --split",
        )


def _row(clip: Clip, path: str) -> dict[str, Any]:
    """Returns a row of the table; ``prep`` ignores ``id`` and ``source``."""
    return {
        "path": path,
        "label": "|".join(clip.labels),
        "split": clip.split,
        "fold": clip.fold or "",
        "group": clip.group,
        "id": clip.id,
        "source": clip.source,
    }
