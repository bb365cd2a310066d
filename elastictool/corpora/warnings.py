"""Warnings that follow from the clips of a listing.

They are no part of the fingerprint: a new one, or a better wording, leaves prepared data valid.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping

from elastictool.corpora.base import Listing, MissingClip, SourceClip

_EXAMPLES = 3
_STRANGE = {
    re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+://"): "are addresses (fetch them, and list the files)",
    re.compile(r"^[A-Za-z]:[\\/]"): "have paths of Windows (list them as they are called here)",
    re.compile(r"^[^:]*\\"): "have backslashes in their paths (write /)",
    re.compile(r"^~"): "begin with ~ (write the whole path)",
}


def repeated_slices(clips: Iterable[SourceClip], files: Mapping[str, str]) -> list[str]:
    """Returns a warning on clips that are the same part of the same file.

    ``files`` is the file behind each path (``source_files``).
    """
    first: dict[tuple[str, float, float | None], SourceClip] = {}
    repeats, others = [], 0
    for clip in clips:
        place = (files[clip.path], clip.start_s or 0.0, clip.stop_s)
        original = first.setdefault(place, clip)
        if original is not clip:
            repeats.append(clip.path)
            others += set(clip.labels) != set(original.labels)
    if not repeats:
        return []
    label = f", {others} of them with another label" if others else ""
    return [
        f"{len(repeats)} rows repeat a file, or the same slice of it{label}: {some_of(repeats)}"
    ]


def files_of_several_groups(clips: Iterable[SourceClip], files: Mapping[str, str]) -> list[str]:
    """Returns a warning on files whose slices are in different groups."""
    groups: dict[str, set[str]] = {}
    paths: dict[str, str] = {}
    for clip in clips:
        groups.setdefault(files[clip.path], set()).add(clip.group)
        paths.setdefault(files[clip.path], clip.path)
    apart = [paths[file] for file, found in groups.items() if len(found) > 1]
    if not apart:
        return []
    return [f"slices of {len(apart)} files are in different groups: {some_of(apart)}"]


def listing_warnings(listing: Listing) -> list[str]:
    """Returns warnings on labels that are nearly equal, on a single one, and on their number."""
    written: dict[str, list[str]] = {}
    for label in listing.label_names:
        plain = " ".join(unicodedata.normalize("NFC", label).casefold().split())
        written.setdefault(plain, []).append(label)
    alike = [" / ".join(map(repr, labels)) for labels in written.values() if len(labels) > 1]
    warnings = []
    if alike:
        warnings.append(
            f"labels that differ only in case, spaces or encoding are classes of their own: "
            f"{some_of(alike)}"
        )
    first = listing.clips[0].labels if listing.clips else ()
    if len(first) == 1 and all(clip.labels == first for clip in listing.clips):
        warnings.append(f"all clips have the label {first[0]!r}: there is nothing to tell apart")
    found, published = len(listing.label_names), listing.expected_classes
    if published and found != published:
        warnings.append(f"there are {found:,} classes, {published:,} are published")
    return warnings


def missing_files(listing: Listing) -> str:
    """Returns how many clips are missing and, where they are slices, of how many files."""
    files = dict.fromkeys(clip.path for clip in listing.missing)
    clips = len(listing.missing)
    of = f" of {len(files)} files" if len(files) != clips else ""
    return f"missing clips: {clips}{of}: {some_of(files)}"


def strange_paths(missing: Iterable[MissingClip]) -> list[str]:
    """Returns warnings on missing files whose paths cannot exist on this system."""
    warnings = []
    paths = [clip.path for clip in missing]
    for pattern, what in _STRANGE.items():
        found = [path for path in paths if pattern.search(path)]
        if found:
            warnings.append(f"{len(found):,} missing files {what}: {some_of(found)}")
    return warnings


def some_of(names: Iterable[str]) -> str:
    """Returns the first few distinct names, joined."""
    distinct = list(dict.fromkeys(names))
    more = ", ..." if len(distinct) > _EXAMPLES else ""
    return ", ".join(distinct[:_EXAMPLES]) + more
