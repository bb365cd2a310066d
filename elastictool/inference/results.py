"""What is said of recordings, and the rule by which they are cut: plain values, no model."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from elastictool.utils.errors import AudioError, UsageError

Values = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Windows:
    """What was computed for the windows of one recording.

    Attributes:
        name: The recording.
        starts_s: (W,) start of each window.
        stops_s: (W,) its end.
        values: (W, C) probabilities or (W, D) embeddings.
        duration_s: Length of the recording.
        error: Why there is nothing; empty if all is well.
    """

    name: str
    starts_s: npt.NDArray[np.float64]
    stops_s: npt.NDArray[np.float64]
    values: Values
    duration_s: float = 0.0
    error: str = ""

    @property
    def mean(self) -> Values:
        """(C,) or (D,): the windows' average, weighted by their lengths.

        Raises:
            AudioError: There are none, because the recording could not be used.
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
        windows: Probabilities over time; not compared where predictions are.
        error: Why there are no labels; empty if all is well.
        decided: Multi-label models: the classes whose probability reaches their threshold, in the
            order of the classes; empty for others.
    """

    name: str
    labels: tuple[tuple[str, float], ...]
    duration_s: float
    windows: Windows = field(compare=False, repr=False)
    error: str = ""
    decided: tuple[str, ...] = ()


@dataclass(frozen=True)
class WindowRule:
    """Length and distance of windows in seconds; 0 takes recordings whole as far as possible.

    Raises:
        UsageError: Windows would leave gaps, or the numbers are none.
    """

    window_s: float = 0.0
    hop_s: float = 0.0

    def __post_init__(self) -> None:
        sound = math.isfinite(self.window_s) and 0 <= self.hop_s <= self.window_s
        if not sound:
            raise UsageError(
                f"windows of {self.window_s:g} s, {self.hop_s:g} s apart, leave gaps or are none",
                "for example: --window 10 --hop 5",
            )


def rounded_down(seconds: float, digits: int) -> str:
    """Seconds as text that names no more than there are."""
    scale = 10**digits
    return f"{math.floor(seconds * scale) / scale:.{digits}f}"
