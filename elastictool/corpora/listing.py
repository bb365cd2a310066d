"""Joining annotations with the files that a user really has.

Copies of one corpus differ: flat or in subfolders, wav or flac or video, and clips of YouTube
videos under several naming schemes. The folder is read once into an index by stem; then each
annotated clip is looked up under the known templates in turn, and how often each matched is told.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from elastictool.audio.formats import AUDIO_SUFFIXES, FORMATS, MEMBER_SUFFIXES
from elastictool.audio.reader import place_of
from elastictool.corpora.base import Listing, MissingClip, SourceClip
from elastictool.corpora.warnings import some_of
from elastictool.utils.errors import UsageError
from elastictool.utils.io import FoundFile, walk_files

_FEW = 0.5
"""Share of found clips below which names on disk are shown that no row asks for."""
_SAID = {
    **{"start_s": "start", "stop_s": "stop", "labels": "label"},
    **{"split": "split", "fold": "fold", "group": "group"},
}
"""Fields of a clip in which two rows of one id must not differ, in words."""


def _ranks() -> dict[str, int]:
    """Order of preference: wav, flac, arrays in HDF5, other audio files, then the rest."""
    audio = ("mp3", "ogg", "opus")
    ranks: dict[str, int] = {}
    for kind in FORMATS:
        rank = 2 if kind.members else 3 if kind.decoder == "libsndfile" or kind.name in audio else 4
        for suffix in kind.suffixes:
            ranks.setdefault(suffix, rank)
    return {**ranks, ".wav": 0, ".flac": 1}


_RANKS = _ranks()


def rank_of(path: str) -> int:
    """Of several files that hold one recording, the one whose kind ranks lowest is taken."""
    return _RANKS[os.path.splitext(path)[1].lower()]


@dataclass
class FileIndex:
    """Audio and video files below a folder by the stem of their names.

    Attributes:
        root: What paths are relative to.
        first: Beginning of the paths that go before all others (``audio/``).
        depth: How many parts of a path tell a recording: 1 is its name alone, 2 its folder, too.
        paths: Path by those parts without ending; of several files the best kind (``rank_of``),
            of these the one that sorts first; an empty one only where there is no other.
        matched: How many clips each template found.
        endings: How many clips were found under another ending than they are listed with.
        broken: Links that lead nowhere.
    """

    root: Path
    first: str = ""
    depth: int = 1
    paths: dict[str, str] = field(default_factory=dict)
    matched: Counter[str] = field(default_factory=Counter)
    endings: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)

    @classmethod
    def scan(cls, root: Path, folders: Sequence[str] = (), depth: int = 1) -> FileIndex:
        """All files below ``root``; those in the first of ``folders`` that exists are preferred."""
        return cls.of(walk_files(root), root, folders, depth)

    @classmethod
    def of(
        cls, files: Iterable[FoundFile], root: Path, folders: Sequence[str] = (), depth: int = 1
    ) -> FileIndex:
        """Those of ``files`` that are audio or video."""
        first = next((f"{name}/" for name in folders if (root / name).is_dir()), "")
        index = cls(root, first, depth)
        for path, is_there in files:
            stem, dot, suffix = path.rpartition(".")
            if (dot + suffix).lower() not in AUDIO_SUFFIXES:
                continue
            if is_there:
                index._add(stem, path)
            else:
                index.broken.append(path)
        return index

    def _add(self, stem: str, path: str) -> None:
        key = self._key(stem)
        known = self.paths.setdefault(key, path)
        if known is not path:
            best, other = sorted((known, path), key=self._preference)
            self.paths[key] = other if self._is_empty(best) else best

    def _key(self, stem: str) -> str:
        if self.depth == 1:
            return stem.rpartition("/")[2]
        return "/".join(stem.split("/")[-self.depth :])

    def _preference(self, path: str) -> tuple[bool, int]:
        return not path.startswith(self.first), rank_of(path)

    def _is_empty(self, path: str) -> bool:
        return os.path.getsize(self.root / path) == 0

    def find(self, stems: Iterable[tuple[str, str]]) -> str:
        """Path of the first of ``stems`` (with its template) that is there; empty if none is."""
        for template, stem in stems:
            path = self.paths.get(stem)
            if path is not None:
                self.matched[template] += 1
                return path
        return ""

    def find_listed(self, path: str) -> str:
        """Where the file lies that is listed as ``path``, in any folder and with any ending."""
        stem, ending = os.path.splitext(path)
        found = self.paths.get(self._key(stem), "")
        if found and os.path.splitext(found)[1] != ending:
            self.endings[os.path.splitext(found)[1]] += 1
        return found

    def note(self, wanted: int) -> str:
        """How many of ``wanted`` clips were found, and under which names."""
        found = sum(self.matched.values())
        share = found / wanted if wanted else 0.0
        by_name = ", ".join(f"{name}: {count:,}" for name, count in self.matched.most_common())
        return f"{found:,} of {wanted:,} annotated clips are on disk ({share:.1%}); {by_name}"

    def warnings(self, listing: Listing) -> list[str]:
        """What is on disk otherwise than the rows of ``listing`` say, if anything is."""
        warnings = []
        if self.endings:
            kinds = ", ".join(sorted(self.endings))
            count = sum(self.endings.values())
            warnings.append(f"{count:,} clips have another ending on disk than listed: {kinds}")
        if self.broken:
            warnings.append(f"{len(self.broken)} links lead nowhere: {some_of(self.broken)}")
        if len(listing.clips) < _FEW * (len(listing.clips) + len(listing.missing)):
            warnings += self._strangers(listing)
        return warnings

    def _strangers(self, listing: Listing) -> list[str]:
        used = {clip.path for clip in listing.clips}
        names = [path for path in self.paths.values() if path not in used]
        if not names:
            return []
        return [f"{len(names):,} audio files have names that no row asks for: {some_of(names)}"]


@dataclass
class ListingBuilder:
    """Puts the clips of annotated rows into a listing, each id once.

    Attributes:
        listing: Gets clips, missing ones, and in the end warnings.
        known: The first clip of each id.
        repeats: Ids of the rows that say what an earlier one said.
    """

    listing: Listing
    known: dict[str, SourceClip] = field(default_factory=dict)
    repeats: list[str] = field(default_factory=list)

    def __contains__(self, clip_id: str) -> bool:
        return clip_id in self.known

    def add(self, clip: SourceClip, expected_path: str, table: Path, line: int) -> None:
        """File ``clip`` with the clips, or with the missing ones where it has no path.

        Raises:
            UsageError: An earlier row says something else of this id.
        """
        first = self.known.setdefault(clip.id, clip)
        if first is not clip:
            _check_repeat(first, clip, table, line)
            self.repeats.append(clip.id)
        elif clip.path:
            self.listing.clips.append(clip)
        else:
            self.listing.missing.append(MissingClip(clip.id, expected_path, clip.split))

    def warnings(self) -> list[str]:
        """How many rows were passed over, if any."""
        if not self.repeats:
            return []
        some = some_of(self.repeats)
        return [f"{len(self.repeats):,} rows repeat an earlier one and were passed over: {some}"]


def _check_repeat(first: SourceClip, clip: SourceClip, table: Path, line: int) -> None:
    for name, what in _SAID.items():
        before, now = getattr(first, name), getattr(clip, name)
        if before != now:
            raise UsageError(
                f"{table}, line {line}: {clip.id!r} was listed before with another {what}: "
                f"{_shown(before)}, now {_shown(now)}",
                "take out the row that is wrong",
            )


def _shown(value: object) -> str:
    return " and ".join(map(repr, value)) if isinstance(value, tuple) else repr(value)


def is_there(path: Path) -> bool:
    """Whether a file is there, or the HDF5 file that a recording ``FILE/NAME`` is in."""
    if path.is_file():
        return True
    file, name = place_of(path)
    return bool(name) and isinstance(file, Path) and file.suffix.lower() in MEMBER_SUFFIXES


def first_file(root: Path, names: Sequence[str], folders: Sequence[str] = ()) -> Path | None:
    """The first of ``names`` that is a file in ``root`` or in one of ``folders`` below it."""
    places = [root, *(root / folder for folder in folders)]
    candidates = (place / name for name in names for place in places)
    return next((path for path in candidates if path.is_file()), None)
