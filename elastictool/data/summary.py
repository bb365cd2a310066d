"""The end of ``prep``: what all shards together say goes into ``dataset.json``.

Sums are added in shard order, so that their rounding does not depend on who finished first.
"""

from __future__ import annotations

import csv
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from elastictool.audio.decode import RESAMPLER
from elastictool.corpora.base import Corpus, Listing, SourceClip
from elastictool.corpora.warnings import missing_files, some_of
from elastictool.data.plan import measured_clips
from elastictool.data.shards import PrepSettings, ShardReport
from elastictool.data.store import DatasetInfo, FbankSums, SplitCounts
from elastictool.utils.errors import ElasticToolError, RejectedItemsError
from elastictool.utils.io import (
    INFO_NAME,
    PROGRESS_FOLDER,
    atomic_path,
    readable,
    remove_temporaries,
    write_json,
)

REJECTED_NAME = "rejected.csv"


def finish(
    folder: Path,
    corpus: Corpus,
    listing: Listing,
    settings: PrepSettings,
    fingerprint: str,
    reports: Sequence[ShardReport],
) -> None:
    """Write ``rejected.csv`` and, last of all, ``dataset.json``.

    Raises:
        ElasticToolError: No clip could be used, or the target cannot be written.
    """
    _write_rejected(folder / REJECTED_NAME, listing, reports)
    rows = sum(report.rows for report in reports)
    if not rows:
        _remove_shards(folder)
        clip_id, _, reason, _ = reports[0].rejected[0]
        raise ElasticToolError(
            f"all {len(listing.clips)} clips were rejected; the first, {clip_id}: {reason}",
            f"{folder / REJECTED_NAME} lists them all",
        )
    info = DatasetInfo(
        name=folder.name,
        corpus=corpus.name,
        label_names=listing.label_names,
        multi_label=listing.multi_label,
        sample_rate_hz=settings.fbank.sample_rate_hz,
        encoding=settings.encoding,
        channel=str(settings.channel),
        resampler=RESAMPLER,
        source_rates=_total(report.source_rates for report in reports),
        fingerprint=fingerprint,
        num_clips=rows,
        num_shards=len(reports),
        splits=_split_counts(listing, reports),
        fbank_config=asdict(settings.fbank),
        fbank_sums=_fbank_sums(reports),
        notes=[
            *(*listing.notes, *listing.warnings),
            *(*_notes(listing, settings), *_misnamed(reports), *_damaged(reports)),
            *_clipped(reports),
            *(*_alike(listing, reports), *_emptied(listing, reports), *_lost(listing, reports)),
        ],
        stats_clips=settings.stats_clips,
    )
    write_json(folder / INFO_NAME, info.to_json())
    clean(folder)


def clean(folder: Path) -> None:
    """Delete what only an unfinished dataset needs, and what killed processes left behind."""
    remove_temporaries(folder)
    shutil.rmtree(folder / PROGRESS_FOLDER, ignore_errors=True)


def _notes(listing: Listing, settings: PrepSettings) -> Iterator[str]:
    """What else the user should know of the prepared data."""
    if settings.trim_silence:
        yield "digital silence at both ends was cut off (--trim-silence)"
    if settings.max_seconds:
        yield f"clips were cut to their first {settings.max_seconds:g} s (--max-seconds)"
    if settings.stats_clips:
        count = len(measured_clips(listing.clips, settings, 0) or ())
        yield f"mean and deviation are of {count} drawn clips (--stats-clips)"
    groups = _spread((clip.group, (clip.split, clip.fold)) for clip in listing.clips)
    if groups:
        yield (
            f"{len(groups)} groups (videos, speakers) have clips in several splits or folds, so "
            f"scores may be flattered: {', '.join(groups[:3])}"
        )
    files = _spread(
        (clip.path, (clip.split, clip.fold)) for clip in listing.clips if not clip.group
    )
    if files:
        yield (
            f"{len(files)} files have clips in several splits or folds, so scores may be "
            f"flattered: {readable(', '.join(files[:3]))}"
        )


def _spread(placed: Iterable[tuple[str, tuple[str, int]]]) -> list[str]:
    """Names that stand beside several (split, fold), sorted; empty ones are passed over."""
    first: dict[str, tuple[str, int]] = {}
    return sorted({name for name, part in placed if name and first.setdefault(name, part) != part})


def _remove_shards(folder: Path) -> None:
    """Forget shards without rows, so that the next run tries again."""
    for path in folder.glob("shard-*.arrow"):
        path.unlink()
    clean(folder)


def _write_rejected(path: Path, listing: Listing, reports: Sequence[ShardReport]) -> None:
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("id", "path", "reason"))
        writer.writerows((clip.id, clip.path, "missing") for clip in listing.missing)
        for report in reports:
            writer.writerows((row[0], row[1], row[2]) for row in report.rejected)


def _total(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for part in counts:
        total.update(part)
    return dict(sorted(total.items()))


def _split_counts(listing: Listing, reports: Sequence[ShardReport]) -> dict[str, SplitCounts]:
    found = Counter(clip.split for clip in listing.clips)
    missing = Counter(clip.split for clip in listing.missing)
    rejected = Counter(row[3] for report in reports for row in report.rejected)
    prepared = _total(report.prepared for report in reports)
    silent = _total(report.silent for report in reports)
    clipped = _total(report.clipped for report in reports)
    usual = {"train": 0, "val": 1, "test": 2}
    names = sorted({*found, *missing, *listing.expected}, key=lambda s: (usual.get(s, 3), s))
    return {
        split: SplitCounts(
            prepared=prepared.get(split, 0),
            found=found[split],
            expected=listing.expected.get(split, 0),
            missing=missing[split],
            rejected=rejected[split],
            silent=silent.get(split, 0),
            clipped=clipped.get(split, 0),
        )
        for split in names
    }


def _misnamed(reports: Sequence[ShardReport]) -> list[str]:
    """A note on files whose name promises another format than they hold, if there are any."""
    found = {path: kind for report in reports for path, kind in report.misnamed.items()}
    if not found:
        return []
    examples = ", ".join(f"{path} is {kind}" for path, kind in list(found.items())[:3])
    return [f"{len(found)} files hold another format than their ending says: {examples}"]


def _damaged(reports: Sequence[ShardReport]) -> list[str]:
    """A note on files with packets that could not be decoded, if there are any."""
    found: Counter[str] = Counter()
    for report in reports:
        found.update(report.damaged)
    if not found:
        return []
    examples = ", ".join(f"{path} ({count})" for path, count in found.most_common(3))
    files = "1 file has" if len(found) == 1 else f"{len(found)} files have"
    return [f"{files} packets that cannot be decoded, silence took their place: {examples}"]


def _clipped(reports: Sequence[ShardReport]) -> list[str]:
    """A note on clips that are too loud for 16 bits, if there are any."""
    count = sum(sum(report.clipped.values()) for report in reports)
    if not count:
        return []
    name, peak = max((report.loudest for report in reports), key=lambda loudest: loudest[1])
    go = (
        "clip goes beyond full scale and was"
        if count == 1
        else "clips go beyond full scale and were"
    )
    return [f"{count} {go} clipped to it; the loudest reaches {peak:.2f} times full scale: {name}"]


def _stored(listing: Listing, reports: Sequence[ShardReport]) -> list[SourceClip]:
    """The clips that were stored, in the order of their rows."""
    rejected = {row[0] for report in reports for row in report.rejected}
    return [clip for clip in listing.clips if clip.id not in rejected]


def _alike(listing: Listing, reports: Sequence[ShardReport]) -> Iterator[str]:
    """Notes on recordings that hold the same samples under several names, if there are any."""
    clips = _stored(listing, reports)
    digests = np.array([digest for report in reports for digest in report.digests], dtype=np.uint64)
    if len(digests) != len(clips):  # shards that an older version had finished
        return
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


def _emptied(listing: Listing, reports: Sequence[ShardReport]) -> Iterator[str]:
    """Notes on splits and labels of which no clip could be used, if there are any."""
    stored = _stored(listing, reports)
    if len(stored) == len(listing.clips):
        return
    splits = {clip.split for clip in listing.clips} - {clip.split for clip in stored}
    if splits:
        yield f"no clip of these splits could be used: {', '.join(sorted(splits))}"
    left = {label for clip in stored for label in clip.labels}
    labels = sorted({label for clip in listing.clips for label in clip.labels} - left)
    if labels:
        yield f"no clip of these labels could be used: {some_of(labels)}"


def _lost(listing: Listing, reports: Sequence[ShardReport]) -> Iterator[str]:
    """Notes that name the first clips that are not there or cannot be used, if there are any."""
    if listing.missing:
        yield missing_files(listing)
    rejected = [f"{row[1]} ({row[2]})" for report in reports for row in report.rejected]
    if rejected:
        were = "clip was" if len(rejected) == 1 else "clips were"
        yield f"{len(rejected)} {were} rejected: {some_of(rejected)}"


def _fbank_sums(reports: Sequence[ShardReport]) -> list[FbankSums]:
    """Add the shards' sums in shard order, so that rounding is always the same."""
    totals: dict[tuple[str, int], FbankSums] = {}
    for report in reports:
        for split, fold, frames, total, squares in report.sums:
            before = totals.get((split, fold), FbankSums(split, fold, 0, 0.0, 0.0))
            totals[split, fold] = FbankSums(
                split,
                fold,
                before.frames + frames,
                before.sum + total,
                before.sum_of_squares + squares,
            )
    return [totals[key] for key in sorted(totals)]


def check_rejected(info: DatasetInfo, max_share: float, missing_too: bool = True) -> None:
    """Complain if more than ``max_share`` of the clips were rejected, or are missing.

    A file that a user's own list names has to be there as much as it has to be readable. Copies
    of published corpora lack some of the published clips: that is told, and no fault.

    Args:
        info: Of the prepared data.
        max_share: Of all clips that should be there.
        missing_too: False where only some of those that are there were prepared.

    Raises:
        RejectedItemsError: They were.
    """
    is_published = any(counts.expected for counts in info.splits.values())
    missing = info.missing if missing_too and not is_published else 0
    clips = sum(counts.found for counts in info.splits.values()) + missing
    lost = info.rejected + missing
    if lost > max_share * clips:
        what = "were rejected or are missing" if missing else "were rejected"
        raise RejectedItemsError(
            f"{lost} of {clips} clips {what} ({lost / clips:.1%}, allowed {max_share:.1%})",
            f"{REJECTED_NAME} beside the data says why; --max-rejected sets the allowed share",
        )
