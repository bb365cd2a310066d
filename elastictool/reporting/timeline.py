"""Draw the class probabilities of a recording over time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from elastictool.reporting.figures import BLUE, plain_text, save_figure, styled
from elastictool.utils.io import readable

MAX_CLASSES = 12
LEAST_SHOWN = 0.02
"""Classes below this probability everywhere are left out, except the three likeliest."""
_NAME_LENGTH = 40
_SHADES = LinearSegmentedColormap.from_list("shades", ["#FFFFFF", BLUE])


def save_timeline(
    stem: Path,
    title: str,
    starts_s: npt.NDArray[np.float64],
    stops_s: npt.NDArray[np.float64],
    probabilities: npt.NDArray[np.float32],
    label_names: Sequence[str],
) -> list[Path]:
    """Draw the classes that are likeliest anywhere in the recording, one row each.

    Args:
        stem: Files to write, without ending (png and svg).
        title: Title of the figure.
        starts_s: (W,) start of each window; the overlap of two windows is divided between them.
        stops_s: (W,) its end.
        probabilities: (W, C).
        label_names: C names.

    Raises:
        ElasticToolError: A file cannot be written.
    """
    highest = probabilities.max(axis=0)
    shown = np.argsort(-highest, kind="stable")[:MAX_CLASSES]
    shown = shown[: max(3, int((highest[shown] >= LEAST_SHOWN).sum()))]
    edges = np.concatenate((starts_s[:1], (stops_s[:-1] + starts_s[1:]) / 2, stops_s[-1:]))
    unit, label = (60.0, "minutes") if edges[-1] > 600 else (1.0, "seconds")
    with styled():
        figure = Figure(figsize=(9, 1.4 + 0.32 * len(shown)), layout="constrained")
        axes = figure.subplots()
        rows = np.arange(len(shown) + 1)
        mesh = axes.pcolormesh(
            edges / unit,
            rows,
            probabilities[:, shown].T,
            cmap=_SHADES,
            vmin=0,
            vmax=1,
            rasterized=True,  # thousands of windows would be thousands of paths in the SVG
        )
        names = [plain_text(label_names[index], _NAME_LENGTH) for index in shown]
        axes.set_yticks(rows[:-1] + 0.5, names)
        axes.invert_yaxis()
        axes.grid(False)
        axes.set_xlabel(label)
        axes.set_title(plain_text(readable(title)))
        figure.colorbar(mesh, ax=axes, label="probability")
    return save_figure(figure, stem)
