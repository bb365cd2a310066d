"""Results for recordings, and the rule by which recordings are cut into windows."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from elastictool.audio.losses import Losses
from elastictool.utils.errors import AudioError, UsageError

Values = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Windows:
    """The values of the windows of one recording.

    Attributes:
        name: The recording.
        starts_s: (W,) start of each window.
        stops_s: (W,) its end.
        values: (W, C) probabilities or (W, D) embeddings.
        duration_s: Length of the recording.
        error: Why there are no values; empty if there are.
        losses: What of the recording was not read (``audio/losses``).
    """

    name: str
    starts_s: npt.NDArray[np.float64]
    stops_s: npt.NDArray[np.float64]
    values: Values
    duration_s: float = 0.0
    error: str = ""
    losses: Losses = field(default_factory=dict)

    @property
    def mean(self) -> Values:
        """(C,) or (D,) average of the windows, weighted by their lengths.

        Raises:
            AudioError: The recording could not be used.
        """
        if self.error:
            raise AudioError(self.error)
        return np.average(self.values, axis=0, weights=self.stops_s - self.starts_s).astype(
            np.float32
        )


@dataclass(frozen=True)
class Prediction:
    """The likeliest classes of one recording.

    Attributes:
        name: The recording.
        labels: (name, probability), the likeliest first; empty where there is an error.
        duration_s: Length of the recording.
        windows: Probabilities over time; ignored in comparisons.
        error: Why there are no labels; empty if there are.
        decided: Multi-label models: the classes whose probability reaches their threshold, in the
            order of the classes; empty for others.
    """

    name: str
    labels: tuple[tuple[str, float], ...]
    duration_s: float
    windows: Windows = field(compare=False, repr=False)
    error: str = ""
    decided: tuple[str, ...] = ()

    @property
    def losses(self) -> Losses:
        """What of the recording was not read (``audio/losses``)."""
        return self.windows.losses


@dataclass(frozen=True)
class WindowRule:
    """Length and distance of windows in seconds; 0 takes recordings whole as far as possible.

    Raises:
        UsageError: Windows would leave gaps, or a number is not valid.
    """

    window_s: float = 0.0
    hop_s: float = 0.0

    def __post_init__(self) -> None:
        sound = math.isfinite(self.window_s) and 0 <= self.hop_s <= self.window_s
        if not sound:
            raise UsageError(
                f"windows of {self.window_s:g} s, {self.hop_s:g} s apart leave gaps or are invalid",
                "for example: --window 10 --hop 5",
            )


def rounded_down(seconds: float, digits: int) -> str:
    """Returns seconds as text, rounded down."""
    scale = 10**digits
    return f"{math.floor(seconds * scale) / scale:.{digits}f}"
