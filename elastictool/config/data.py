"""Settings of data: which clips and frames a run uses, and how they become batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from elastictool.config.check import require, within

Edge = Literal["pad", "drop"]
COMPILED_MULTIPLE = 128
"""Number of tokens of which every batch has a multiple where code is compiled."""


@dataclass(frozen=True)
class DataConfig:
    """Which prepared clips train, validate and test."""

    dataset: str = ""
    """Folder of the prepared data, or its name under ``data/``; ``--dataset`` overrides it."""
    train_split: str = "train"
    """Name of the split to train on, as ``prep`` wrote it."""
    validation_split: str = "val"
    """Name of the split that the best epoch is chosen on; without it nothing is validated, unless
    ``validation_fraction`` is set."""
    test_split: str = "test"
    """Name of the split that ``eval`` and ``sweep`` score."""
    test_fold: int = 0
    """Above 0: test on this fold and train on all others, whatever their split (cross-validation).
    0 uses the splits."""
    validation_fraction: float = 0.0
    """Share of the training clips to validate on, for data without a validation split: drawn by the
    seed, class by class, in whole groups. From 0 (off) to below 1."""
    mean: float | None = None
    """Mean of the log-mel values, for normalising; null takes that of the training clips. Set it,
    with ``std``, for weights that were trained with other values."""
    std: float | None = None
    """Standard deviation of the log-mel values, above 0; set together with ``mean``."""
    balanced_sampling: bool = False
    """Whether an epoch draws its clips with replacement, rare classes more often (AST on AudioSet).
    """
    epoch_clips: int = 0
    """Clips of a balanced epoch; 0 draws as many as there are."""

    def __post_init__(self) -> None:
        require(self.test_fold >= 0, "data.test_fold must be 0 (off) or above")
        require(0 <= self.validation_fraction < 1, "data.validation_fraction must be in 0..1")
        require(self.std is None or self.std > 0, "data.std must be above 0")
        within("data.std", self.std or 1, 1e-38, 1e38)
        within("data.mean", self.mean or 0, -1e38, 1e38)
        require((self.mean is None) == (self.std is None), "set data.mean and data.std together")
        within("data.epoch_clips", self.epoch_clips, 0, 10_000_000)


@dataclass(frozen=True)
class LengthConfig:
    """Which frames of a clip reach the model."""

    max_frames: int = 3_072
    """Most frames of a clip of native length; the rest is cut off. 3,072 are 30 s at 10 ms
    (ElasticAST). Lower it if memory runs out. Not used with ``fixed_frames``."""
    fixed_frames: int = 0
    """Above 0: every clip is cut or padded to this number of frames, as a standard AST needs it. 0
    keeps native lengths (ElasticAST)."""
    crop: Literal["start", "random"] = "start"
    """Part of a longer clip that is used in training: its ``start``, or a ``random`` part, drawn
    anew in each epoch. Validation and tests use the start."""
    edge: Edge = "pad"
    """What happens to the incomplete last patch of a clip: ``pad`` pads it, ``drop`` leaves it out,
    as the published code does (up to 15 frames)."""
    padding: Literal["floor", "zero"] = "floor"
    """What clips are padded with: ``floor``, the filterbank's value for silence, or ``zero``, as
    published: zero before normalising, a loud constant."""

    def __post_init__(self) -> None:
        within("length.max_frames", self.max_frames, 1, 10_000_000)
        within("length.fixed_frames", self.fixed_frames, 0, 10_000_000)

    @property
    def most_frames(self) -> int:
        """Largest number of frames of a clip that a run uses."""
        return self.fixed_frames or self.max_frames


@dataclass(frozen=True)
class PackingConfig:
    """How clips become batches: a planner fills rows with the tokens of several clips."""

    planner: str = "first-come"
    """How clips are assigned to rows; planners with a window (``…-decreasing`` and
    ``sorted-window``, see ``window``) also choose the clips of a batch. ``first-come`` is the
    paper's (ElasticAST Section 2.2); ``balanced`` leaves less padding."""
    capacity: int = 2_048
    """Tokens that a row holds; a longer clip gets a row of its own. ElasticAST Section 2.2: 2,048.
    """
    batch_clips: int = 12
    """Batch size in clips, all processes together. ElasticAST Section 3.2: 12. Larger batches need
    more memory and usually a higher ``train.lr``."""
    batch_tokens: int = 0
    """Above 0: token budget of a batch, which then holds as many clips as fit, instead of
    ``batch_clips``. It keeps memory even when lengths differ much. 0 is off."""
    window: int = 4_096
    """Number of shuffled clips that a planner with a window chooses from, rounded down to whole
    batches; other planners do not use it."""
    pad_to_multiple_of: int = 0
    """Pad the tokens of a training batch to a multiple of this number, so that batches have few
    sizes; 1 pads nothing, 0 is 128 with ``train.compile``, else 1."""

    def __post_init__(self) -> None:
        within("packing.pad_to_multiple_of", self.pad_to_multiple_of, 0, 1_000_000)
        require(self.capacity > 0, "packing.capacity must be above 0")
        require(self.batch_clips > 0, "packing.batch_clips must be above 0")
        require(self.batch_tokens >= 0, "packing.batch_tokens must be 0 (off) or above")
        require(self.window > 0, "packing.window must be above 0")
