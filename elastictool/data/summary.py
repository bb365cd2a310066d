"""Finishes ``prep``: sums up the reports of all shards in ``dataset.json``.

Sums are added in shard order, so that their rounding does not depend on which was finished first.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from elastictool.audio.decode import RESAMPLER
from elastictool.audio.losses import loss_notes
from elastictool.corpora.base import Listing, SourceClip
from elastictool.corpora.checks import missing_files, some_of
from elastictool.data.levels import SILENT_DB
from elastictool.data.plan import Plan, measured_clips
from elastictool.data.shards import ShardReport, add_sums
from elastictool.data.store import DatasetInfo, FbankSums, SplitCounts
from elastictool.utils.csv_files import write_rows
from elastictool.utils.errors import ElasticToolError, RejectedItemsError
from elastictool.utils.io import (
    INFO_NAME,
    PROGRESS_FOLDER,
    readable,
    remove_temporaries,
    write_json,
)

REJECTED_NAME = "rejected.csv"
_NAMED = 20
"""Classes without clips that a note names."""


def finish(plan: Plan, reports: Sequence[ShardReport]) -> None:
    """Writes ``rejected.csv``, if a clip was lost, and last of all ``dataset.json``.

    Raises:
        ElasticToolError: No clip could be used, or the target cannot be written.
    """
    folder, listing, storage = plan.folder, plan.listing, plan.options.storage
    missing = [(clip.id, clip.path, clip.reason) for clip in listing.missing]
    rejected = [row for report in reports for row in report.rejected]
    columns = ("id", "path", "reason")
    rows = [dict(zip(columns, row, strict=True)) for row in (*missing, *rejected)]
    (folder / REJECTED_NAME).unlink(missing_ok=True)
    if rows:
        write_rows(folder / REJECTED_NAME, columns, rows)
    num_clips = sum(report.rows for report in reports)
    if not num_clips:
        for path in folder.glob("shard-*.arrow"):  # so that the next run tries again
            path.unlink()
        clean(folder)
        clip_id, _, reason = rejected[0]
        raise ElasticToolError(
            f"all {len(listing.clips)} clips were rejected; the first, {clip_id}: {reason}",
            f"{folder / REJECTED_NAME} lists them all",
        )
    source_rates = _total(report.source_rates for report in reports)
    sums = add_sums(row for report in reports for row in report.sums)
    info = DatasetInfo(
        name=folder.name,
        corpus=plan.corpus.name,
        label_names=listing.label_names,
        multi_label=listing.multi_label,
        sample_rate_hz=storage.fbank.sample_rate_hz,
        encoding=storage.encoding,
        channel=str(storage.channel),
        resampler=RESAMPLER,
        source_rates=dict(sorted(source_rates.items())),
        fingerprint=plan.fingerprint,
        num_clips=num_clips,
        num_shards=len(reports),
        splits=_split_counts(listing, reports),
        fbank_config=asdict(storage.fbank),
        fbank_sums=[FbankSums(*row) for row in sorted(sums)],
        notes=[
            *listing.notes,
            *listing.warnings,
            *_plan_notes(plan),
            *_file_notes(reports),
            *_level_notes(reports),
            *_clip_notes(listing, reports, rejected),
        ],
        stats_clips=storage.stats_clips,
    )
    write_json(folder / INFO_NAME, info.to_json())
    clean(folder)


def clean(folder: Path) -> None:
    """Deletes files that only an unfinished dataset needs, and leftovers of killed processes."""
    remove_temporaries(folder)
    shutil.rmtree(folder / PROGRESS_FOLDER, ignore_errors=True)


def _plan_notes(plan: Plan) -> Iterator[str]:
    """Yields notes on options, and on groups and files with clips in several splits or folds."""
    storage, clips = plan.options.storage, plan.listing.clips
    if storage.trim_silence:
        what = "digital silence"
        if storage.trim_silence is not True:
            what = f"what stays under {storage.trim_silence:g} dBFS"
        yield f"{what} at both ends was cut off (--trim-silence)"
    if storage.max_seconds:
        yield f"clips were cut to their first {storage.max_seconds:g} s (--max-seconds)"
    if storage.stats_clips:
        count = len(measured_clips(clips, storage, 0) or ())
        yield f"mean and deviation are of {count} drawn clips (--stats-clips)"
    groups = _spread((clip.group, (clip.split, clip.fold)) for clip in clips)
    files = _spread((clip.path, (clip.split, clip.fold)) for clip in clips if not clip.group)
    for what, names in (("groups (videos, speakers)", groups), ("files", files)):
        if names:
            yield (
                f"{len(names)} {what} have clips in several splits or folds, so scores may be "
                f"flattered: {readable(', '.join(names[:3]))}"
            )


def _spread(placed: Iterable[tuple[str, tuple[str, int]]]) -> list[str]:
    """Returns names that occur with several (split, fold), sorted; empty ones are passed over."""
    first: dict[str, tuple[str, int]] = {}
    return sorted({name for name, part in placed if name and first.setdefault(name, part) != part})


def _total(counts: Iterable[Mapping[str, int]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for part in counts:
        total.update(part)
    return total


def _split_counts(listing: Listing, reports: Sequence[ShardReport]) -> dict[str, SplitCounts]:
    found = Counter(clip.split for clip in listing.clips)
    missing = Counter(clip.split for clip in listing.missing)
    usual = {"train": 0, "val": 1, "test": 2}
    names = sorted({*found, *missing, *listing.expected}, key=lambda s: (usual.get(s, 3), s))
    return {
        split: SplitCounts(
            found=found[split],
            expected=listing.expected.get(split, 0),
            missing=missing[split],
            **_total(report.counts.get(split, {}) for report in reports),
        )
        for split in names
    }


def _file_notes(reports: Sequence[ShardReport]) -> Iterator[str]:
    """Yields notes on wrong endings and on what was not read."""
    found = {path: kind for report in reports for path, kind in report.misnamed.items()}
    if found:
        examples = ", ".join(f"{path} is {kind}" for path, kind in list(found.items())[:3])
        yield f"{len(found)} files hold another format than their ending says: {examples}"
    yield from loss_notes(row for report in reports for row in report.losses)


def _level_notes(reports: Sequence[ShardReport]) -> Iterator[str]:
    """Yields notes on clips that are too loud for 16 bits, or silent."""
    count = sum(counts.get("clipped", 0) for report in reports for counts in report.counts.values())
    if count:
        name, peak = max((report.loudest for report in reports), key=lambda loudest: loudest[1])
        go = "clip goes beyond full scale and was"
        go = go if count == 1 else "clips go beyond full scale and were"
        yield f"{count} {go} clipped to it; the loudest reaches {peak:.2f} times full scale: {name}"
    silent = {name: split for report in reports for name, split in report.silent.items()}
    level = f"under {SILENT_DB:g} dBFS, or constant"
    training = [name for name, split in silent.items() if split == "train"]
    counts = _total(report.counts.get("train", {}) for report in reports)
    if len(training) == counts["prepared"]:
        silent = {name: split for name, split in silent.items() if split != "train"}
        if training:
            yield (
                f"all {len(training)} training clips are silent ({level}), so nothing can be "
                f"learnt from them: {some_of(training)}"
            )
    if silent:
        are = "clip is" if len(silent) == 1 else "clips are"
        yield f"{len(silent)} {are} silent ({level}): {some_of(silent)}"


def _clip_notes(
    listing: Listing, reports: Sequence[ShardReport], rejected: Sequence[Sequence[str]]
) -> Iterator[str]:
    """Yields notes on equal recordings, on splits and labels without clips, and on lost clips."""
    refused = {row[0] for row in rejected}
    stored = [clip for clip in listing.clips if clip.id not in refused]
    yield from _alike(stored, [digest for report in reports for digest in report.digests])
    splits = {clip.split for clip in listing.clips} - {clip.split for clip in stored}
    if splits:
        yield f"no clip of these splits could be used: {', '.join(sorted(splits))}"
    left = {label for clip in stored for label in clip.labels}
    labels = sorted({label for clip in listing.clips for label in clip.labels} - left)
    if labels:
        yield f"no clip of these labels could be used: {some_of(labels)}"
    trained = {label for clip in stored if clip.split == "train" for label in clip.labels}
    untrained = [label for label in listing.label_names if label not in {*trained, *labels}]
    if trained and untrained:
        names = some_of(untrained, _NAMED)
        has = "class has" if len(untrained) == 1 else "classes have"
        yield f"{len(untrained)} {has} no clip to train on (split train): {names}"
    if missing := missing_files(listing):
        yield missing
    if rejected:
        were = "clip was" if len(rejected) == 1 else "clips were"
        some = some_of(f"{row[1]} ({row[2]})" for row in rejected)
        yield f"{len(rejected)} {were} rejected: {some}"


def _alike(clips: Sequence[SourceClip], hashes: Sequence[int]) -> Iterator[str]:
    """Yields notes on recordings that hold the same samples under several names."""
    digests = np.array(hashes, dtype=np.uint64)
    _, first, which = np.unique(digests, return_index=True, return_inverse=True)
    first = first[which]
    repeats = np.flatnonzero((first != np.arange(len(clips))) & (digests != 0))
    pairs = [(clips[int(first[index])], clips[int(index)]) for index in repeats]
    if not pairs:
        return
    labels = sum(set(one.labels) != set(other.labels) for one, other in pairs)
    differ = f", {labels} of them under another label" if labels else ""
    yield f"clips that hold the same samples as another: {len(pairs)}{differ} ({_pairs(pairs)})"
    apart = [(a, b) for a, b in pairs if (a.split, a.fold) != (b.split, b.fold)]
    if apart:
        yield (
            f"the same samples lie in several splits or folds {len(apart)} times, so scores may be "
            f"flattered: {_pairs(apart)}"
        )


def _pairs(pairs: Sequence[tuple[SourceClip, SourceClip]]) -> str:
    return readable(some_of(f"{one.id} = {other.id}" for one, other in pairs))


def check_rejected(info: DatasetInfo, max_share: float, missing_too: bool = True) -> None:
    """Raises if more than ``max_share`` of the clips were rejected, or are missing.

    A file that a user's own list names has to be there as much as it has to be readable. Copies
    of published corpora may lack some of the published clips: there is a note for that.

    Args:
        info: Of the prepared data.
        max_share: Of all clips that should be there.
        missing_too: False where only some of those that are there were prepared.

    Raises:
        RejectedItemsError: More clips are lost than allowed.
    """
    is_published = any(counts.expected for counts in info.splits.values())
    missing = info.missing if missing_too and not is_published else 0
    clips = sum(counts.found for counts in info.splits.values()) + missing
    lost = info.rejected + missing
    if lost > max_share * clips:
        what = "were rejected or are missing" if missing else "were rejected"
        raise RejectedItemsError(
            f"{lost} of {clips} clips {what} ({lost / clips:.1%}, allowed {max_share:.1%})",
            f"{REJECTED_NAME} next to the data has the reasons; --max-rejected sets the limit",
        )
