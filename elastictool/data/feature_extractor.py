"""Turns waveforms into the spectrograms that a model sees: frames, length limits, normalisation.

A ``FeatureExtractor`` holds everything that shapes a model's input. Sweeps and sampling derive
others from it: at another length, patch size or resolution. Which frames of a clip are wanted
travels as a ``Crop``; token counts follow from the crop alone, so batches are planned without
touching audio.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from elastictool.audio.augment import Waveform
from elastictool.audio.fbank import fbank, frontend, pool_frames, pooled_count, prepare_clip
from elastictool.config import FbankConfig, LengthConfig, PoolKind, Reduction
from elastictool.config.fbank import Count
from elastictool.data.collate import PackSpec
from elastictool.data.spectrogram import PADDING, Normalization, RawFrames, Spectrogram
from elastictool.packing.grid import grid_shape, kept_patches, scaled_stride


@dataclass(frozen=True)
class Mix:
    """Another clip, mixed into a crop.

    Attributes:
        clip: Its index in the store.
        ratio: Share of the crop's own clip, 0..1, in the waveform and in the targets.
    """

    clip: int
    ratio: float


@dataclass(frozen=True)
class Crop:
    """The frames of one clip that the model is to see.

    Attributes:
        clip: Index in the store.
        native_frames: Frames of the whole clip.
        first_frame: Where the crop begins.
        num_frames: Frames taken from there.
        pad_to: Frames after padding; 0 where nothing is padded.
        cut_frames: Frames of the clip that the length limits cut off, not those that a drawn
            crop leaves out; none where the crop was added to another one of its clip.
        draw: 0 for a clip's first crop in an epoch, 1 for an added one, and on where the clip is
            drawn again; each draws other masks.
        token_dropout: Share of its patch tokens that are dropped.
        mix: What is mixed in.
        compression: How many times as far apart its frames are as the extractor's own, in which
            all its numbers of frames count.
        reduction: By what (see ``ResolutionConfig``).
    """

    clip: int
    native_frames: int
    first_frame: int
    num_frames: int
    pad_to: int = 0
    cut_frames: int = 0
    draw: int = 0
    token_dropout: float = 0.0
    mix: Mix | None = None
    compression: float = 1.0
    reduction: Reduction = "shift"

    @property
    def total_frames(self) -> int:
        """Number of frames that reach the model."""
        return max(self.num_frames, self.pad_to)


@dataclass(frozen=True)
class FeatureExtractor:
    """Computes normalised, fitted spectrograms of waveforms with the settings that a run fixes.

    ``mean`` and ``std`` are of the training split's log-mel values; input = (x - mean) / (2 std).
    ``pool`` frames of the filterbank become one (1: none), by ``pool_kind``.
    """

    fbank: FbankConfig
    length: LengthConfig
    patch_size: tuple[int, int]
    patch_stride: tuple[int, int]
    mean: float
    std: float
    pool: int = 1
    pool_kind: PoolKind = "average"

    @property
    def shift_ms(self) -> float:
        """Time between frames, after pooling."""
        return self.pool * self.fbank.shift_ms

    @property
    def normalization(self) -> Normalization:
        """Normalisation of log-mel values to a model's input."""
        raw = frontend(self.fbank.frontend).FLOOR if self.length.padding == "floor" else 0.0
        return Normalization(self.mean, 2 * self.std, (raw - self.mean) / (2 * self.std))

    def pack_spec(
        self, prefix_tokens: int = 0, padded_rows: bool = False, pad_to_multiple_of: int = 1
    ) -> PackSpec:
        """Returns how spectrograms become the tokens of a batch; arguments as in ``PackSpec``."""
        return PackSpec(
            self.patch_size,
            self.patch_stride,
            self.length.edge,
            self.normalization.padding,
            prefix_tokens,
            padded_rows,
            pad_to_multiple_of,
        )

    @property
    def pads(self) -> bool:
        """Whether clips are brought to one fixed length (standard AST)."""
        return self.length.fixed_frames > 0

    def at_length(self, num_frames: int) -> FeatureExtractor:
        """Returns the same extractor, evaluated at ``num_frames``.

        Source: ElasticAST Section 3.3. Fixed-length models trim and pad to it; native-length
        models trim longer clips only and never pad.
        """
        length = (
            dataclasses.replace(self.length, fixed_frames=num_frames)
            if self.pads
            else dataclasses.replace(self.length, max_frames=num_frames)
        )
        return dataclasses.replace(self, length=length)

    def at_patch_size(self, patch_size: tuple[int, int]) -> FeatureExtractor:
        """Returns the extractor with patches of another size, overlapping by the same share."""
        stride = scaled_stride(self.patch_size, self.patch_stride, patch_size)
        return dataclasses.replace(self, patch_size=patch_size, patch_stride=stride)

    def at_compression(
        self, compression: float, reduction: Reduction = "shift"
    ) -> FeatureExtractor:
        """Returns the extractor with frames ``compression`` times as far apart, over the same time.

        Length limits are rounded down to whole frames.

        Args:
            compression: Above 0, a whole number where frames are pooled.
            reduction: Longer frame shifts, or pooling (see ``ResolutionConfig``).

        Source: ElasticAST Sections 3.4 and 3.5. The published code cuts shifts to whole
            milliseconds; here they are exact, and only their product's last digit is rounded.
        """
        shift_ms = round(self.fbank.shift_ms * compression, 9)
        if shift_ms == round(self.fbank.shift_ms, 9):
            return self

        def frames(limit: int) -> int:
            # The small number keeps quotients that are whole but for the last bit (as 96 / 1.2).
            return max(1, math.floor(limit / compression + 1e-9))

        fixed = self.length.fixed_frames
        length = dataclasses.replace(
            self.length,
            max_frames=frames(self.length.max_frames),
            fixed_frames=frames(fixed) if fixed else 0,
        )
        if reduction == "shift":
            fbank = dataclasses.replace(self.fbank, shift_ms=shift_ms)
            return dataclasses.replace(self, fbank=fbank, length=length)
        pool = self.pool * int(compression)
        return dataclasses.replace(self, pool=pool, pool_kind=reduction, length=length)

    def crop(self, clip: int, native_frames: int) -> Crop:
        """Returns the evaluation crop of a clip: its first frames, up to the length limits."""
        kept, padded = min(native_frames, self.length.most_frames), self.length.fixed_frames
        return Crop(clip, native_frames, 0, kept, padded, native_frames - kept)

    def num_patches(self, crop: Crop) -> int:
        """Returns the number of patch tokens of a crop that the model is to see."""
        return kept_patches(math.prod(self.grid(crop)), crop.token_dropout)

    def grid(self, crop: Crop) -> tuple[int, int]:
        """Returns (frequency, time) patches of a crop."""
        bins, edge = self.fbank.num_mel_bins, self.length.edge
        return grid_shape(crop.total_frames, bins, self.patch_size, self.patch_stride, edge)

    def longest_grid(self) -> tuple[int, int]:
        """Returns (frequency, time) patches of the longest crop that the length limits allow."""
        limit = self.length.most_frames
        return self.grid(Crop(0, limit, 0, limit))

    def num_frames(self, num_samples: Count) -> Count:
        """Returns the number of frames of a clip of ``num_samples``."""
        return pooled_count(self.fbank.num_frames(num_samples), self.pool)

    def frame_start(self, frame: int) -> int:
        """Returns the first sample of ``frame``; see ``FbankConfig.frame_start``."""
        return self.fbank.frame_start(frame * self.pool)

    def samples_for(self, num_frames: int) -> int:
        """Returns the samples of a clip's beginning that its first ``num_frames`` frames need."""
        return self.fbank.samples_for(num_frames * self.pool)

    def excerpt(self, first: int, num_frames: int, native_frames: int) -> tuple[int, int, int]:
        """Returns which samples to read for some of its frames; see ``FbankConfig.excerpt``.

        Reading begins where a group of pooled frames does.
        """
        pool = self.pool
        _, stop, before = self.fbank.excerpt(first * pool, num_frames * pool, native_frames * pool)
        begin = (first * pool - before) // pool
        return self.fbank.frame_position(begin * pool), stop, first - begin

    def frames(self, waveform: Waveform) -> Tensor:
        """Returns (T, F) log-mel frames of a waveform at ``fbank.sample_rate_hz``."""
        return pool_frames(fbank(torch.from_numpy(waveform), self.fbank), self.pool, self.pool_kind)

    def raw_frames(self, waveform: Waveform, first: int, count: int) -> RawFrames:
        """Returns ``count`` frames from ``first`` on, still to be computed."""
        config, num_samples = self.fbank, len(waveform)
        known = config.num_frames(num_samples)
        available = pooled_count(known, self.pool)
        first, stop = min(first, available), min(first + count, available)
        size = min(self.pool, known)
        # Some filterbanks repeat a clip's last frame; each repetition is computed.
        frames = np.minimum(
            np.arange(first * size, stop * size), config.own_frames(num_samples) - 1
        )
        return RawFrames(
            prepare_clip(torch.from_numpy(waveform), config),
            config.frame_position(frames),
            np.full(stop - first, size, dtype=np.int64),
            config,
            self.pool_kind,
        )

    def spectrogram(self, frames: Tensor | RawFrames, crop: Crop) -> Spectrogram:
        """Returns the crop as the model is to see it: padded to its length, normalised.

        Args:
            frames: (T', F) log-mel frames of the crop alone, or what computes them.
            crop: Its padding.
        """
        rows = np.full(max(len(frames), crop.pad_to), PADDING, dtype=np.int64)
        rows[: len(frames)] = np.arange(len(frames))
        return Spectrogram(frames, rows, self.fbank.num_mel_bins, self.normalization)
