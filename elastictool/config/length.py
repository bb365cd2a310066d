"""Which part of a clip the model sees, and what happens to the incomplete last patch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from elastictool.config.check import require

Edge = Literal["pad", "drop"]


@dataclass(frozen=True)
class LengthConfig:
    """Which frames of a clip reach the model."""

    max_frames: int = 3_072
    """Frames that a clip of native length has at most; the rest is cut off. 3,072 are 30 s at 10 ms
    (ElasticAST). Lower it where memory runs out. Without meaning under ``fixed_frames``."""
    fixed_frames: int = 0
    """Above 0: every clip is cut or padded to so many frames, as a standard AST needs it. 0 keeps
    native lengths (ElasticAST)."""
    crop: Literal["start", "random"] = "start"
    """Which part of a longer clip training takes: its ``start``, or a ``random`` part, another one
    in each epoch. Validation and tests take the start."""
    edge: Edge = "pad"
    """What happens to the incomplete last patch of a clip: ``pad`` fills it up, ``drop`` leaves it
    out, as the published code does (up to 15 frames)."""
    padding: Literal["floor", "zero"] = "floor"
    """What clips are padded with: ``floor`` is the filterbank's value for silence, ``zero`` what
    the published code takes: zero before normalising, a loud constant."""

    def __post_init__(self) -> None:
        require(self.max_frames > 0, "length.max_frames must be above 0")
        require(self.fixed_frames >= 0, "length.fixed_frames must be 0 (native) or above")

    @property
    def most_frames(self) -> int:
        """Frames of a clip that are used at most."""
        return self.fixed_frames or self.max_frames
