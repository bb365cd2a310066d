"""Draws the clips of an epoch so that rare classes come more often.

Metadata only, drawn from the seed and the epoch, so that it is the same for any number of loader
workers and after any interruption.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from elastictool.data.store import PreparedStore
from elastictool.utils.errors import UsageError
from elastictool.utils.rng import clip_rng

Indices = npt.NDArray[np.int64]
Weights = npt.NDArray[np.float64]

_SCALE, _OFFSET = 1_000.0, 0.01


def clip_weights(store: PreparedStore, clips: Indices) -> Weights:
    """Returns (len(clips),) chance of each of ``clips`` to be drawn, up to a common factor.

    A clip's weight is the sum over its labels of 1000 / (clips of that class + 0.01); a clip
    without a label has none. Source: AST's ``gen_weight_file``.

    Raises:
        UsageError: No clip has a label.
    """
    owners, classes = store.label_pairs()
    positions = np.full(len(store), -1, dtype=np.int64)
    positions[clips] = np.arange(len(clips))
    kept = positions[owners] >= 0
    owners, classes = positions[owners[kept]], classes[kept]
    if len(owners) == 0:
        raise UsageError(
            f"{store.path} has no labelled clip to train on, so there is nothing to balance",
            "--set data.balanced_sampling=false",
        )
    rarity = _SCALE / (np.bincount(classes)[classes] + _OFFSET)
    weights: Weights = np.bincount(owners, rarity, minlength=len(clips)).astype(np.float64)
    return weights


def draw_clips(weights: Weights, count: int, seed: int, epoch: int) -> Indices:
    """Returns (count,) positions in ``weights``, drawn with replacement."""
    shares = np.cumsum(weights)
    draws = clip_rng(seed, epoch, 0, "balance").random(count) * shares[-1]
    last = np.flatnonzero(weights)[-1]  # a draw can be rounded up to the very end
    positions: Indices = np.minimum(np.searchsorted(shares, draws, side="right"), last)
    return positions


def occurrences(drawn: Indices) -> Indices:
    """Counts how often each entry of ``drawn`` occurs before its position: 0 at the first."""
    order = np.argsort(drawn, kind="stable")
    ordered = drawn[order]
    firsts = np.searchsorted(ordered, ordered, side="left")
    result = np.empty(len(drawn), dtype=np.int64)
    result[order] = np.arange(len(drawn)) - firsts
    return result
