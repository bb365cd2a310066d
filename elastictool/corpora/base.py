"""What a corpus is: something that lists clips, and nothing else.

Decoding, checking, resampling, storing, statistics and reports are shared (``data/prepare``), so
a new corpus is one short file. A listing is plain data: where each clip lies, which slice of the
file it is, its labels, split and fold; a corpus that renders its own audio adds ``read``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from elastictool.utils.errors import UsageError
from elastictool.utils.progress import SILENT, Progress
from elastictool.utils.registry import Registry, nearest_hint

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
}
"""Names of splits in the wild, and ours."""


class SourceClip(NamedTuple):
    """One clip as the corpus names it.

    Attributes:
        id: Unique within the listing.
        path: File, relative to the listing's ``root`` (or absolute).
        start_s: Start of the slice in seconds; None is the start of the file.
        stop_s: End of the slice in seconds; None is the end of the file.
        labels: Names out of the listing's ``label_names``.
        split: ``train``, ``val``, ``test`` or a name of the corpus.
        fold: Cross-validation fold counted from 1; 0 is none.
        group: What must not be spread over splits (video, speaker); empty is none.
    """

    id: str
    path: str
    start_s: float | None
    stop_s: float | None
    labels: tuple[str, ...]
    split: str
    fold: int = 0
    group: str = ""


class MissingClip(NamedTuple):
    """A clip that the corpus names but that is not on disk."""

    id: str
    path: str
    split: str


@dataclass
class Listing:
    """Everything a corpus says about its clips.

    Attributes:
        name: Name of the prepared dataset unless the user gives one.
        root: What relative paths of clips start from.
        clips: The clips found, in the order in which they are stored.
        label_names: All labels in the corpus's own order.
        multi_label: Whether a clip may have several labels.
        missing: Clips that the annotations name but the disk lacks.
        expected: Published number of clips per split; empty if nothing was published.
        expected_classes: Published number of classes; 0 if none was published.
        notes: What the user should know about this listing.
        warnings: The same, where it follows from the clips: no part of the fingerprint.
        drawn: How the split was drawn, if it was: known by the fingerprint and shown to nobody
            (a warning says what came of it).
    """

    name: str
    root: Path
    clips: list[SourceClip]
    label_names: list[str]
    multi_label: bool = False
    missing: list[MissingClip] = field(default_factory=list)
    expected: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    drawn: str = ""
    expected_classes: int = 0


@dataclass(frozen=True)
class CorpusOptions:
    """What a user may ask of a listing.

    Attributes:
        task: One of the corpus's ``tasks``; empty is its first.
        subset: One of the corpus's ``subsets``; empty is its first.
        seed: Seeds splits that we draw and clips that we render.
    """

    task: str = ""
    subset: str = ""
    seed: int = 0


class Corpus(Protocol):
    """Lists the clips of one corpus."""

    @property
    def name(self) -> str:
        """What ``--dataset`` calls it."""

    @property
    def tasks(self) -> tuple[str, ...]:
        """What can be classified in it; the first is the default, none means there is one way."""

    @property
    def subsets(self) -> tuple[str, ...]:
        """Parts of it that can be taken alone; the first, the default, is the usual one."""

    @property
    def default_root(self) -> Path | None:
        """Where it lies unless the user says otherwise."""

    def describe(self) -> str:
        """What to download, from where, to which place, its size and licence."""

    def list_clips(self, root: Path | None, options: CorpusOptions) -> Listing:
        """All clips under ``root``.

        Raises:
            UsageError: The data is not there or not laid out as expected.
        """


@runtime_checkable
class RenderingCorpus(Protocol):
    """A corpus that makes its audio instead of reading files."""

    def read(self, clip: SourceClip) -> tuple[NDArray[np.float32], int]:
        """The (n,) waveform of ``clip`` and its sample rate in Hz."""


@runtime_checkable
class DownloadableCorpus(Protocol):
    """A corpus that can be fetched without asking anybody."""

    def download(self, root: Path, progress: Progress = SILENT) -> None:
        """Fetch the corpus into ``root``; continues a broken download."""


CORPORA: Registry[Corpus] = Registry(
    "dataset",
    tuple(
        f"elastictool.corpora.{module}"
        for module in (
            *("synth", "fsdd", "folder", "csv_list", "audio_lists", "epic_sounds"),
            *("audioset", "vggsound", "voxceleb", "esc50", "speech_commands"),
        )
    ),
)


def require_root(root: Path | None, corpus: Corpus) -> Path:
    """``root``, or the corpus's default one, as a path that exists.

    Raises:
        UsageError: It does not exist; the hint is the corpus's description.
    """
    place = root or corpus.default_root
    if place is None:
        raise UsageError(f"--dataset {corpus.name} needs --root", corpus.describe())
    if not place.exists():
        raise UsageError(f"no {corpus.name} data: {place} does not exist", corpus.describe())
    return place


def require_folder(root: Path | None, corpus: Corpus) -> Path:
    """``require_root`` for a corpus that is a folder.

    Raises:
        UsageError: It does not exist, or is a file.
    """
    place = require_root(root, corpus)
    if not place.is_dir():
        raise UsageError(
            f"{place} is a file, and --dataset {corpus.name} wants a folder", corpus.describe()
        )
    return place


def chosen_task(corpus: Corpus, options: CorpusOptions) -> str:
    """The task asked for, the corpus's first one, or "" where it has none.

    Raises:
        UsageError: The corpus has no such task, or no such subset.
    """
    chosen_subset(corpus, options)
    return _chosen("task", corpus.name, options.task, corpus.tasks)


def chosen_subset(corpus: Corpus, options: CorpusOptions) -> str:
    """The subset asked for, the corpus's first one, or "" where it has none.

    Raises:
        UsageError: The corpus has no such subset.
    """
    return _chosen("subset", corpus.name, options.subset, corpus.subsets)


def _chosen(what: str, corpus: str, wanted: str, known: tuple[str, ...]) -> str:
    if wanted and wanted not in known:
        hint = nearest_hint(wanted, list(known)) if known else f"leave --{what} out"
        raise UsageError(f"--dataset {corpus} has no {what} {wanted!r}", hint)
    return wanted or (known[0] if known else "")


def ordered_labels(labels: Sequence[str]) -> list[str]:
    """Distinct labels: numerically if all are whole numbers, else alphabetically."""
    distinct = set(labels)
    if all(label.isascii() and label.isdigit() for label in distinct):
        return sorted(distinct, key=lambda label: (int(label), label))
    return sorted(distinct)


def source_files(clips: Sequence[SourceClip], root: Path) -> dict[str, str]:
    """The file behind each path of ``clips``: one file for all paths and links that lead to it."""
    folders: dict[str, str] = {}

    def resolved(path: str) -> str:
        folder, name = os.path.split(os.path.join(root, path))
        if folder not in folders:  # asking the disk for each file would take longer than listing
            folders[folder] = os.path.realpath(folder)
        file = os.path.join(folders[folder], name)
        return os.path.realpath(file) if os.path.islink(file) else file

    return {path: resolved(path) for path in dict.fromkeys(clip.path for clip in clips) if path}


def stratified_split(
    clips: Sequence[SourceClip], seed: int, files: Mapping[str, str] | None = None
) -> list[SourceClip]:
    """Draw 80 % train, 10 % val, 10 % test of each label; what belongs together is in one split.

    Clips of one group belong together, and so do those without a group that are read from one
    file. A label with three units or more (groups or files) has at least one in val and in test;
    one with fewer is all in train. A unit counts under the first label of its first clip.

    Args:
        clips: What to divide.
        seed: Of the drawing.
        files: The file behind each path (``source_files``); None takes the paths themselves.
    """
    files = files or {}
    units: dict[str, dict[str, list[int]]] = {}
    home: dict[str, str] = {}
    for index, clip in enumerate(clips):
        label = clip.labels[0] if clip.labels else ""
        file = f"file {files.get(clip.path, clip.path)}" if clip.path else f"clip {index}"
        unit = f"group {clip.group}" if clip.group else file
        units.setdefault(home.setdefault(unit, label), {}).setdefault(unit, []).append(index)
    splits = ["train"] * len(clips)
    for position, label in enumerate(sorted(units)):
        members = list(units[label].values())
        order = np.random.default_rng([seed, position]).permutation(len(members))
        share = max(1, round(len(members) / 10)) if len(members) >= 3 else 0
        for rank, unit_index in enumerate(order[: 2 * share]):
            for index in members[unit_index]:
                splits[index] = "val" if rank < share else "test"
    return [clip._replace(split=split) for clip, split in zip(clips, splits, strict=True)]
