"""Lists audio in class folders: ``DIR[/train|val|test]/<class>/**/*.wav``.

The class is the folder under the root (or under the split folder); deeper folders belong to it.
Only folders that hold audio count, and prepared data are never taken for recordings. Classes are
ordered numerically if all are whole numbers, else alphabetically. Without split folders a seeded,
stratified 80/10/10 split is drawn.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from elastictool.audio.formats import AUDIO_SUFFIXES
from elastictool.corpora.base import (
    CORPORA,
    Corpus,
    CorpusOptions,
    Listing,
    MissingClip,
    SourceClip,
)
from elastictool.corpora.checks import some_of
from elastictool.corpora.listing import unreadable_folders
from elastictool.corpora.own_data import own_data
from elastictool.corpora.split_names import SPLIT_NAMES, split_name
from elastictool.utils.errors import UsageError
from elastictool.utils.io import (
    ARCHIVE_LEAVINGS,
    INFO_NAME,
    LOCK_NAME,
    PROGRESS_FOLDER,
    FoundFile,
    is_hidden,
    walk_files,
)

_PREPARED = (INFO_NAME, f"{PROGRESS_FOLDER}/{LOCK_NAME}")


class Folder(Corpus):
    """Lists a tree of class folders."""

    name = "folder"

    def describe(self) -> str:
        """Returns which tree is wanted."""
        return (
            "--dataset folder --root DIR, laid out as DIR/<class>/*.wav or "
            "DIR/<train|val|test>/<class>/*.wav\n(also flac, ogg, opus, mp3, aiff, au, m4a, mp4, "
            "webm: elastictool doctor lists all)."
        )

    def find_clips(self, root: Path, options: CorpusOptions) -> Listing:
        """Lists audio files below class folders, sorted by path; broken links are ``missing``.

        Raises:
            UsageError: There is no class folder with audio, or folders of splits and others.
        """
        files, unreadable, left_out = _audio_files(root)
        splits = _split_folders(root, files)
        clips: list[SourceClip] = []
        loose: list[str] = []
        for path, *_ in files:
            *folders, _ = path.split("/")
            above = 1 if splits else 0
            if len(folders) <= above:
                loose.append(path)
            else:
                split = splits.get(folders[0], "train")
                clips.append(SourceClip(path, path, None, None, (folders[above],), split))
        if loose:
            what = "audio file is" if len(loose) == 1 else "audio files are"
            some = f"{some_of(loose)} (left out)"
            left_out.insert(0, f"{len(loose)} {what} in no class folder: {some}")
        if not clips:
            lying = "; ".join(left_out)
            raise UsageError(
                f"no audio files in class folders under {root}{lying and f' ({lying})'}",
                self.describe(),
            )
        broken = {file.path for file in files if not file.is_there}
        listing = own_data(
            root.resolve().name,
            root,
            clips,
            lambda path: "" if path in broken else path,
            "" if splits else "no split folders: by class",
            options.seed,
        )
        listing.warnings += left_out
        for path, _, fault in unreadable:
            split = splits.get(path.split("/")[0], "train")
            reason = f"folder cannot be read ({fault})"
            listing.missing.append(MissingClip(path, path, split, reason))
        return listing


def _audio_files(root: Path) -> tuple[list[FoundFile], list[FoundFile], list[str]]:
    """Returns the audio files that may be clips, by path, unreadable folders, and warnings."""
    audio: list[FoundFile] = []
    unreadable: list[FoundFile] = []
    num_hidden = 0
    prepared: set[str] = set()
    for file in walk_files(root, hidden=True):
        top, _, below = file.path.partition("/")
        if below in _PREPARED or below.partition("/")[2] in _PREPARED:
            prepared.add(top)
        if file.fault:
            unreadable.append(file)
        if os.path.splitext(file.path)[1].lower() not in AUDIO_SUFFIXES:
            continue
        if any(map(is_hidden, file.path.split("/"))):
            num_hidden += 1
        else:
            audio.append(file)
    files = [file for file in audio if file.path.partition("/")[0] not in prepared]
    left_out = {file.path.partition("/")[0] for file in audio} & prepared
    warnings = []
    if num_hidden:
        what = "file" if num_hidden == 1 else "files"
        warnings.append(f"{num_hidden} hidden audio {what} left out (.name, {ARCHIVE_LEAVINGS})")
    if left_out:
        names = some_of(sorted(left_out))
        warnings.append(f"audio next to prepared data is in no class: {names} (left out)")
    if unreadable:
        warnings.append(unreadable_folders([f"{file.path} ({file.fault})" for file in unreadable]))
    return files, unreadable, warnings


def _split_folders(root: Path, files: Iterable[FoundFile]) -> dict[str, str]:
    """Returns the split of each folder under ``root``; none if the folders are classes.

    A class may be called like a split (``train`` is one of ESC-50): its audio lies in it, and not
    in class folders below it.

    Raises:
        UsageError: Some are splits, and others are not.
    """
    deepest: dict[str, int] = {}
    for file in files:
        top, _, below = file.path.partition("/")
        if below:
            deepest[top] = max(deepest.get(top, 0), below.count("/"))
    named = {name: SPLIT_NAMES[name.lower()] for name in deepest if name.lower() in SPLIT_NAMES}
    others = [name for name in deepest if name not in named]
    splits = [name for name in named if deepest[name]]
    misspelt = [why for name in others if deepest[name] and (why := _misspelt(name))]
    if misspelt and (splits or len(misspelt) == len(deepest)):
        raise UsageError(
            f"{root} has folders that look like splits: {some_of(misspelt)}", "rename them"
        )
    if others and splits:
        raise UsageError(
            f"{root} has folders of splits ({', '.join(splits)}) and others with audio next to "
            f"them ({some_of(others)})",
            "move the others away, or, if they are classes, into the folders of splits; or give "
            "the --root of one kind",
        )
    return {} if others else named


def _misspelt(name: str) -> str:
    """Returns what is wrong with a name that is nearly that of a split; empty for others."""
    try:
        split_name(name)
    except ValueError as error:
        return f"{name!r} {error}"
    return ""


CORPORA.register("folder")(Folder())
