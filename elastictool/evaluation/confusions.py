"""Write the confusion matrix as its non-zero cells, and find the largest confusions.

The file stays small also for 527 classes. Figures and reports read it, so nothing here needs torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from elastictool.utils.csv_files import write_rows


@dataclass(frozen=True)
class Confusion:
    """``clips`` clips of class ``true`` whose top class is another, ``predicted``."""

    true: str
    predicted: str
    clips: int


def write_confusions(
    path: Path, matrix: npt.NDArray[np.int64], label_names: Sequence[str], raw: bool = False
) -> None:
    """Writes the (C, C) counts (row = true class), one line for each cell that is not zero.

    ``raw``: labels as they are, see ``write_rows``.
    """
    cells = [
        {"true": label_names[i], "predicted": label_names[j], "clips": int(matrix[i, j])}
        for i, j in np.argwhere(matrix)
    ]
    write_rows(path, ("true", "predicted", "clips"), cells, raw)


def most_confused(
    matrix: npt.NDArray[np.int64], label_names: Sequence[str], count: int
) -> list[Confusion]:
    """Returns the ``count`` largest cells off the diagonal; ties in order of classes."""
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:count]
    cells = [divmod(index, len(matrix)) for index in order.tolist()]
    return [
        Confusion(label_names[i], label_names[j], int(wrong[i, j]))
        for i, j in cells
        if wrong[i, j] > 0
    ]
