"""Every run at every temporal resolution: other frame shifts, or a pooling layer over time.

All models see the seconds that they were trained with, in fewer frames where the compression C
rises: the frames of fixed-length models, and caps, are divided by C and rounded down, as in the
published code. ElasticAST takes the first rows of its table of time positions for them; a standard
AST's table is fitted as ``model.pos_embed_fit`` says (how the published figure does it is not
public).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from elastictool.checkpoint.weights import LoadedRun
from elastictool.config import PoolKind
from elastictool.data.feature_extractor import FeatureExtractor
from elastictool.data.store import PreparedStore
from elastictool.evaluation.points import SweepPoint
from elastictool.evaluation.sweep import SweepAxis, SweepOptions, no_run, sweep

if TYPE_CHECKING:
    from typing_extensions import Unpack


def sweep_resolutions(
    runs: Sequence[LoadedRun],
    store: PreparedStore,
    compressions: Sequence[float],
    base_shift_ms: float = 0.0,
    **options: Unpack[SweepOptions],
) -> list[SweepPoint]:
    """Score every run at every frame shift ``compression * base_shift_ms``, and at its own.

    Args:
        runs: Models.
        store: The data.
        compressions: Where to score.
        base_shift_ms: What compressions are relative to; 0 takes ``shortest_shift_ms``.
        **options: As ``sweep``.

    Raises:
        UsageError: As ``sweep``.

    Source: ElasticAST Section 3.4.
    """
    base = base_shift_ms or shortest_shift_ms(runs)

    def at(run: LoadedRun, compression: float) -> FeatureExtractor:
        return run.feature_extractor.at_compression(
            compression * base / run.feature_extractor.fbank.shift_ms
        )

    def own(run: LoadedRun, frames: int) -> float:
        return run.feature_extractor.fbank.shift_ms / base

    return sweep(SweepAxis("resolution", at, own), runs, store, compressions, **options)


def shortest_shift_ms(runs: Sequence[LoadedRun]) -> float:
    """The shortest frame shift of the runs: an axis that runs with different ones can share.

    Raises:
        UsageError: There is no run.
    """
    if not runs:
        raise no_run()
    return min(run.feature_extractor.fbank.shift_ms for run in runs)


def sweep_pooling(
    runs: Sequence[LoadedRun],
    store: PreparedStore,
    sizes: Sequence[int],
    kind: PoolKind = "average",
    **options: Unpack[SweepOptions],
) -> list[SweepPoint]:
    """Score every run with ``sizes`` frames pooled into one, and without pooling.

    Pooling comes after the filterbank and before trimming, padding and normalising.

    Args:
        runs: Models.
        store: The data.
        sizes: Where to score; relative to each run's own frames.
        kind: ``average`` or ``max``.
        **options: As ``sweep``.

    Source: ElasticAST Section 3.5 (``average``; the published code pools the maximum).
    """

    def at(run: LoadedRun, size: float) -> FeatureExtractor:
        return run.feature_extractor.at_compression(size, kind)

    swept = SweepAxis(f"{kind}_pooling", at, lambda run, frames: 1.0)
    return sweep(swept, runs, store, sizes, **options)
