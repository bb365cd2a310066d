"""Which prepared clips a run uses, and for what."""

from __future__ import annotations

from dataclasses import dataclass

from elastictool.config.check import require


@dataclass(frozen=True)
class DataConfig:
    """Which prepared clips train, validate and test."""

    dataset: str = ""
    """Folder of the prepared data, or its name under ``data/``; ``--dataset`` goes before it."""
    train_split: str = "train"
    """Name of the split that trains, as ``prep`` wrote it."""
    validation_split: str = "val"
    """Name of the split that chooses the best epoch; data without it have no validation, unless
    ``validation_fraction`` takes one."""
    test_split: str = "test"
    """Name of the split that ``eval`` and ``sweep`` score."""
    test_fold: int = 0
    """Above 0: this fold tests and all others train, whatever their split (cross-validation). 0
    goes by the splits."""
    validation_fraction: float = 0.0
    """Share of the training clips that validates instead, where the data have no validation split:
    drawn from the seed, class by class, whole groups together. 0 (off) up to but not 1."""
    mean: float | None = None
    """Mean of the log-mel values, by which clips are normalised; null takes that of the training
    clips. Set it, with ``std``, for weights that were trained with others."""
    std: float | None = None
    """Their standard deviation, above 0; set together with ``mean``."""
    balanced_sampling: bool = False
    """Whether an epoch draws its clips with replacement, rare classes more often (AST on AudioSet).
    """
    epoch_clips: int = 0
    """Clips of a balanced epoch; 0 draws as many as there are."""

    def __post_init__(self) -> None:
        require(self.test_fold >= 0, "data.test_fold must be 0 (off) or above")
        require(0 <= self.validation_fraction < 1, "data.validation_fraction must be in 0..1")
        require(self.std is None or self.std > 0, "data.std must be above 0")
        require((self.mean is None) == (self.std is None), "set data.mean and data.std together")
        require(self.epoch_clips >= 0, "data.epoch_clips must be 0 (all) or above")
