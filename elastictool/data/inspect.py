"""Lists prepared datasets and describes one of them, from metadata alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elastictool.data.store import DATA_ROOT, PreparedStore
from elastictool.data.summary import REJECTED_NAME
from elastictool.utils.csv_files import read_rows
from elastictool.utils.errors import ElasticToolError, UsageError
from elastictool.utils.io import INFO_NAME, PROGRESS_FOLDER, composed

PERCENTILES = (0, 10, 50, 90, 99, 100)
SMALL_CLIPS = 20_000
"""Fewer clips than this are too few for a large model from new weights."""
_EDGES_S = (
    *(0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0),
    *(3600.0, 2 * 3600.0, 5 * 3600.0, 10 * 3600.0, 24 * 3600.0),
)


@dataclass(frozen=True)
class DatasetEntry:
    """One folder under the data root.

    Attributes:
        name: Its name.
        state: ``ready``, ``unfinished`` or what is wrong with it.
        corpus: Corpus that listed it; empty unless it is ready, like all that follows.
        clips: Clips in it.
        classes: Labels.
        seconds: Length of all clips.
        num_bytes: Size on disk.
        fingerprint: Hash of clip list and settings.
    """

    name: str
    state: str
    corpus: str = ""
    clips: int = 0
    classes: int = 0
    seconds: float = 0.0
    num_bytes: int = 0
    fingerprint: str = ""


def list_datasets(root: Path = DATA_ROOT) -> list[DatasetEntry]:
    """Returns all datasets under ``root`` by name, finished or not."""
    marks = [mark for name in (INFO_NAME, PROGRESS_FOLDER) for mark in root.glob(f"*/{name}")]
    return [_entry(folder) for folder in sorted({mark.parent for mark in marks})]


def _entry(folder: Path) -> DatasetEntry:
    size = sum(path.stat().st_size for path in folder.glob("shard-*.arrow"))
    if not (folder / INFO_NAME).exists():
        return DatasetEntry(folder.name, "unfinished", num_bytes=size)
    try:
        store = PreparedStore.open(folder)
    except ElasticToolError as error:
        return DatasetEntry(folder.name, error.message, num_bytes=size)
    info = store.info
    return DatasetEntry(
        name=folder.name,
        state="ready",
        corpus=info.corpus,
        clips=len(store),
        classes=len(info.label_names),
        seconds=float(durations_s(store).sum()),
        num_bytes=size,
        fingerprint=info.fingerprint,
    )


def durations_s(store: PreparedStore) -> NDArray[np.float64]:
    """Returns the (n,) length of each clip in seconds."""
    return store.num_samples / store.info.sample_rate_hz


def duration_histogram(seconds: NDArray[np.float64]) -> list[tuple[float, float, int]]:
    """Returns (from, to, clips) at round edges, from the shortest clip's to the longest's."""
    edges = np.array([*_EDGES_S, np.inf])
    counts, _ = np.histogram(seconds, edges)
    filled = np.flatnonzero(counts)
    if not len(filled):
        return []
    return [
        (float(edges[bin]), float(edges[bin + 1]), int(counts[bin]))
        for bin in range(filled[0], filled[-1] + 1)
    ]


def clips_per_class(store: PreparedStore) -> dict[str, dict[str, int]]:
    """Counts the clips of each class in each split, both in the dataset's order."""
    clips, classes = store.label_pairs()
    names = store.info.label_names
    pairs = Counter(zip(classes.tolist(), store.splits[clips].tolist(), strict=True))
    return {
        name: {split: pairs[index, split] for split in store.info.splits}
        for index, name in enumerate(names)
    }


def read_rejected(folder: Path) -> list[dict[str, str]]:
    """Reads the rows of ``rejected.csv``: id, path, reason; none where there is no such file.

    Raises:
        ElasticToolError: It is damaged.
    """
    path = folder / REJECTED_NAME
    rows = read_rows(path) if path.is_file() else []
    if not all(row.keys() >= {"id", "path", "reason"} for row in rows):
        raise ElasticToolError(
            f"{path} is damaged: a row has no id, path and reason",
            "delete it, or prepare the data again with --overwrite",
        )
    return rows


def find_clip(store: PreparedStore, clip_id: str) -> int:
    """Returns the index of the clip called ``clip_id``.

    Raises:
        UsageError: There is none; the hint names clips whose id holds the text.
    """
    found = np.flatnonzero(store.ids == clip_id)
    if not len(found) and not clip_id.isascii():
        same = [composed(name) == composed(clip_id) for name in store.ids.tolist()]
        found = np.flatnonzero(same)
    if len(found):
        return int(found[0])
    alike = [name for name in store.ids.tolist() if clip_id in name]
    some = ", ".join((alike or store.ids.tolist())[:5])
    kind = "ids that hold this text" if alike else "its ids look like this"
    raise UsageError(f"{store.path} has no clip {clip_id!r}", f"{kind}: {some}")


def facts(store: PreparedStore) -> dict[str, Any]:
    """Returns ``dataset.json`` and values derived from it, for ``prep --json``."""
    seconds = durations_s(store)
    mean, std = store.info.fbank_stats()
    return {
        "path": str(store.path),
        **store.info.to_json(),
        "durations_s": {
            f"p{share}": round(float(np.percentile(seconds, share)), 4) for share in PERCENTILES
        },
        "total_s": round(float(seconds.sum()), 3),
        "fbank_mean": mean,
        "fbank_std": std,
        "clips_per_class": {
            name: sum(counts.values()) for name, counts in clips_per_class(store).items()
        },
    }


def training_settings(store: PreparedStore) -> list[str]:
    """Returns the settings that training on these data needs: fbank, fold, validation, loss."""
    settings = []
    frontend = store.info.fbank_config.get("frontend", "kaldi")
    if frontend != "kaldi":
        settings.append(f"fbank.frontend={frontend}")
    splits, folds = set(store.splits.tolist()), sorted(set(store.folds.tolist()))
    if len(folds) > 1 and splits == {"train"}:
        settings.append(f"data.test_fold={folds[0] or folds[1]}")
    if "val" not in splits:
        settings.append("data.validation_fraction=0.1")
    if store.info.multi_label:
        settings.append("train.loss=bce")
    return settings
