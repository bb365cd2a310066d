"""Draws the crops of each clip of an epoch: resolution, whole or shorter, mixing partner.

Only metadata are used: a crop describes what the dataset will read. Everything that decides how
many tokens a clip has is drawn here, before rows are planned, so planned counts are exact.
Draws for a whole epoch are made at once, one stream for each purpose, and taken by a clip's
number among those of the epoch: switching one option on leaves what others draw as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from elastictool.config import AugmentConfig, LengthDiversityConfig, Reduction, ResolutionConfig
from elastictool.data.feature_extractor import Crop, FeatureExtractor, Mix
from elastictool.utils.rng import clip_rng

CUT_DRAWS = 5
"""Numbers in 0..1 that decide on the cuts of a clip's crops."""


@dataclass(frozen=True)
class CropSampler:
    """Turns the numbers drawn for a clip into its crops.

    Attributes:
        feature_extractor: Gives the length limits.
        diversity: Random shorter crops.
        compression: How many times as far apart the extractor's frames are as the run's own.
        reduction: By what.
    """

    feature_extractor: FeatureExtractor
    diversity: LengthDiversityConfig
    compression: float = 1.0
    reduction: Reduction = "shift"

    def at_compression(self, compression: float, reduction: Reduction) -> CropSampler:
        """Returns the sampler at another resolution: all numbers of frames keep their seconds."""
        least = max(1, round(self.diversity.min_frames / compression))
        return CropSampler(
            self.feature_extractor.at_compression(compression, reduction),
            replace(self.diversity, min_frames=least),
            compression,
            reduction,
        )

    def whole(self, clip: int, native_frames: int) -> Crop:
        """Returns the evaluation crop of a clip at this resolution."""
        crop = self.feature_extractor.crop(clip, native_frames)
        if self.compression == 1:
            return crop
        return replace(crop, compression=self.compression, reduction=self.reduction)

    def crops(self, whole: Crop, draws: Sequence[float]) -> list[Crop]:
        """Returns the crops of one clip: itself, a shorter one, or both.

        Args:
            whole: The clip's evaluation crop; its draw, mix and token dropout are all crops'.
            draws: ``CUT_DRAWS`` numbers in 0..1.
        """
        wanted, kind, length, position, start = draws
        if self.feature_extractor.length.crop != "start":
            room = whole.native_frames - whole.num_frames
            whole = replace(whole, first_frame=_start_within(room, start))
        if wanted >= self.diversity.share:
            return [whole]
        shorter = self._shorter_crop(whole, kind, length, position)
        if self.diversity.mode == "replace":
            return [replace(shorter, draw=whole.draw)]
        if shorter.num_frames == whole.num_frames:
            return [whole]
        return [whole, replace(shorter, cut_frames=0)]

    def _shorter_crop(self, whole: Crop, kind: float, length: float, position: float) -> Crop:
        least = min(self.diversity.min_frames, whole.num_frames)
        num_frames = round(least * (whole.num_frames / least) ** length)
        is_prefix = kind < self.diversity.prefix_share
        offset = 0 if is_prefix else _start_within(whole.num_frames - num_frames, position)
        return replace(
            whole,
            first_frame=whole.first_frame + offset,
            num_frames=num_frames,
            pad_to=0,
            draw=whole.draw + 1,
        )


def draw_cuts(count: int, seed: int, epoch: int) -> npt.NDArray[np.float64]:
    """Draws (count, CUT_DRAWS) numbers in 0..1, a row for each clip of the epoch."""
    return clip_rng(seed, epoch, 0, "views").random((count, CUT_DRAWS))


def draw_resolutions(
    count: int, config: ResolutionConfig, seed: int, epoch: int
) -> npt.NDArray[np.int64]:
    """Draws a uniform (count,) index into ``config.compressions`` for each clip of the epoch.

    Source: published ElasticAST: one for each clip, not for each batch. An added shorter crop has
        its clip's (not in the published code).
    """
    if not config.compressions:
        return np.zeros(count, dtype=np.int64)
    return clip_rng(seed, epoch, 0, "resolution").integers(len(config.compressions), size=count)


def draw_mixes(
    count: int, partners: npt.NDArray[np.int64], augment: AugmentConfig, seed: int, epoch: int
) -> list[Mix | None]:
    """Draws, for each of ``count`` clips, another clip to mix it with, or None.

    Args:
        count: Clips of the epoch.
        partners: Indices of the clips to choose from, uniform.
        augment: The share of clips that are mixed, and the distribution of the ratio.
        seed: The run's seed.
        epoch: The epoch.

    Source: AST (partners are drawn evenly, also where sampling is balanced).
    """
    if not augment.mixup:
        return [None] * count
    wanted, which = clip_rng(seed, epoch, 0, "mixup").random((2, count))
    ratios = clip_rng(seed, epoch, 0, "mixup-ratio").beta(*augment.mixup_beta, size=count)
    chosen = partners[(which * len(partners)).astype(np.int64)]
    return [
        Mix(clip, ratio) if draw < augment.mixup else None
        for draw, clip, ratio in zip(wanted, chosen.tolist(), ratios.tolist(), strict=True)
    ]


def _start_within(room: int, draw: float) -> int:
    """Returns a uniform start within ``room`` spare frames."""
    return int(draw * (room + 1)) if room > 0 else 0
