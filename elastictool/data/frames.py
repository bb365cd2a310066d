"""Rejects clips that are shorter than the analysis window: they make no frame.

``prep`` has refused clips that are too short for its own window; a run may have a longer one.
"""

from __future__ import annotations

import math

import numpy as np

from elastictool.config import FbankConfig
from elastictool.data.splits import Indices
from elastictool.data.store import PreparedStore
from elastictool.utils.errors import UsageError


def require_frames(store: PreparedStore, clips: Indices, fbank: FbankConfig) -> None:
    """Check that each of ``clips`` makes a frame.

    Raises:
        UsageError: Some do not.
    """
    samples, counts = np.unique(store.num_samples[clips], return_counts=True)
    short = fbank.num_frames(samples) == 0
    if short.any():
        shortest_ms = 1_000 * int(samples[0]) / fbank.sample_rate_hz
        raise UsageError(
            f"{int(counts[short].sum())} of {len(clips)} clips of {store.path} are shorter than "
            f"fbank.window_ms = {fbank.window_ms:g} and make no frame (the shortest has "
            f"{shortest_ms:.1f} ms)",
            f"train with --set fbank.window_ms={math.floor(10 * shortest_ms) / 10:g} or less",
        )
