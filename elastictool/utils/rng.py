"""Draws random numbers keyed by their purpose, independent of process and order.

Each (seed, epoch, clip, purpose) has a generator of its own, keyed by a hash of these four:
loader workers, resumed runs and reordered clips draw the same masks and crops. Philox is
counter-based and defined bit for bit, so the numbers are the same on every platform.
"""

from __future__ import annotations

import hashlib

import numpy as np


def clip_rng(seed: int, epoch: int, clip: int, purpose: str) -> np.random.Generator:
    """Returns the generator of one clip in one epoch, for one purpose.

    Args:
        seed: The run's seed.
        epoch: Epoch, or any other counter of passes.
        clip: Index of the clip, or of any other thing that needs its own numbers.
        purpose: What the numbers are for; two purposes never share a stream.
    """
    text = f"{seed:d}/{epoch:d}/{clip:d}/{purpose}"
    digest = hashlib.blake2b(text.encode("utf-8"), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))
