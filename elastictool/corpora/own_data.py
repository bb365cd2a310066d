"""Lists a user's own data: draws splits, numbers folds, finds shared files.

The corpora csv, folder and json list what a user has, not what somebody published: there may be
no split, folds may be counted from 0, and one recording may be listed twice.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from elastictool.audio.formats import MEMBER_SUFFIXES
from elastictool.audio.reader import split_member
from elastictool.corpora.base import Listing, MissingClip, SourceClip
from elastictool.corpora.checks import some_of
from elastictool.corpora.sessions import session_warnings
from elastictool.utils.io import on_disk


def own_data(
    name: str,
    root: Path,
    clips: Sequence[SourceClip],
    find: Callable[[str], str],
    drawn: str = "",
    seed: int = 0,
) -> Listing:
    """Returns a listing of a user's own data.

    Labels are in numerical order if all are whole numbers, else alphabetical.

    Args:
        name: Name of the dataset.
        root: What paths are relative to.
        clips: All clips, on disk or not.
        find: Returns where a clip's path lies, in the form that the disk has it; empty if it does
            not.
        drawn: Why and by what a split is drawn ("no split column: by label"); empty keeps the
            clips' own.
        seed: Seed of the drawing.
    """
    found = {path: find(path) for path in dict.fromkeys(clip.path for clip in clips)}
    there = set(filter(None, found.values()))
    clips = [clip._replace(path=found[clip.path] or clip.path) for clip in clips]
    if drawn:
        clips = stratified_split(clips, seed, _source_files(clips, root))
    labels = {label for clip in clips for label in clip.labels}
    numeric = all(label.isascii() and label.isdigit() for label in labels)
    listing = Listing(
        name,
        root,
        [clip for clip in clips if clip.path in there],
        sorted(labels, key=lambda label: (int(label), label)) if numeric else sorted(labels),
        any(len(clip.labels) > 1 for clip in clips),
        [MissingClip(clip.id, clip.path, clip.split) for clip in clips if clip.path not in there],
    )
    if drawn:
        reason, _, by = drawn.partition(": ")
        listing.drawn = f"{reason}: drew 80/10/10 {by} with seed {seed}"
        counts = Counter(clip.split for clip in listing.clips)
        sizes = ", ".join(f"{counts[split]} {split}" for split in ("train", "val", "test"))
        enough = counts["val"] and counts["test"]
        few = "" if enough else "; no label has three recordings or groups"
        if listing.clips:
            listing.warnings.append(f"{reason}: drew {sizes} {by} with seed {seed}{few}")
            listing.warnings += session_warnings(listing.clips)
    return listing


def stratified_split(
    clips: Sequence[SourceClip], seed: int, files: Mapping[str, str] | None = None
) -> list[SourceClip]:
    """Draws 80 % train, 10 % val, 10 % test of each label; what belongs together is in one split.

    Clips of one group belong together, and so do those without a group that are read from one
    file. A label with three units or more (groups or files) has at least one in val and in test;
    one with fewer is all in train. A unit counts under the first label of its first clip.

    Args:
        clips: Clips to divide.
        seed: Seed of the drawing.
        files: The file behind each path ; None takes the paths themselves.
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


def _source_files(clips: Sequence[SourceClip], root: Path) -> dict[str, str]:
    """Returns the resolved file of each path of ``clips``; links to one file give the same one."""
    folders: dict[str, str] = {}

    def resolved(path: str) -> str:
        folder, name = os.path.split(os.path.join(root, path))
        if folder not in folders:  # asking the disk for each file would take longer than listing
            folders[folder] = os.path.realpath(folder) if os.path.isdir(folder) else folder
        file = os.path.join(folders[folder], name)
        return os.path.realpath(file) if os.path.islink(file) else file

    return {path: resolved(path) for path in dict.fromkeys(clip.path for clip in clips) if path}


def shared_file_warnings(listing: Listing) -> list[str]:
    """Returns warnings on clips that are the same part of one file, and on files in many groups."""
    files = _source_files(listing.clips, listing.root)
    first: dict[tuple[str, float, float | None], SourceClip] = {}
    groups: dict[str, set[str]] = {}
    paths: dict[str, str] = {}
    repeats, others = [], 0
    for clip in listing.clips:
        file = files[clip.path]
        original = first.setdefault((file, clip.start_s or 0.0, clip.stop_s), clip)
        if original is not clip:
            repeats.append(clip.path)
            others += set(clip.labels) != set(original.labels)
        groups.setdefault(file, set()).add(clip.group)
        paths.setdefault(file, clip.path)
    warnings = []
    if repeats:
        label = f", {others} of them with another label" if others else ""
        some = some_of(repeats)
        warnings.append(
            f"{len(repeats)} rows repeat a file, or the same slice of it{label}: {some}"
        )
    if apart := [paths[file] for file, found in groups.items() if len(found) > 1]:
        warnings.append(f"slices of {len(apart)} files are in different groups: {some_of(apart)}")
    return warnings


def counted_from_one(folds: Sequence[int | None]) -> tuple[list[int], list[str]]:
    """Returns folds counted from 1 (0: none), and a warning if they were counted from 0.

    Args:
        folds: As they were given; None where none was.
    """
    given = {fold for fold in folds if fold is not None}
    if given == {0}:
        return [0] * len(folds), ["the only fold is 0: taken as no folds"]
    shift = int(0 in given)
    warning = "folds are counted from 0 there and from 1 here: fold 0 is fold 1, and so on"
    counted = [0 if fold is None else fold + shift for fold in folds]
    return counted, [warning] if shift else []


def find_file(folder: Path, name: str) -> str:
    """Returns the path of the file called ``name``, relative to ``folder`` or absolute as it is.

    It may also be a recording in an HDF5 file (``FILE/NAME``); empty if there is none.
    """
    path = on_disk(folder / name)
    if not _is_there(path):
        file, member = split_member(path)
        if not (member and isinstance(file, Path) and file.suffix.lower() in MEMBER_SUFFIXES):
            return ""
    if path == folder / name:
        return name
    return str(path) if os.path.isabs(name) else path.relative_to(folder).as_posix()


def _is_there(path: Path) -> bool:
    """Returns whether there is something; a pipe, or what may not be read, is refused later."""
    try:
        path.stat()
        return True
    except PermissionError:
        return True
    except (OSError, ValueError):  # ValueError: a NUL byte
        return False
