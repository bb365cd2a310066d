"""Make file names that are not text readable; clips keep the names that open the files.

A name on disk is bytes. One that is not UTF-8 comes to Python with surrogates in it, which no csv
table, no JSON document, no Arrow column and no terminal takes. So a clip keeps its path as it is,
and its id, labels and group get a text in which each such byte is written as ``\\xe9``.
"""

from __future__ import annotations

from elastictool.corpora.base import Listing
from elastictool.utils.io import readable


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
        while clip_id != clip.id and clip_id in taken:  # another file is really called ``\\xe9``
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
