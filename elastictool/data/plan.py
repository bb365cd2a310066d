"""What to prepare, before anything is read: which clips, in which shards, under which name.

Everything here follows from the listing and the settings alone, so that any machine and any
number of workers plan the same. The fingerprint says whether two plans are one.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from elastictool.audio.decode import RESAMPLER
from elastictool.corpora.base import Corpus, Listing, SourceClip
from elastictool.corpora.warnings import missing_files
from elastictool.data.shards import PrepSettings, ShardTask
from elastictool.data.store import FORMAT
from elastictool.utils.errors import UsageError
from elastictool.utils.rng import clip_rng

_SHARDS_WANTED = 32
_CLIPS_PER_SHARD = (16, 1024)
_CLIPS_PER_DIGEST = 4096


def limited(clips: Sequence[SourceClip], limit: int) -> list[SourceClip]:
    """``limit`` clips for a quick look.

    They are shared among (split, fold) in proportion and taken by turns of class: every class
    gives its first clip, then its second, and so on, and the next (split, fold) goes on with the
    class at which the last one stopped. The listing's order is kept. 0, or more than there are,
    takes all.
    """
    if not 0 < limit < len(clips):
        return list(clips)
    parts: dict[tuple[str, int], list[int]] = {}
    for index, clip in enumerate(clips):
        parts.setdefault((clip.split, clip.fold), []).append(index)
    quotas = _quotas([len(part) for part in parts.values()], limit)
    classes = {labels: rank for rank, labels in enumerate(sorted({c.labels for c in clips}))}
    chosen: list[int] = []
    for part, quota in zip(parts.values(), quotas, strict=True):
        ranks = [(classes[clips[index].labels] - len(chosen)) % len(classes) for index in part]
        chosen += _by_turns(part, ranks)[:quota]
    return [clips[index] for index in sorted(chosen)]


def _quotas(sizes: Sequence[int], limit: int) -> list[int]:
    """Shares of ``limit`` in proportion to ``sizes`` (largest remainder)."""
    exact = [size * limit / sum(sizes) for size in sizes]
    quotas = [math.floor(share) for share in exact]
    by_remainder = sorted(range(len(sizes)), key=lambda i: quotas[i] - exact[i])
    for index in by_remainder[: limit - sum(quotas)]:
        quotas[index] += 1
    return quotas


def _by_turns(part: Sequence[int], ranks: Sequence[int]) -> list[int]:
    """``part`` in the order: first of each rank, second of each rank, ..."""
    turn: Counter[int] = Counter()
    keyed = []
    for index, rank in zip(part, ranks, strict=True):
        turn[rank] += 1
        keyed.append((turn[rank], rank, index))
    return [index for *_, index in sorted(keyed)]


def plan_shards(
    listing: Listing,
    folder: Path,
    fingerprint: str,
    corpus: str,
    settings: PrepSettings,
    measured: frozenset[str] | None = None,
) -> list[ShardTask]:
    """Cut the clip list into shards: about 32, of 16 to 1,024 clips each."""
    smallest, largest = _CLIPS_PER_SHARD
    size = min(max(math.ceil(len(listing.clips) / _SHARDS_WANTED), smallest), largest)
    parts = [listing.clips[at : at + size] for at in range(0, len(listing.clips), size)]
    return [
        ShardTask(
            index=index,
            folder=folder,
            fingerprint=fingerprint,
            corpus=corpus,
            root=listing.root,
            clips=tuple(clips),
            settings=settings,
            measured=None if measured is None else measured & {clip.id for clip in clips},
        )
        for index, clips in enumerate(parts)
    ]


def measured_clips(
    clips: Sequence[SourceClip], settings: PrepSettings, seed: int
) -> frozenset[str] | None:
    """Ids of the clips on which mean and deviation are measured; None are all.

    They are drawn from the training split, or from all clips where there is none.
    """
    if not settings.stats_clips:
        return None
    training = [clip.id for clip in clips if clip.split == "train"] or [clip.id for clip in clips]
    count = min(settings.stats_clips, len(training))
    drawn = clip_rng(seed, 0, 0, "statistics").choice(len(training), count, replace=False)
    return frozenset(training[index] for index in drawn)


def check_listing(corpus: Corpus, listing: Listing) -> None:
    """Hold the corpus to its contract.

    Raises:
        UsageError: It found no clips.
        ValueError: The corpus has a fault of its own.
    """
    if not listing.clips:
        missing = f": {missing_files(listing)}" if listing.missing else ""
        raise UsageError(
            f"no clips found under {listing.root}{missing}",
            "\n".join([*listing.warnings, corpus.describe()]),
        )
    if len({clip.id for clip in listing.clips}) != len(listing.clips):
        raise ValueError(f"corpus {corpus.name} lists two clips under one id")
    if not {label for clip in listing.clips for label in clip.labels} <= set(listing.label_names):
        raise ValueError(f"corpus {corpus.name} uses labels that it does not list")


def file_name(name: str) -> str:
    """A folder's name as the name of a dataset."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-") or "dataset"


def checked_name(name: str) -> str:
    """``name``, if it can name a dataset.

    Raises:
        UsageError: It cannot.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name):
        raise UsageError(
            f"{name!r} cannot name a dataset", "use letters, digits, '.', '_' and '-' only"
        )
    return name


def clip_list_fingerprint(
    corpus: Corpus,
    listing: Listing,
    settings: PrepSettings,
    measured: frozenset[str] | None = None,
) -> str:
    """Hash of everything that decides what the prepared data says."""
    chosen = asdict(settings)
    if not chosen["stats_clips"]:
        del chosen["stats_clips"]  # younger than datasets that have a fingerprint without it
    digest = hashlib.sha256()
    head = [FORMAT, corpus.name, RESAMPLER, listing.label_names, listing.multi_label]
    notes = [*([listing.drawn] if listing.drawn else []), *listing.notes]
    rest = [listing.missing, listing.expected, notes, chosen]
    rest += [] if measured is None else [sorted(measured)]
    blocks = (
        listing.clips[start : start + _CLIPS_PER_DIGEST]
        for start in range(0, len(listing.clips), _CLIPS_PER_DIGEST)
    )
    for part in [*head, *rest]:
        digest.update(json.dumps(part).encode() + b"\n")
    for block in blocks:  # one call for many clips: with millions of them calls are what costs
        digest.update(json.dumps(block).encode() + b"\n")
    return digest.hexdigest()
