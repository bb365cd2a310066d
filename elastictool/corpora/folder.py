"""Any data, described by its folders: ``DIR[/train|val|test]/<class>/**/*.wav``.

The class is the folder under the root (or under the split folder); deeper folders belong to it.
Classes are ordered numerically if all are whole numbers, else alphabetically. Without split
folders a seeded, stratified 80/10/10 split is drawn.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from elastictool.audio.formats import AUDIO_SUFFIXES
from elastictool.corpora.base import (
    CORPORA,
    SPLIT_NAMES,
    CorpusOptions,
    Listing,
    SourceClip,
    chosen_task,
    ordered_labels,
    require_root,
    source_files,
    stratified_split,
)
from elastictool.corpora.remarks import drawn_split
from elastictool.errors import UsageError

_DRAWN = "no split folders: drew 80/10/10 by class with seed {}"


@dataclass(frozen=True)
class Folder:
    """Lists a tree of class folders."""

    name: str = "folder"
    tasks: tuple[str, ...] = ()
    subsets: tuple[str, ...] = ()
    default_root: Path | None = None

    def describe(self) -> str:
        """The tree that is wanted."""
        return (
            "--dataset folder --root DIR, laid out as DIR/<class>/*.wav or "
            "DIR/<train|val|test>/<class>/*.wav\n(also flac, ogg, opus, mp3, aiff, au; with the "
            "extra av m4a, mp4, webm: elastictool doctor lists all)."
        )

    def list_clips(self, root: Path | None, options: CorpusOptions) -> Listing:
        """All audio files below class folders, sorted by path.

        Raises:
            UsageError: The folder is absent or holds no class folder with audio.
        """
        chosen_task(self, options)
        place = require_root(root, self)
        if not place.is_dir():
            raise UsageError(f"{place} is a file, not a folder of class folders", self.describe())
        split_folders = _split_folders(place)
        clips = [
            SourceClip(path, path, None, None, (label,), split)
            for split, folder in split_folders or [("train", place)]
            for path, label in _audio_files(folder, place)
        ]
        if not clips:
            raise UsageError(f"no audio files in class folders under {place}", self.describe())
        remarks = []
        if not split_folders:
            clips = stratified_split(clips, options.seed, source_files(clips, place))
            remarks = [drawn_split("no split folders", "class", clips, options.seed)]
        return Listing(
            name=place.resolve().name,
            root=place,
            clips=clips,
            label_names=ordered_labels([clip.labels[0] for clip in clips]),
            remarks=remarks,
            drawn="" if split_folders else _DRAWN.format(options.seed),
        )


def _split_folders(root: Path) -> list[tuple[str, Path]]:
    """(split, folder) if every visible folder under ``root`` is named like a split, else none."""
    folders = sorted(path for path in root.iterdir() if path.is_dir() and path.name[0] != ".")
    if all(path.name.lower() in SPLIT_NAMES for path in folders):
        return [(SPLIT_NAMES[path.name.lower()], path) for path in folders]
    return []


def _audio_files(folder: Path, root: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder).parts
        visible = not any(part.startswith(".") for part in inside)
        if len(inside) > 1 and visible and path.suffix.lower() in AUDIO_SUFFIXES:
            yield path.relative_to(root).as_posix(), inside[0]


CORPORA.register("folder")(Folder())
