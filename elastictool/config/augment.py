"""Settings of augmentation in training: masks, mixing, noise, shorter crops, other resolutions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from elastictool.config.check import require

Reduction = Literal["shift", "average", "max"]
FINEST_COMPRESSION = 0.1
"""Below it frames would be less than a millisecond apart at the usual shift of 10 ms."""


@dataclass(frozen=True)
class LengthDiversityConfig:
    """Random shorter crops of training clips, so that one model also serves shorter inputs.

    Source: our own (the published code's ``random_len_cut`` is ``replace`` with prefixes only).
    """

    share: float = 0.0
    """Share of the clips that get a shorter crop, 0 (off) to 1."""
    mode: Literal["replace", "add"] = "add"
    """Whether the shorter crop replaces the clip (``replace``) or is added to the batch (``add``:
    the same clips a step, more tokens)."""
    prefix_share: float = 0.5
    """Share of the shorter crops that start at the beginning of the clip, 0 to 1; the others start
    anywhere."""
    min_frames: int = 32
    """Frames of the shortest crop. Lengths are drawn between it and the clip's own, evenly on a
    logarithmic scale."""

    def __post_init__(self) -> None:
        require(0 <= self.share <= 1, "augment.length_diversity.share must be in 0..1")
        require(
            0 <= self.prefix_share <= 1, "augment.length_diversity.prefix_share must be in 0..1"
        )
        require(self.min_frames > 0, "augment.length_diversity.min_frames must be above 0")


@dataclass(frozen=True)
class ResolutionConfig:
    """Temporal resolutions drawn in training, one for each clip. Length limits keep their seconds.

    Source: ElasticAST Section 3.4 (shifts, 1.0, 1.2, ... 4.0) and 3.5 (average pooling, 1, 2, 3,
        4; the published code pools the maximum).
    """

    compressions: tuple[float, ...] = ()
    """Factors on the frame shift to draw from, each 0.1 or above and equally likely; empty: only
    the run's own ``fbank.shift_ms``."""
    reduction: Reduction = "shift"
    """How the number of frames is reduced: by a longer ``shift``, or by pooling frames after the
    filterbank into their ``average`` or ``max`` (whole compressions only)."""

    def __post_init__(self) -> None:
        name = "augment.resolution.compressions"
        require(
            all(value >= FINEST_COMPRESSION for value in self.compressions),
            f"{name} must be {FINEST_COMPRESSION} or above",
        )
        require(
            len(set(self.compressions)) == len(self.compressions), f"{name} names a value twice"
        )
        require(
            self.reduction == "shift" or all(value == int(value) for value in self.compressions),
            f"{name} must be whole numbers where frames are pooled",
        )


@dataclass(frozen=True)
class AugmentConfig:
    """Augmentation of training clips; validation and tests have none.

    Source: the published scripts' values, where a key names them.
    """

    frequency_mask: int = 48
    """Largest width in mel bins of a clip's masked band (SpecAugment); 0 is off. Published: 48;
    the recipes for small data take 24."""
    time_mask: int = 192
    """Largest length of the masked span, in frames for each 1,024 of the clip, up to 1,024; 0 is
    off. Published: 192, scaled with the clip in ElasticAST's loaders of native lengths; the recipes
    for small data take 96."""
    mask_value: Literal["mean", "zero"] = "mean"
    """What masked values become: the data's ``mean``, or as published ``zero`` before normalising,
    a loud constant."""
    length_diversity: LengthDiversityConfig = field(default_factory=LengthDiversityConfig)
    token_dropout: float = 0.0
    """Share of a crop's patch tokens that are dropped, from 0 (off) to below 1. Published: 0.1
    (ElasticAST). Also saves time."""
    mixup: float = 0.0
    """Share of the clips that are mixed with another one, labels too, 0 (off) to 1. Published:
    0.5 on AudioSet (AST)."""
    mixup_beta: tuple[float, float] = (10.0, 10.0)
    """Parameters of the Beta distribution of the mixing ratio, both above 0: large and equal ones
    mix about half and half. Published: 10, 10 (AST)."""
    noise: float = 0.0
    """Highest amplitude of uniform noise on the normalised frames; 0 is off. Published: 0.1 (AST,
    together with ``roll``)."""
    roll: int = 0
    """Largest number of frames to rotate a clip by, back or forth; 0 is off. Published: 10
    (AST)."""
    resolution: ResolutionConfig = field(default_factory=ResolutionConfig)

    def __post_init__(self) -> None:
        require(self.frequency_mask >= 0, "augment.frequency_mask must be 0 or above")
        require(0 <= self.time_mask <= 1024, "augment.time_mask must be in 0..1024")
        require(0 <= self.token_dropout < 1, "augment.token_dropout must be in 0..1, below 1")
        require(0 <= self.mixup <= 1, "augment.mixup must be in 0..1")
        require(min(self.mixup_beta) > 0, "augment.mixup_beta must be above 0")
        require(self.noise >= 0, "augment.noise must be 0 (off) or above")
        require(self.roll >= 0, "augment.roll must be 0 (off) or above")
