"""Joins annotations with the files on disk.

Copies of one corpus differ: flat or in subfolders, wav or flac or video, and clips of YouTube
videos under several naming schemes. The folder is read once into an index by stem; then each
annotated clip is looked up under the known templates in turn. A note counts the matches of each.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from elastictool.audio.formats import AUDIO_SUFFIXES, FORMATS
from elastictool.corpora.base import Listing, MissingClip, SourceClip
from elastictool.corpora.checks import some_of
from elastictool.corpora.tables import Row
from elastictool.utils.io import FoundFile, composed, walk_files

_FIELDS = {
    "start_s": "start", "stop_s": "stop", "labels": "label",
    "split": "split", "fold": "fold", "group": "group",
}  # fmt: skip
"""Fields in which two rows of one id must not differ, and what messages call them."""


def rank_of(path: str) -> int:
    """Returns the rank of a file's kind: of several files of one recording, the lowest is taken.

    Wav comes first, then flac, arrays in HDF5, other audio files, and the rest.
    """
    suffix = os.path.splitext(path)[1].lower()
    if suffix in (".wav", ".flac"):
        return int(suffix == ".flac")
    kind = next(kind for kind in FORMATS if suffix in kind.suffixes)
    is_audio = kind.decoder == "libsndfile" or kind.name in ("mp3", "ogg", "opus")
    return 2 if kind.members else 3 if is_audio else 4


@dataclass
class FileIndex:
    """Audio and video files below a folder by the stem of their names.

    Attributes:
        root: What paths are relative to.
        depth: How many parts of a path name a recording: 1 is its name alone, 2 its folder, too.
        paths: Path by those parts without ending, in composed form; of several files the best kind
            (``rank_of``), of these the one that sorts first; an empty one only where there is no
            other.
        matched: How many clips each template found.
        endings: How many clips were found under another ending than they are listed with.
        broken: Links that lead nowhere.
        unreadable: Folders that cannot be read, with the reason.
    """

    root: Path
    depth: int = 1
    paths: dict[str, str] = field(default_factory=dict)
    matched: Counter[str] = field(default_factory=Counter)
    endings: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    @classmethod
    def scan(cls, root: Path, folders: Sequence[str] = (), depth: int = 1) -> FileIndex:
        """Indexes all files below ``root``, preferring the first of ``folders`` that exists."""
        return cls.of(walk_files(root), root, folders, depth)

    @classmethod
    def of(
        cls, files: Iterable[FoundFile], root: Path, folders: Sequence[str] = (), depth: int = 1
    ) -> FileIndex:
        """Indexes those of ``files`` that are audio or video."""
        first = next((f"{name}/" for name in folders if (root / name).is_dir()), "")
        index = cls(root, depth)
        for path, is_there, fault in files:
            if fault:
                index.unreadable.append(f"{path} ({fault})")
            stem, dot, suffix = path.rpartition(".")
            if (dot + suffix).lower() not in AUDIO_SUFFIXES:
                continue
            if not is_there:
                index.broken.append(path)
                continue
            known = index.paths.setdefault(index._key(stem), path)
            if known is not path:
                best, other = sorted(
                    (known, path), key=lambda one: (not one.startswith(first), rank_of(one))
                )
                index.paths[index._key(stem)] = other if _is_empty(root / best) else best
        return index

    def _key(self, stem: str) -> str:
        if self.depth == 1:
            return composed(stem.rpartition("/")[2])
        return composed("/".join(stem.split("/")[-self.depth :]))

    def find(self, stems: Iterable[tuple[str, str]]) -> str:
        """Returns the path of the first of ``stems`` (template, stem) on disk; empty if none is."""
        for template, stem in stems:
            path = self.paths.get(composed(stem))
            if path is not None:
                self.matched[template] += 1
                return path
        return ""

    def find_listed(self, path: str) -> str:
        """Returns where the file listed as ``path`` lies, in any folder and with any ending."""
        stem, ending = os.path.splitext(path)
        found = self.paths.get(self._key(stem), "")
        if found and os.path.splitext(found)[1] != ending:
            self.endings[os.path.splitext(found)[1]] += 1
        return found

    def warnings(self, listing: Listing) -> list[str]:
        """Returns warnings on files that differ from the rows of ``listing``."""
        warnings = []
        if self.endings:
            kinds = ", ".join(sorted(self.endings))
            count = sum(self.endings.values())
            warnings.append(f"{count:,} clips have another ending on disk than listed: {kinds}")
        if self.broken:
            warnings.append(f"{len(self.broken)} links lead nowhere: {some_of(self.broken)}")
        if self.unreadable:
            warnings.append(unreadable_folders(self.unreadable))
        if len(listing.clips) < len(listing.missing):
            used = {clip.path for clip in listing.clips}
            if names := [path for path in self.paths.values() if path not in used]:
                some = some_of(names)
                warnings.append(
                    f"{len(names):,} audio files have names that no row asks for: {some}"
                )
        return warnings


@dataclass
class ListingBuilder:
    """Adds the clips of annotated rows to a listing, each id once.

    Attributes:
        listing: Gets clips, missing ones and, in the end, notes and warnings.
        index: The files on disk.
        known: The first clip of each id.
        repeats: Ids of the rows that repeat an earlier one.
    """

    listing: Listing
    index: FileIndex
    known: dict[str, SourceClip] = field(default_factory=dict)
    repeats: list[str] = field(default_factory=list)

    def add(
        self, row: Row, clip: SourceClip, expected_path: str, find: Callable[[], str | None]
    ) -> bool:
        """Adds ``clip`` to the clips, or to the missing ones where ``find`` returns none.

        Args:
            row: Where the clip is annotated.
            clip: The clip without its path.
            expected_path: Where its file should be.
            find: Looks for its file; called once for each id.

        Returns:
            Whether the id is new.

        Raises:
            UsageError: An earlier row contradicts this one about this id.
        """
        first = self.known.setdefault(clip.id, clip)
        if first is not clip:
            for name, what in _FIELDS.items():
                before, now = (
                    " and ".join(map(repr, value)) if isinstance(value, tuple) else repr(value)
                    for value in (getattr(first, name), getattr(clip, name))
                )
                if before != now:
                    raise row.error(
                        f"{clip.id!r} was listed before with another {what}: {before}, now {now}",
                        "take out the row that is wrong",
                    )
            self.repeats.append(clip.id)
        elif path := find():
            self.listing.clips.append(clip._replace(path=path))
        else:
            self.listing.missing.append(MissingClip(clip.id, expected_path, clip.split))
        return first is clip

    def finish(self) -> Listing:
        """Returns the listing, with what the user should know of rows and files."""
        if matched := self.index.matched:
            found, wanted = sum(matched.values()), len(self.known)
            by_name = ", ".join(f"{name}: {count:,}" for name, count in matched.most_common())
            share = f"{found:,} of {wanted:,} annotated clips are on disk ({found / wanted:.1%})"
            self.listing.notes.append(f"{share}; {by_name}")
        if self.repeats:
            count, some = len(self.repeats), some_of(self.repeats)
            self.listing.warnings.append(
                f"{count:,} rows repeat an earlier one and were skipped: {some}"
            )
        self.listing.warnings += self.index.warnings(self.listing)
        return self.listing


def unreadable_folders(folders: Sequence[str]) -> str:
    """Returns a warning on folders that cannot be read, each with its reason."""
    what = "1 folder" if len(folders) == 1 else f"{len(folders)} folders"
    return f"{what} cannot be read, and what is in there is left out: {some_of(folders)}"


def _is_empty(path: Path) -> bool:
    try:
        return path.stat().st_size == 0
    except OSError:  # its reason is shown when it is decoded
        return False


def first_file(root: Path, names: Sequence[str], folders: Sequence[str] = ()) -> Path | None:
    """Returns the first of ``names`` that is a file in ``root`` or one of its ``folders``."""
    roots = [root, *(root / folder for folder in folders)]
    candidates = (folder / name for name in names for folder in roots)
    return next((path for path in candidates if path.is_file()), None)
