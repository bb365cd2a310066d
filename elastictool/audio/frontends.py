"""The ways from a waveform to log-mel frames: one file each, chosen by ``fbank.frontend``.

A front end differs in its arithmetic and in what silence becomes; where its frames lie is plain
counting, which planning needs without torch, and stands in ``config.FRONTENDS``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from elastictool.config import FbankConfig
from elastictool.registry import Registry


@dataclass(frozen=True)
class FrontEndKind:
    """One way to compute log-mel frames.

    Attributes:
        analyse: ``(waveform (n,), config, out (T, F))`` fills ``out`` with the clip's own frames;
            called without gradients, T is at least 1.
        floor: Value of silence, and the smallest there is.
    """

    analyse: Callable[[Tensor, FbankConfig, Tensor], None]
    floor: float


FRONT_ENDS: Registry[FrontEndKind] = Registry(
    "front end", ("elastictool.audio.fbank", "elastictool.audio.epic_fbank")
)
