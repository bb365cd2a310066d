"""Prepared data as plain files again: audio beside a table that ``prep --dataset csv`` reads back.

For listening, for other programs, and to hand on a selection. Stored bytes are copied where the
format is the stored one; the other format holds the same 16-bit samples. For the AST repositories
there can be their JSON lists, too.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np

from elastictool.audio.decode import decode, encode
from elastictool.audio.formats import AUDIO_SUFFIXES
from elastictool.corpora.class_table import CLASS_TABLE
from elastictool.corpora.csv_list import LABELS_NAME, TABLE_NAME
from elastictool.data.plan import file_name
from elastictool.data.store import Clip, PreparedStore
from elastictool.utils.errors import UsageError
from elastictool.utils.io import atomic_path, write_json, write_rows, write_text
from elastictool.utils.progress import SILENT, Progress

AUDIO_FOLDER = "audio"


def export(
    store: PreparedStore,
    out: Path,
    *,
    split: str = "",
    encoding: Literal["flac", "wav"] = "flac",
    lists: bool = False,
    progress: Progress = SILENT,
) -> int:
    """Write clips to ``out/audio``, and ``clips.csv`` and ``labels.txt`` beside it.

    Args:
        store: The prepared data.
        out: A folder that is new or empty.
        split: Only this split; empty takes all.
        encoding: Format of the files, 16 bit.
        lists: Also write the JSON lists of the AST repositories, one for each split, and their
            class table.
        progress: Where to show how far it is.

    Returns:
        Clips written.

    Raises:
        UsageError: ``out`` is not empty, there is no such split, or a label cannot be written
            into a table.
        ElasticToolError: ``out`` cannot be written.
    """
    _check_target(out)
    _check_labels(store)
    chosen = _chosen(store, split)
    _check_labelled(store, chosen)
    names = file_names([str(store.ids[index]) for index in chosen], encoding)
    rows = []
    with progress.task("export", len(chosen)) as bar:
        for index, name in zip(chosen, names, strict=True):
            path = PurePosixPath(AUDIO_FOLDER) / name
            with atomic_path(out / path) as temporary:
                temporary.write_bytes(_content(store, index, encoding))
            rows.append(_row(store.clip(index), str(path)))
            bar.advance()
    write_text(out / LABELS_NAME, "".join(f"{label}\n" for label in store.info.label_names))
    _write_table(out / TABLE_NAME, rows)
    if lists:
        _write_lists(out, rows, store.info.label_names)
    return len(rows)


def _write_lists(out: Path, rows: Sequence[Mapping[str, Any]], label_names: Sequence[str]) -> None:
    """Lists with absolute paths, because the AST repositories open them from where they stand.

    Classes go by identifiers of ours: names may hold the commas by which these lists join labels.
    """
    identifiers = {name: f"class_{index:04d}" for index, name in enumerate(label_names)}
    table = [
        {"index": index, "mid": identifiers[name], "display_name": name}
        for index, name in enumerate(label_names)
    ]
    write_rows(out / CLASS_TABLE, ("index", "mid", "display_name"), table)
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
    """A distinct file name for each id, distinct where upper and lower case are one, too."""
    taken: set[str] = set()
    names = []
    for clip_id in ids:
        stem = _stem(clip_id)
        name, number = f"{stem}.{ending}", 1
        while name.casefold() in taken:
            number += 1
            name = f"{stem}-{number}.{ending}"
        taken.add(name.casefold())
        names.append(name)
    return names


def _stem(clip_id: str) -> str:
    """An id as a file name: without an audio ending, and with plain characters only."""
    path = PurePosixPath(clip_id)
    text = clip_id[: -len(path.suffix)] if path.suffix.lower() in AUDIO_SUFFIXES else clip_id
    return re.sub(r"[^\w.-]+", "_", text, flags=re.ASCII).strip("._-")[:150] or "clip"


def _check_target(out: Path) -> None:
    if out.is_file():
        raise UsageError(f"{out} is a file", "--out names a new folder")
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"{out} is not empty", "--out names a new or an empty folder")


def _check_labels(store: PreparedStore) -> None:
    """A table joins labels by | and trims them; a name that would not survive is refused."""
    for label in store.info.label_names:
        if "|" in label or "\n" in label or label != label.strip() or not label:
            raise UsageError(
                f"the label {label!r} cannot be written into a table (labels are joined by |)",
                "rename it in the source and prepare the data again",
            )


def _check_labelled(store: PreparedStore, chosen: Sequence[int]) -> None:
    """Every row of the table has a label; asked before the first file is written."""
    bare = sorted(set(chosen) - set(store.label_pairs()[0].tolist()))
    if bare:
        splits = ", ".join(sorted(set(store.splits[bare].tolist())))
        raise UsageError(
            f"{len(bare)} clips have no label (split {splits}), and the table wants one for each: "
            f"the first is {str(store.ids[bare[0]])!r}",
            "export another --split",
        )


def _chosen(store: PreparedStore, split: str) -> list[int]:
    chosen = np.flatnonzero(store.splits == split) if split else np.arange(len(store))
    if not len(chosen):
        known = ", ".join(sorted(set(store.splits.tolist())))
        raise UsageError(f"{store.path} has no clip in split {split!r}", f"its splits are: {known}")
    return [int(index) for index in chosen]


def _content(store: PreparedStore, index: int, encoding: Literal["flac", "wav"]) -> bytes:
    stored = bytes(store.audio_bytes(index))
    if store.info.encoding == encoding:
        return stored
    waveform, rate_hz = decode(stored)
    return encode(waveform, rate_hz, encoding)


def _row(clip: Clip, path: str) -> dict[str, Any]:
    """A row of the table; ``id`` and ``source`` are for the reader, ``prep`` passes them over."""
    return {
        "path": path,
        "label": "|".join(clip.labels),
        "split": clip.split,
        "fold": clip.fold or "",
        "group": clip.group,
        "id": clip.id,
        "source": clip.source,
    }


def _write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
