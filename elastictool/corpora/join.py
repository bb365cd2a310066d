"""Joining annotations with the files that a user really has.

Copies of one corpus differ: flat or in subfolders, wav or flac or video, and clips of YouTube
videos under several naming schemes. The folder is read once into an index by stem; then each
annotated clip is looked up under the known templates in turn, and how often each matched is told.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from elastictool.audio.formats import AUDIO_SUFFIXES
from elastictool.corpora.base import Listing, MissingClip, SourceClip


@dataclass
class FileIndex:
    """Files below a folder by the stem of their names.

    Attributes:
        paths: Path relative to the root of the listing, by stem; of several files of one stem
            the one that sorts first (so that a wav goes before its mp4 in another folder only if
            that folder does).
        matched: How many clips each template found.
    """

    paths: dict[str, str]
    matched: Counter[str] = field(default_factory=Counter)

    @classmethod
    def scan(cls, folder: Path, root: Path) -> FileIndex:
        """All audio and video files below ``folder``, hidden ones left out."""
        paths: dict[str, str] = {}
        prefix = "" if folder == root else folder.relative_to(root).as_posix() + "/"
        for path in _files(str(folder)):
            stem, dot, suffix = path.rpartition("/")[2].rpartition(".")
            if (dot + suffix).lower() in AUDIO_SUFFIXES:
                paths.setdefault(stem, prefix + path)
        return cls(paths)

    def find(self, stems: Iterable[tuple[str, str]]) -> str:
        """Path of the first of ``stems`` (with its template) that is there; empty if none is."""
        for template, stem in stems:
            path = self.paths.get(stem)
            if path is not None:
                self.matched[template] += 1
                return path
        return ""

    def note(self, wanted: int) -> str:
        """How many of ``wanted`` clips were found, and under which names."""
        found = sum(self.matched.values())
        share = found / wanted if wanted else 0.0
        by_name = ", ".join(f"{name}: {count:,}" for name, count in self.matched.most_common())
        return f"{found:,} of {wanted:,} annotated clips are on disk ({share:.1%}); {by_name}"


def file_clip(listing: Listing, clip: SourceClip, expected_path: str) -> None:
    """Add ``clip`` to the listing's clips, or to its missing ones where it has no path."""
    if clip.path:
        listing.clips.append(clip)
    else:
        listing.missing.append(MissingClip(clip.id, expected_path, clip.split))


def first_folder(root: Path, names: Sequence[str]) -> Path:
    """The first of ``names`` that is a folder below ``root``, else ``root`` itself."""
    return next((root / name for name in names if (root / name).is_dir()), root)


def first_file(root: Path, names: Sequence[str], folders: Sequence[str] = ()) -> Path | None:
    """The first of ``names`` that is a file in ``root`` or in one of ``folders`` below it."""
    places = [root, *(root / folder for folder in folders)]
    candidates = (place / name for name in names for place in places)
    return next((path for path in candidates if path.is_file()), None)


def _files(folder: str, inside: str = "") -> Iterator[str]:
    """Visible files below ``folder``, relative to it, in the order of their paths."""
    with os.scandir(f"{folder}/{inside}") as entries:
        listed = sorted((entry.name, entry.is_dir()) for entry in entries)
    for name, is_folder in listed:
        if name.startswith("."):
            continue
        if is_folder:
            yield from _files(folder, f"{inside}{name}/")
        else:
            yield inside + name
