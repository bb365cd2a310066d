"""Defines the interface of a corpus: it lists clips, and nothing else.

Decoding, checking, resampling, storing, statistics and reports are shared (``data/prepare``), so
a new corpus is one short file with a class that has ``describe`` and ``find_clips``. A listing is
plain data: where each clip lies, which slice of the file it is, its labels, split and fold; a
corpus that renders its own audio adds ``read``, one that can be fetched ``download``.
"""

from __future__ import annotations

import os
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from elastictool.utils.errors import UsageError
from elastictool.utils.io import on_disk
from elastictool.utils.progress import SILENT, Progress
from elastictool.utils.registry import Registry, nearest_hint


class SourceClip(NamedTuple):
    """One clip of a corpus: its file or slice, labels, split and fold.

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
    path: str = ""
    start_s: float | None = None
    stop_s: float | None = None
    labels: tuple[str, ...] = ()
    split: str = ""
    fold: int = 0
    group: str = ""


MISSING = "missing"
"""Reason in ``rejected.csv`` for a file that is not there."""


class MissingClip(NamedTuple):
    """A clip that the corpus names but that is not on disk, or a folder that cannot be read."""

    id: str
    path: str
    split: str
    reason: str = MISSING


@dataclass
class Listing:
    """The clips of a corpus and what is known about them.

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
        drawn: How the split was drawn, if it was: part of the fingerprint, not shown (a warning
            gives the counts).
    """

    name: str
    root: Path
    clips: list[SourceClip] = field(default_factory=list)
    label_names: list[str] = field(default_factory=list)
    multi_label: bool = False
    missing: list[MissingClip] = field(default_factory=list)
    expected: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    drawn: str = ""
    expected_classes: int = 0


@dataclass(frozen=True)
class TableOptions:
    """How a user's table is read.

    Attributes:
        columns: What columns are called in it, where it has other names for them.
        label_separator: Text that joins several labels of a clip.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    label_separator: str = "|"


@dataclass(frozen=True)
class CorpusOptions:
    """Options of corpora that a user may set.

    Attributes:
        task: One of the corpus's ``tasks``; empty is its first.
        subset: One of the corpus's ``subsets``; empty is its first.
        seed: Seed of drawn splits and of rendered clips.
        table: How a table is read; of corpora that are ``own_table`` only.
    """

    task: str = ""
    subset: str = ""
    seed: int = 0
    table: TableOptions = field(default_factory=TableOptions)


class Corpus(ABC):
    """Lists the clips of one corpus.

    Attributes:
        name: What ``--dataset`` calls it.
        tasks: What can be classified in it; the first is the default, none means there is one way.
        subsets: Parts of it that can be taken alone; the first, the default, is the usual one.
        default_root: Folder of the corpus where the user names none.
        takes_file: Whether its root may also be a file (a table, a list).
        marks: Patterns of files that only it has, at its top or, unless it is of the user's own,
            one folder below.
        own_table: Whether it is a table of the user's own, whose columns may have other names.
    """

    name: ClassVar[str]
    tasks: ClassVar[tuple[str, ...]] = ()
    subsets: ClassVar[tuple[str, ...]] = ()
    default_root: ClassVar[Path | None] = None
    takes_file: ClassVar[bool] = False
    own_table: ClassVar[bool] = False
    marks: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def describe(self) -> str:
        """Returns what to download, from where, to which folder, its size and licence."""

    @abstractmethod
    def find_clips(self, root: Path, options: CorpusOptions) -> Listing:
        """Lists all clips under ``root``.

        Args:
            root: Where the corpus lies: an existing folder, or a file where it ``takes_file``.
            options: With the task and subset that apply.

        Raises:
            UsageError: The data is not laid out as expected.
        """

    def list_clips(self, root: Path | None, options: CorpusOptions) -> Listing:
        """Lists all clips under ``root`` or, where it is None, under ``default_root``.

        Raises:
            UsageError: There is no such task or subset, or the data is not there or not laid out
                as expected.
        """
        if options.table != TableOptions() and not self.own_table:
            raise UsageError(
                f"--dataset {self.name} has no table of your own",
                "leave --…-column and --label-separator out, or take --dataset csv",
            )
        chosen: dict[str, Any] = {}
        for what, known in (("subset", self.subsets), ("task", self.tasks)):
            wanted = getattr(options, what)
            if wanted and wanted not in known:
                hint = nearest_hint(wanted, list(known)) if known else f"leave --{what} out"
                raise UsageError(f"--dataset {self.name} has no {what} {wanted!r}", hint)
            chosen[what] = wanted or next(iter(known), "")
        return self.find_clips(self.resolve_root(root), replace(options, **chosen))

    def resolve_root(self, root: Path | None) -> Path:
        """Returns ``root`` or ``default_root``, as a path that exists.

        Raises:
            UsageError: It does not exist, or is a file where a folder is needed; the hint is the
                corpus's description.
        """
        path = root or self.default_root
        if path is None:
            raise UsageError(f"--dataset {self.name} needs --root", self.describe())
        path = on_disk(path)
        if not path.exists():
            raise UsageError(f"no {self.name} data: {path} does not exist", self.describe())
        if not self.takes_file and not path.is_dir():
            raise UsageError(
                f"{path} is a file, and --dataset {self.name} wants a folder", self.describe()
            )
        return path


@runtime_checkable
class RenderingCorpus(Protocol):
    """A corpus that makes its audio instead of reading files."""

    def read(self, clip: SourceClip) -> tuple[NDArray[np.float32], int]:
        """Returns the (n,) waveform of ``clip`` and its sample rate in Hz."""


@runtime_checkable
class DownloadableCorpus(Protocol):
    """A corpus that can be fetched without registration."""

    def download(self, root: Path, progress: Progress = SILENT) -> None:
        """Fetches the corpus into ``root``; continues a broken download."""


CORPORA: Registry[Corpus] = Registry(
    "dataset",
    tuple(
        f"elastictool.corpora.{module.name}"
        for module in pkgutil.iter_modules([os.path.dirname(__file__)])
    ),
)
"""All corpora: each file of this folder may register some."""
