"""Plans a preparation before anything is read: which clips, in which shards, under which name.

Everything here follows from the listing and the options alone, so that any machine and any
number of workers plan the same. Equal fingerprints mean equal plans.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path

from elastictool.audio.decode import RESAMPLER
from elastictool.corpora.base import CORPORA, Corpus, Listing, SourceClip
from elastictool.corpora.checks import (
    listing_warnings,
    make_readable,
    missing_files,
    strange_paths,
)
from elastictool.data.options import PrepOptions, StorageOptions
from elastictool.data.store import FORMAT, shard_name
from elastictool.utils.errors import UsageError
from elastictool.utils.io import PROGRESS_FOLDER
from elastictool.utils.rng import clip_rng

_SHARDS_WANTED = 32
_CLIPS_PER_SHARD = (16, 1024)
_CLIPS_PER_DIGEST = 4096


@dataclass(frozen=True)
class ShardTask:
    """Everything that a worker needs to write one shard.

    Attributes:
        index: Number of the shard, from 0.
        folder: Folder of the dataset.
        fingerprint: Of the plan.
        corpus: Name of the corpus.
        root: Where the corpus lies.
        clips: The clips of this shard.
        storage: What to store.
        measured: Ids of the clips that count for the statistics; None are all of them.
    """

    index: int
    folder: Path
    fingerprint: str
    corpus: str
    root: Path
    clips: tuple[SourceClip, ...]
    storage: StorageOptions
    measured: frozenset[str] | None = None

    def absolute(self) -> ShardTask:
        """Returns the same task for a process with another working directory."""
        return replace(self, folder=self.folder.absolute(), root=self.root.absolute())

    @property
    def path(self) -> Path:
        """The shard's file."""
        return self.folder / shard_name(self.index)

    @property
    def sidecar(self) -> Path:
        """The file that marks the shard as finished."""
        return self.folder / PROGRESS_FOLDER / f"shard-{self.index:05d}.json"


@dataclass(frozen=True)
class Plan:
    """A listed corpus, cut into shards.

    Attributes:
        options: What was asked for.
        corpus: The corpus.
        listing: Its clips, after ``limit``.
        folder: Folder of the dataset.
        fingerprint: Hash of everything on which the prepared data depend.
        tasks: The shards.
    """

    options: PrepOptions
    corpus: Corpus
    listing: Listing
    folder: Path
    fingerprint: str
    tasks: list[ShardTask]


def plan(options: PrepOptions) -> Plan:
    """Lists a corpus and cuts it into shards.

    Raises:
        UsageError: The corpus is not there, or its name cannot name a dataset.
    """
    corpus = CORPORA[options.dataset]
    listing = corpus.list_clips(options.root, options.corpus)
    make_readable(listing)
    listing.warnings += strange_paths(listing.missing)
    _check_listing(corpus, listing)
    listing.warnings += listing_warnings(listing)
    listing.clips = limited(listing.clips, options.limit)
    name = options.name or file_name(listing.name)
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name):
        raise UsageError(
            f"{name!r} cannot name a dataset", "use letters, digits, '.', '_' and '-' only"
        )
    folder = options.out / name
    measured = measured_clips(listing.clips, options.storage, options.corpus.seed)
    fingerprint = _fingerprint(corpus, listing, options.storage, measured)
    tasks = [
        ShardTask(
            index=index,
            folder=folder,
            fingerprint=fingerprint,
            corpus=corpus.name,
            root=listing.root,
            clips=tuple(clips),
            storage=options.storage,
            measured=None if measured is None else measured & {clip.id for clip in clips},
        )
        for index, clips in enumerate(cut_into_shards(listing.clips))
    ]
    return Plan(options, corpus, listing, folder, fingerprint, tasks)


def cut_into_shards(clips: Sequence[SourceClip]) -> list[Sequence[SourceClip]]:
    """Cuts the clip list into about 32 shards of 16 to 1,024 clips each."""
    smallest, largest = _CLIPS_PER_SHARD
    size = min(max(math.ceil(len(clips) / _SHARDS_WANTED), smallest), largest)
    return [clips[at : at + size] for at in range(0, len(clips), size)]


def limited(clips: Sequence[SourceClip], limit: int) -> list[SourceClip]:
    """Returns ``limit`` clips of the listing, for quick trials.

    They are shared among (split, fold) in proportion (largest remainder) and taken by turns of
    class: every class
    gives its first clip, then its second, and so on, and the next (split, fold) continues with the
    class at which the last one stopped. The listing's order is kept. 0, or more than there are,
    takes all.
    """
    if not 0 < limit < len(clips):
        return list(clips)
    parts: dict[tuple[str, int], list[int]] = {}
    for index, clip in enumerate(clips):
        parts.setdefault((clip.split, clip.fold), []).append(index)
    exact = [len(part) * limit / len(clips) for part in parts.values()]
    quotas = [math.floor(share) for share in exact]
    by_remainder = sorted(range(len(parts)), key=lambda i: quotas[i] - exact[i])
    for index in by_remainder[: limit - sum(quotas)]:
        quotas[index] += 1
    classes = {labels: rank for rank, labels in enumerate(sorted({c.labels for c in clips}))}
    chosen: list[int] = []
    for part, quota in zip(parts.values(), quotas, strict=True):
        turn: Counter[int] = Counter()
        keyed = []
        for index in part:
            rank = (classes[clips[index].labels] - len(chosen)) % len(classes)
            turn[rank] += 1
            keyed.append((turn[rank], rank, index))
        chosen += [index for *_, index in sorted(keyed)[:quota]]
    return [clips[index] for index in sorted(chosen)]


def measured_clips(
    clips: Sequence[SourceClip], storage: StorageOptions, seed: int
) -> frozenset[str] | None:
    """Returns the ids of the clips on which mean and deviation are measured; None are all.

    They are drawn from the training split, or from all clips where there is none.
    """
    if not storage.stats_clips:
        return None
    training = [clip.id for clip in clips if clip.split == "train"] or [clip.id for clip in clips]
    count = min(storage.stats_clips, len(training))
    drawn = clip_rng(seed, 0, 0, "statistics").choice(len(training), count, replace=False)
    return frozenset(training[index] for index in drawn)


def _check_listing(corpus: Corpus, listing: Listing) -> None:
    """Checks that the listing keeps the contract of ``Corpus``.

    Raises:
        UsageError: It found no clips.
        ValueError: The corpus has a fault of its own.
    """
    if not listing.clips:
        missing = missing_files(listing)
        raise UsageError(
            f"no clips found under {listing.root}{missing and f': {missing}'}",
            "\n".join([*listing.warnings, corpus.describe()]),
        )
    if len({clip.id for clip in listing.clips}) != len(listing.clips):
        raise ValueError(f"corpus {corpus.name} lists two clips under one id")
    if not {label for clip in listing.clips for label in clip.labels} <= set(listing.label_names):
        raise ValueError(f"corpus {corpus.name} uses labels that it does not list")


def file_name(name: str) -> str:
    """Returns a folder's name as the name of a dataset."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-") or "dataset"


def _fingerprint(
    corpus: Corpus,
    listing: Listing,
    storage: StorageOptions,
    measured: frozenset[str] | None,
) -> str:
    """Returns a hash of everything on which the prepared data depend."""
    chosen = asdict(storage)
    if not chosen["stats_clips"]:
        del chosen["stats_clips"]
    digest = hashlib.sha256()
    parts = [FORMAT, corpus.name, RESAMPLER, listing.label_names, listing.multi_label]
    notes = [*([listing.drawn] if listing.drawn else []), *listing.notes]
    missing = [(gone.id, gone.path, gone.split) for gone in listing.missing]
    parts += [missing, listing.expected, notes, chosen]
    if measured is not None:
        parts.append(sorted(measured))
    # Many clips at once: with millions of them calls are what costs.
    starts = range(0, len(listing.clips), _CLIPS_PER_DIGEST)
    blocks = (listing.clips[start : start + _CLIPS_PER_DIGEST] for start in starts)
    for part in chain(parts, blocks):
        digest.update(json.dumps(part).encode() + b"\n")
    return digest.hexdigest()
