"""The sweep of an axis by its name: what the command, recipes and studies have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from elastictool.checkpoint.weights import LoadedRun
from elastictool.data.store import PreparedStore
from elastictool.evaluation.evaluate import split_clips
from elastictool.evaluation.points import AXES, SweepPoint
from elastictool.evaluation.resolutions import sweep_pooling, sweep_resolutions
from elastictool.evaluation.sweep import Along, SweepOptions, sweep_lengths, sweep_patch_sizes
from elastictool.utils.errors import UsageError
from elastictool.utils.registry import nearest_hint

if TYPE_CHECKING:
    from typing_extensions import Unpack


STEPS = 12
"""Lengths of a sweep for which nobody has named any."""


def default_lengths(runs: Sequence[LoadedRun], store: PreparedStore, split: str) -> list[int]:
    """About a dozen numbers of frames up to the longest clip of ``split``, whole patches.

    Models that take native lengths were not trained beyond their cap, so nothing lies beyond it.
    Split, frames and patches are those of the first run.

    Raises:
        CheckpointError: The model's classes are not those of the data.
        UsageError: The split is empty.
    """
    feature_extractor = runs[0].feature_extractor
    longest = int(store.num_samples[split_clips(runs[0], store, split)].max())
    frames = feature_extractor.framing.num_frames(longest)
    caps = [
        run.feature_extractor.length.max_frames for run in runs if not run.feature_extractor.pads
    ]
    width = feature_extractor.patch_size[1]
    most = max(1, min(frames, max(caps, default=frames)) // width)
    return sorted({max(1, round(most * step / STEPS)) * width for step in range(1, STEPS + 1)})


def sweep_axis(
    axis: str,
    runs: Sequence[LoadedRun],
    store: PreparedStore,
    values: Sequence[float],
    along: Along = "auto",
    base_shift_ms: float = 0.0,
    **options: Unpack[SweepOptions],
) -> list[SweepPoint]:
    """Score every run at every value of ``axis``, and at its own.

    Args:
        axis: Out of ``AXES``.
        runs: Models.
        store: The data.
        values: Frames, patch sizes, compressions, or frames pooled into one.
        along: Where a patch size counts.
        base_shift_ms: Frame shift of compression 1; 0 is the runs' shortest.
        **options: As ``sweep``.

    Raises:
        UsageError: There is no such axis; and as ``sweep``.
    """
    whole = [int(value) for value in values]
    if axis == "length":
        return sweep_lengths(runs, store, whole, **options)
    if axis == "patch_size":
        return sweep_patch_sizes(runs, store, whole, along, **options)
    if axis == "resolution":
        return sweep_resolutions(runs, store, values, base_shift_ms, **options)
    if axis == "average_pooling":
        return sweep_pooling(runs, store, whole, "average", **options)
    if axis == "max_pooling":
        return sweep_pooling(runs, store, whole, "max", **options)
    raise UsageError(f"unknown axis {axis!r}", nearest_hint(axis, list(AXES)))
