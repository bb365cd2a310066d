"""Detects recording sessions in the names of files and folders, where clips have no group.

Clips of one session share room, microphone and speaker, so a random split over them measures how
well these are recognised. Only names tell of sessions here: ``rec01_003.wav``, ``rooms/kitchen/``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence

from elastictool.corpora.base import SourceClip
from elastictool.corpora.checks import some_of

_DIVIDER = re.compile(r"[\W_]+")
_NUMBER = re.compile(r"[\W_]*\d+[\W_]*$")
_COVERED = 0.5
"""Share of the files that have to lie in sessions of several files."""
_LOOKED_AT = 200_000
"""Clips whose names are looked at; so many take about a second."""


def session_warnings(clips: Sequence[SourceClip]) -> list[str]:
    """Returns a warning if files that look like one session lie in several splits."""
    clips = clips[:_LOOKED_AT]
    if any(clip.group for clip in clips):
        return []
    files = {clip.path: clip for clip in clips}
    for what, session_of in _SCHEMES.items():
        sessions: dict[str, list[SourceClip]] = {}
        for path, clip in files.items():
            sessions.setdefault(session_of(path), []).append(clip)
        sessions.pop("", None)
        several = {name: found for name, found in sessions.items() if len(found) > 1}
        covered = sum(map(len, several.values()))
        # One session for each label is the label itself: dog/1.wav, dog_1.wav.
        pairs = {(name, clip.labels) for name, found in several.items() for clip in found}
        is_label = len(pairs) == len({labels for _, labels in pairs})
        if len(several) < 2 or is_label or covered < _COVERED * len(files):
            continue
        apart = [name for name, found in several.items() if len({c.split for c in found}) > 1]
        if apart:
            return [
                f"{len(apart)} of {len(several)} {what} that look like recording sessions have "
                f"clips in several splits, so scores may be flattered: {some_of(apart)} (a column "
                "group of a table keeps clips together: --dataset csv, --group-column)"
            ]
    return []


def _stem(path: str) -> str:
    return os.path.splitext(os.path.basename(path))[0]


def _without_number(path: str) -> str:
    return _NUMBER.sub("", _stem(path))


def _first_words(fewer: int) -> Callable[[str], str]:
    def words(path: str) -> str:
        found = [match.start() for match in _DIVIDER.finditer(_stem(path))]
        return _stem(path)[: found[-fewer]] if len(found) >= fewer else ""

    return words


_BEGINNINGS = "beginnings of file names"
_SCHEMES: dict[str, Callable[[str], str]] = {
    "folders": os.path.dirname,
    _BEGINNINGS: _without_number,
    f"{_BEGINNINGS} (without the last word)": _first_words(1),
    f"{_BEGINNINGS} (without the last two words)": _first_words(2),
}
"""Session of a path, by what messages call it."""
