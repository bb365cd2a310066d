"""Any data, described by its folders: ``DIR[/train|val|test]/<class>/**/*.wav``.

The class is the folder under the root (or under the split folder); deeper folders belong to it.
Classes are ordered numerically if all are whole numbers, else alphabetically. Without split
folders a seeded, stratified 80/10/10 split is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
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
from elastictool.corpora.remarks import drawn_split, some_of
from elastictool.errors import UsageError
from elastictool.files import ARCHIVE_LEAVINGS, is_hidden

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
        tree = _Tree.read(place, split_folders)
        clips, remarks = tree.clips, []
        if not clips:
            loose = "; ".join(tree.left_out())
            raise UsageError(
                f"no audio files in class folders under {place}{loose and f' ({loose})'}",
                self.describe(),
            )
        if not split_folders:
            clips = stratified_split(clips, options.seed, source_files(clips, place))
            remarks = [drawn_split("no split folders", "class", clips, options.seed)]
        return Listing(
            name=place.resolve().name,
            root=place,
            clips=clips,
            label_names=ordered_labels([clip.labels[0] for clip in clips]),
            remarks=[*remarks, *tree.left_out()],
            drawn="" if split_folders else _DRAWN.format(options.seed),
        )


def _split_folders(root: Path) -> dict[str, str]:
    """Split of each visible folder under ``root``, if all are named like splits, else none."""
    names = [path.name for path in root.iterdir() if path.is_dir() and not is_hidden(path.name)]
    if all(name.lower() in SPLIT_NAMES for name in names):
        return {name: SPLIT_NAMES[name.lower()] for name in names}
    return {}


@dataclass
class _Tree:
    """Audio files of a tree, sorted by path: the clips, and what is none.

    Attributes:
        clips: Those in class folders.
        loose: Paths of those that lie above the class folders.
        num_hidden: How many are hidden, or lie in hidden folders.
    """

    clips: list[SourceClip] = field(default_factory=list)
    loose: list[str] = field(default_factory=list)
    num_hidden: int = 0

    @classmethod
    def read(cls, root: Path, split_folders: Mapping[str, str]) -> _Tree:
        """Look at every file below ``root``."""
        tree = cls()
        above = 2 if split_folders else 1
        for file in sorted(root.rglob("*")):
            if file.suffix.lower() not in AUDIO_SUFFIXES:
                continue
            path = file.relative_to(root)
            if any(is_hidden(part) for part in path.parts):
                tree.num_hidden += 1
            elif len(path.parts) <= above:
                tree.loose.append(path.as_posix())
            else:
                split = split_folders.get(path.parts[0], "train")
                label, name = path.parts[above - 1], path.as_posix()
                tree.clips.append(SourceClip(name, name, None, None, (label,), split))
        return tree

    def left_out(self) -> list[str]:
        """Remarks on the files that are no clips."""
        remarks = []
        if self.loose:
            files = "audio file is" if len(self.loose) == 1 else "audio files are"
            some = some_of(self.loose)
            remarks.append(f"{len(self.loose)} {files} in no class folder: {some} (left out)")
        if self.num_hidden:
            files = "file" if self.num_hidden == 1 else "files"
            kinds = f".name, {ARCHIVE_LEAVINGS}"
            remarks.append(f"{self.num_hidden} hidden audio {files} left out ({kinds})")
        return remarks


CORPORA.register("folder")(Folder())
