"""Defines one training run, with all of its settings."""

from __future__ import annotations

from dataclasses import dataclass, field

from elastictool.config.augment import AugmentConfig
from elastictool.config.check import require
from elastictool.config.data import COMPILED_MULTIPLE, DataConfig, LengthConfig, PackingConfig
from elastictool.config.fbank import FbankConfig
from elastictool.config.model import FlexiConfig, InitConfig, ModelConfig
from elastictool.config.train import TrainConfig

_MOST_BYTES = 200
"""Bytes of a name: file systems take 255, and some files are named after their run."""


@dataclass(frozen=True)
class RunConfig:
    """One training run, complete: what ``config.yaml`` in the run directory holds."""

    name: str = ""
    """Name of the run and of its folder under ``runs/``; empty: made from data and preset."""
    seed: int = 0
    """Seed of all random numbers, 0 or above. Runs that differ only in it show the spread of a
    result."""
    data: DataConfig = field(default_factory=DataConfig)
    fbank: FbankConfig = field(default_factory=FbankConfig)
    length: LengthConfig = field(default_factory=LengthConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    packing: PackingConfig = field(default_factory=PackingConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    flexi: FlexiConfig = field(default_factory=FlexiConfig)
    init: InitConfig = field(default_factory=InitConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**63, "seed must be in 0..2^63-1")
        require(
            not set("/\\") & set(self.name) and self.name not in (".", ".."),
            "name must be one name, not a path",
        )
        require(
            self.name.isprintable() and len(self.name.encode()) <= _MOST_BYTES,
            f"name must be printable and at most {_MOST_BYTES} bytes long",
        )
        require(
            self.model.num_mel_bins == self.fbank.num_mel_bins,
            f"model.num_mel_bins ({self.model.num_mel_bins}) and fbank.num_mel_bins "
            f"({self.fbank.num_mel_bins}) must be equal",
        )

    @property
    def pad_to_multiple_of(self) -> int:
        """``packing.pad_to_multiple_of``, with 0 (auto) resolved."""
        return self.packing.pad_to_multiple_of or (COMPILED_MULTIPLE if self.train.compile else 1)
