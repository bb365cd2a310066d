"""Number folds from 1, as they are stored: 0 is a clip without a fold."""

from __future__ import annotations

from collections.abc import Sequence


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
