"""Make feature extractors and augmentations for tests."""

from __future__ import annotations

from elastictool.config import AugmentConfig, FbankConfig, LengthConfig, LengthDiversityConfig
from elastictool.data.feature_extractor import FeatureExtractor

MEAN, STD = -6.0, 4.0
SHORTER_TOO = LengthDiversityConfig(share=0.5)
PLAIN = AugmentConfig(length_diversity=SHORTER_TOO)
BARE = AugmentConfig(frequency_mask=0, time_mask=0)
EVERYTHING = AugmentConfig(
    length_diversity=SHORTER_TOO, token_dropout=0.3, mixup=0.5, noise=0.1, roll=10
)


def feature_extractor(shift_ms: float = 10.0, **length: object) -> FeatureExtractor:
    """Return a feature extractor of 16x16 patches; ``length`` sets fields of LengthConfig."""
    config = LengthConfig(**length)  # type: ignore[arg-type]
    return FeatureExtractor(FbankConfig(shift_ms=shift_ms), config, (16, 16), (16, 16), MEAN, STD)
