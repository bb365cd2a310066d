"""Make file names that are not text readable; clips keep the names that open the files.

A name on disk is bytes. One that is not UTF-8 comes to Python with surrogates in it, which no csv
table, no JSON document, no Arrow column and no terminal takes. So a clip keeps its path as it is,
and its id, labels and group get a text in which each such byte is written as ``\\xe9``.
"""

from __future__ import annotations

from elastictool.corpora.base import Listing, SourceClip
from elastictool.utils.io import readable


def make_readable(listing: Listing) -> None:
    """Makes everything in ``listing`` text but the paths by which files are opened."""
    if _is_text(listing.name, *listing.label_names, *listing.notes):
        strange = [i for i, clip in enumerate(listing.clips) if not _is_text(clip.id, clip.group)]
    else:
        strange = list(range(len(listing.clips)))
    if strange:
        taken = {clip.id for clip in listing.clips}
        for index in strange:
            listing.clips[index] = _readable(listing.clips[index], taken)
    listing.name = readable(listing.name)
    listing.label_names = [readable(name) for name in listing.label_names]
    listing.notes = [readable(note) for note in listing.notes]
    listing.warnings = [readable(warning) for warning in listing.warnings]
    listing.missing = [
        gone._replace(id=readable(gone.id), path=readable(gone.path)) for gone in listing.missing
    ]


def _is_text(*texts: str) -> bool:
    try:
        return all(text.isascii() or text.encode() for text in texts)
    except UnicodeEncodeError:
        return False


def _readable(clip: SourceClip, taken: set[str]) -> SourceClip:
    """Returns the clip with a unique id, also if another file is really called ``\\xe9``."""
    clip_id = readable(clip.id)
    while clip_id != clip.id and clip_id in taken:
        clip_id += "'"
    taken.add(clip_id)
    labels = tuple(readable(label) for label in clip.labels)
    return clip._replace(id=clip_id, labels=labels, group=readable(clip.group))
