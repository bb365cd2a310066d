"""Checks a finished listing: warns of likely mistakes, makes names that are not text readable.

Warnings are no part of the fingerprint: a new one, or a better wording, leaves prepared data valid.

A name on disk is bytes. One that is not UTF-8 comes to Python with surrogates in it, which no csv
table, no JSON document, no Arrow column and no terminal takes. So a clip keeps its path as it is,
and its id, labels and group get a text in which each such byte is written as ``\\xe9``.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

from elastictool.corpora.base import MISSING, Listing, MissingClip
from elastictool.corpora.split_names import SPLIT_NAMES
from elastictool.utils.io import readable

_EXAMPLES = 3
_STRANGE = {
    re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+://"): "are addresses (fetch them, and list the files)",
    re.compile(r"^[A-Za-z]:[\\/]"): "have paths of Windows (list them as they are called here)",
    re.compile(r"^[^:]*\\"): "have backslashes in their paths (write /)",
    re.compile(r"^~"): "begin with ~ (write the whole path)",
}


def make_readable(listing: Listing) -> None:
    """Makes everything in ``listing`` text but the paths by which files are opened."""
    if _is_text(listing.name, *listing.label_names, *listing.notes):
        strange = [i for i, clip in enumerate(listing.clips) if not _is_text(clip.id, clip.group)]
    else:
        strange = list(range(len(listing.clips)))
    taken = {clip.id for clip in listing.clips} if strange else set()
    for index in strange:
        clip = listing.clips[index]
        clip_id = readable(clip.id)
        while clip_id != clip.id and clip_id in taken:  # another file is really called ``\xe9``
            clip_id += "'"
        taken.add(clip_id)
        labels = tuple(map(readable, clip.labels))
        listing.clips[index] = clip._replace(id=clip_id, labels=labels, group=readable(clip.group))
    listing.name = readable(listing.name)
    listing.label_names = list(map(readable, listing.label_names))
    listing.notes = list(map(readable, listing.notes))
    listing.warnings = list(map(readable, listing.warnings))
    listing.missing = [
        gone._replace(id=readable(gone.id), path=readable(gone.path)) for gone in listing.missing
    ]


def _is_text(*texts: str) -> bool:
    try:
        return all(text.isascii() or text.encode() for text in texts)
    except UnicodeEncodeError:
        return False


def listing_warnings(listing: Listing) -> list[str]:
    """Returns warnings on labels that are nearly equal or the only one, on classes, on splits."""
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
    splits = Counter(clip.split for clip in listing.clips)
    for split in sorted(splits.keys() - set(SPLIT_NAMES.values())):
        are = "clip is" if splits[split] == 1 else "clips are"
        warnings.append(
            f"{splits[split]:,} {are} in the split {split!r}, which nothing uses unless a setting "
            f"names it (data.train_split, data.validation_split, data.test_split)"
        )
    return warnings


def strange_paths(missing: Iterable[MissingClip]) -> list[str]:
    """Returns warnings on missing files whose paths cannot exist on this system."""
    warnings = []
    paths = [clip.path for clip in missing]
    for pattern, what in _STRANGE.items():
        found = [path for path in paths if pattern.search(path)]
        if found:
            warnings.append(f"{len(found):,} missing files {what}: {some_of(found)}")
    return warnings


def missing_files(listing: Listing) -> str:
    """Returns how many clips are missing and, where they are slices, of how many files.

    It is empty where none is.
    """
    paths = [clip.path for clip in listing.missing if clip.reason == MISSING]
    if not paths:
        return ""
    files, clips = dict.fromkeys(paths), len(paths)
    of = f" of {len(files)} files" if len(files) != clips else ""
    return f"missing clips: {clips}{of}: {some_of(files)}"


def some_of(names: Iterable[str], examples: int = _EXAMPLES) -> str:
    """Returns the first few distinct names, joined."""
    distinct = list(dict.fromkeys(names))
    more = ", ..." if len(distinct) > examples else ""
    return ", ".join(distinct[:examples]) + more
