"""Names of splits: ours, those of other people's data, and misspelt ones."""

from __future__ import annotations

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
"""Our name of each split by its names in other people's data."""
_EDITS = 2
_LONG = 7
"""Letters of a name from which on two edits make a misspelling of it, and no word of its own."""


def split_name(text: str) -> str:
    """Returns our name of a split; a name that is none of the usual ones stays as it is.

    Raises:
        ValueError: It is nearly the name of a split; the text names that.
    """
    name = text.strip().lower()
    if name in SPLIT_NAMES:
        return SPLIT_NAMES[name]
    usual = [known for known in SPLIT_NAMES if known in SPLIT_NAMES.values() or len(known) >= _LONG]
    distances = {known: _edits(name, known) for known in usual}
    nearest = min(usual, key=distances.__getitem__)
    if distances[nearest] <= _EDITS and distances[nearest] < len(name):
        raise ValueError(f"is no split, but nearly {nearest!r}")
    return text.strip()


def _edits(one: str, other: str) -> int:
    """Counts the letters to insert, delete or replace to make ``other`` of ``one``."""
    row = list(range(len(other) + 1))
    for count, letter in enumerate(one[:64], start=1):
        diagonal, row[0] = row[0], count
        for index, wanted in enumerate(other, start=1):
            replaced = diagonal + (letter != wanted)
            diagonal, row[index] = row[index], min(row[index] + 1, row[index - 1] + 1, replaced)
    return row[-1]
