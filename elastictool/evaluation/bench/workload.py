"""Workloads of the measurements: random clips of realistic lengths and a model.

Speed depends on how long clips are and how they differ, so the lengths come from a file of
durations or from a stated stand-in; values do not matter, so the spectrograms are random.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.special import ndtri

from elastictool.config import SIZES, LengthConfig, ModelConfig, PackingConfig
from elastictool.data.collate import Example, PackSpec, collate
from elastictool.evaluation.durations import Durations, frames_of
from elastictool.evaluation.flops import forward_flops
from elastictool.evaluation.tokens import TokenRule
from elastictool.models.transformer import SpectrogramTransformer
from elastictool.packing.batch import PackedBatch
from elastictool.packing.stream import plan_stream

LOG_SECONDS_MEAN, LOG_SECONDS_STD = 0.272, 1.244
"""Mean and deviation of ln(seconds) over the EPIC-SOUNDS validation annotations: the stand-in
where no durations are given. Its tail is lighter than that of the annotations."""


@dataclass(frozen=True)
class Workload:
    """Clips, how they are batched, and the model that takes them.

    Attributes:
        frames: Frames of each clip, capped.
        model: The model, complete.
        packing: Batch size and planner.
        label: Where the lengths come from.
    """

    frames: tuple[int, ...]
    model: ModelConfig
    packing: PackingConfig
    label: str

    @property
    def flops(self) -> int:
        """Operations of a forward pass over all clips."""
        return sum(forward_flops(self.model, tokens) for tokens in self.tokens)

    @property
    def tokens(self) -> tuple[int, ...]:
        """Patch tokens of each clip."""
        rule = TokenRule(max(self.frames), self.model.patch_size[0])
        return tuple(rule.tokens(np.array(self.frames, dtype=np.int64)).tolist())

    def build_model(self, attention: str = "auto") -> SpectrogramTransformer:
        """Builds the model with the weights of a fixed seed."""
        torch.manual_seed(0)
        return SpectrogramTransformer(self.model, attention)

    def batches(self, padded_rows: bool, multiple: int = 1) -> list[PackedBatch]:
        """Returns all clips as packed batches of random spectrograms.

        Args:
            padded_rows: Lay them out as padded rows.
            multiple: Number of tokens that flat streams are padded to a multiple of.
        """
        generator = torch.Generator().manual_seed(0)
        spec = PackSpec(
            self.model.patch_size,
            self.model.patch_stride,
            prefix_tokens=self.model.prefix_tokens,
            padded_rows=padded_rows,
            pad_to_multiple_of=multiple,
        )
        bins = self.model.num_mel_bins
        examples = [
            Example(torch.randn(frames, bins, generator=generator), torch.zeros(1), str(i), 10.0)
            for i, frames in enumerate(self.frames)
        ]
        return [
            collate([[examples[index] for index in row] for row in rows], spec)
            for rows in plan_stream(np.array(self.tokens, dtype=np.int64), self.packing).batches()
        ]


def epic_like(num_clips: int) -> Durations:
    """Returns lognormal quantiles in a fixed random order: a stand-in for EPIC-SOUNDS."""
    quantiles = (np.arange(num_clips) + 0.5) / num_clips
    seconds = np.exp(LOG_SECONDS_MEAN + LOG_SECONDS_STD * ndtri(quantiles))
    return Durations(seconds, "stand-in", "lognormal stand-in for EPIC-SOUNDS").shuffled(0)


def sample(durations: Durations, num_clips: int) -> Durations:
    """Returns ``num_clips`` evenly spaced quantiles of ``durations``, in a fixed random order."""
    quantiles = (np.arange(num_clips) + 0.5) / num_clips
    return replace(durations, seconds=np.quantile(durations.seconds, quantiles)).shuffled(0)


def build_workload(
    durations: Durations,
    size: str = "base",
    depth: int = 12,
    packing: PackingConfig | None = None,
    classes: int = 527,
) -> Workload:
    """Returns the elastic model of a named size with clips of these durations.

    Raises:
        KeyError: No such size.
    """
    width, heads = SIZES[size]
    cap = LengthConfig().max_frames
    config = ModelConfig(
        width=width, heads=heads, depth=depth, grid=(8, -(-cap // 16)), num_classes=classes
    )
    frames = np.clip(frames_of(durations), 1, cap)
    return Workload(tuple(frames.tolist()), config, packing or PackingConfig(), durations.label)
