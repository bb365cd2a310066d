"""The picture of clip lengths can be read, whatever the lengths are."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from elastictool.reporting.audio_figures import draw_durations


@pytest.mark.parametrize(
    ("low", "high"), [(0.01, 3600), (0.5, 4), (1, 30), (2, 5.5), (9.6, 10.4), (0.3, 900), (5, 5)]
)
def test_axis_labels_are_round_few_and_do_not_overlap(low: float, high: float) -> None:
    figure = draw_durations("x", {"train": np.geomspace(low, high, 50)})
    FigureCanvasAgg(figure).draw()
    (axes,) = figure.axes
    left, right = axes.get_xlim()
    ticks = list(zip(axes.get_xticks(), axes.get_xticklabels(), strict=True))
    shown = [label for at, label in ticks if left <= at <= right]
    assert 3 <= len(shown) <= 14
    assert all(len(label.get_text()) <= 5 for label in shown)
    boxes = [label.get_window_extent() for label in shown]
    assert all(one.x1 < two.x0 for one, two in pairwise(boxes))
    assert not any(label.get_text() for label in axes.get_xticklabels(minor=True))
