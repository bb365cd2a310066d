"""The ways from a waveform to log-mel frames: one file each, chosen by ``fbank.frontend``.

A front end differs in its arithmetic and in what silence becomes; where its frames lie is plain
counting, which planning needs without torch, and stands in ``config.FRONTENDS``. The arithmetic is
in two parts, because a clip may be analysed alone or among others (``audio/streams.py``): what
is done to a clip as a whole, and what is done to frames wherever they were cut out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from elastictool.config import FbankConfig
from elastictool.utils.registry import Registry

TakeFrames = Callable[[Tensor, int, int], Tensor]
"""(samples, first, stop) to the (stop - first, window) samples of these frames."""


@dataclass(frozen=True)
class ExtractorKind:
    """One way to compute log-mel frames.

    Attributes:
        prepare: ``(waveform (n,), config)`` to samples in which frame k begins at
            ``config.frame_place(k)``.
        analyse: ``(samples, take, config, out (T, F))`` fills ``out`` with T frames, at least
            one. The samples are of one clip, or of several with a zero before each.
        floor: Value of silence, and the smallest there is.

    Both are called without gradients.
    """

    prepare: Callable[[Tensor, FbankConfig], Tensor]
    analyse: Callable[[Tensor, TakeFrames, FbankConfig, Tensor], None]
    floor: float


EXTRACTORS: Registry[ExtractorKind] = Registry(
    "front end", ("elastictool.audio.fbank", "elastictool.audio.epic_fbank")
)
