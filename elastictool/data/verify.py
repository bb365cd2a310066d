"""Checks a prepared dataset: decode every clip and compare it with its row.

Disks fail and copies stop half-way; training on the rest gives no error, only worse models.
Nothing is repaired here: prepare the data again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from elastictool.audio.decode import recording
from elastictool.config import FbankConfig
from elastictool.config.coerce import from_dict
from elastictool.data.store import Clip, PreparedStore
from elastictool.utils.errors import AudioError
from elastictool.utils.progress import SILENT, Progress


@dataclass(frozen=True)
class Fault:
    """One fault of a prepared dataset.

    Attributes:
        clip: Id of the clip; empty where it concerns the whole dataset.
        what: What is wrong.
    """

    clip: str
    what: str


def verify(path: Path, progress: Progress = SILENT) -> tuple[PreparedStore, list[Fault]]:
    """Opens the readable shards of the dataset in ``path``; returns them and all faults.

    Each clip is checked: it decodes, has the samples and rate that its row states, and its
    labels are the dataset's. Of the whole: shards are readable and belong to this preparation
    (fingerprint), ids are distinct, and counts and filterbank frames add up to those in
    ``dataset.json``.

    Raises:
        UsageError: It is not a prepared dataset.
        ElasticToolError: Its ``dataset.json`` is damaged.
    """
    store, unreadable = PreparedStore.open_readable_shards(path)
    whole = (*(error.message for error in unreadable), *_of_the_whole(store))
    faults = [Fault("", what) for what in whole]
    known = set(store.info.label_names)
    with progress.task("verify", len(store)) as bar:
        for index in range(len(store)):
            clip = store.clip(index)
            if strangers := [label for label in clip.labels if label not in known]:
                what = f"has labels that the dataset does not list: {', '.join(strangers)}"
                faults.append(Fault(clip.id, what))
            if what := _of_audio(store, index, clip):
                faults.append(Fault(clip.id, what))
            bar.advance()
    return store, faults


def _of_audio(store: PreparedStore, index: int, clip: Clip) -> str:
    if clip.sample_rate_hz != store.info.sample_rate_hz:
        return f"its row says {clip.sample_rate_hz} Hz, not {store.info.sample_rate_hz}"
    try:
        with recording(store.audio_source(index)) as stored:
            count, rate_hz = sum(map(len, stored.blocks())), stored.sample_rate_hz
    except AudioError as error:
        return error.message.split(": ", 1)[-1]
    if (count, rate_hz) != (clip.num_samples, clip.sample_rate_hz):
        row = f"{clip.num_samples} at {clip.sample_rate_hz} Hz"
        return f"decodes to {count} samples at {rate_hz} Hz, its row says {row}"
    return ""


def _of_the_whole(store: PreparedStore) -> Iterator[str]:
    info = store.info
    for index, fingerprint in enumerate(store.shard_fingerprints()):
        if fingerprint and fingerprint != info.fingerprint:
            yield f"shard {index} is of another preparation (its fingerprint differs)"
    repeated = [clip for clip, count in Counter(store.ids.tolist()).items() if count > 1]
    if repeated:
        yield f"{len(repeated)} ids occur more than once: {', '.join(repeated[:5])}"
    present = Counter(store.splits.tolist())
    for split in sorted({*present, *info.splits}):
        promised = info.splits[split].prepared if split in info.splits else 0
        if present[split] != promised:
            yield f"split {split} has {present[split]} clips, dataset.json says {promised}"
    frames = from_dict(FbankConfig, info.fbank_config).num_frames(store.num_samples)
    for sums in info.fbank_sums:
        chosen = (store.splits == sums.split) & (store.folds == sums.fold)
        count = int(frames[chosen].sum())
        if sums.frames > count or (sums.frames < count and not info.stats_clips):
            yield (
                f"split {sums.split}, fold {sums.fold} has {count} frames, but the "
                f"mean and deviation were measured on {sums.frames}"
            )
