"""From waveforms to the spectrograms that a model sees: frames, length limits, normalisation.

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
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from elastictool.audio.augment import Waveform
from elastictool.audio.extractors import EXTRACTORS
from elastictool.audio.framing import Framing
from elastictool.audio.streams import prepare_clip
from elastictool.config import FbankConfig, LengthConfig, PoolKind, Reduction
from elastictool.data.collate import Example, PatchSpec
from elastictool.data.raw import PADDING, Normalization, RawExample, needed_frames
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
        draw: 0 for a clip's first crop in an epoch, 1 for an added one, and on where the clip is
            drawn again; each draws other masks.
        token_dropout: Share of its patch tokens that are dropped.
        mix: What is mixed in.
        compression: How many times as far apart its frames are as the front end's own, in which
            all its numbers of frames count.
        reduction: By what (see ``ResolutionConfig``).
    """

    clip: int
    native_frames: int
    first_frame: int
    num_frames: int
    pad_to: int = 0
    draw: int = 0
    token_dropout: float = 0.0
    mix: Mix | None = None
    compression: float = 1.0
    reduction: Reduction = "shift"

    @property
    def total_frames(self) -> int:
        """Frames that reach the model."""
        return max(self.num_frames, self.pad_to)


@dataclass(frozen=True)
class FeatureExtractor:
    """From waveform to normalised, fitted spectrogram; everything that a run fixes about it.

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
    def framing(self) -> Framing:
        """How waveforms become its frames."""
        return Framing(self.fbank, self.pool, self.pool_kind)

    @property
    def patch_spec(self) -> PatchSpec:
        """How its spectrograms become patches."""
        return PatchSpec(self.patch_size, self.patch_stride, self.length.edge, self._pad_value)

    @property
    def pads(self) -> bool:
        """Whether clips are brought to one fixed length (standard AST)."""
        return self.length.fixed_frames > 0

    def at_length(self, num_frames: int) -> FeatureExtractor:
        """The same front end evaluated at ``num_frames``.

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
        """The same front end with patches of another size, overlapping by the same share."""
        stride = scaled_stride(self.patch_size, self.patch_stride, patch_size)
        return dataclasses.replace(self, patch_size=patch_size, patch_stride=stride)

    def at_compression(
        self, compression: float, reduction: Reduction = "shift"
    ) -> FeatureExtractor:
        """The same front end with frames ``compression`` times as far apart, over the same seconds.

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
        length = _compressed(self.length, compression)
        if reduction == "shift":
            fbank = dataclasses.replace(self.fbank, shift_ms=shift_ms)
            return dataclasses.replace(self, fbank=fbank, length=length)
        pool = self.pool * int(compression)
        return dataclasses.replace(self, pool=pool, pool_kind=reduction, length=length)

    def crop(self, clip: int, native_frames: int) -> Crop:
        """The evaluation crop of a clip: its first frames, up to the length limits."""
        limit = self.length.most_frames
        return Crop(clip, native_frames, 0, min(native_frames, limit), self.length.fixed_frames)

    def num_patches(self, crop: Crop) -> int:
        """Patch tokens of a crop that the model is to see."""
        return kept_patches(math.prod(self.grid(crop)), crop.token_dropout)

    def grid(self, crop: Crop) -> tuple[int, int]:
        """(frequency, time) patches of a crop."""
        return grid_shape(
            crop.total_frames,
            self.fbank.num_mel_bins,
            self.patch_size,
            self.patch_stride,
            self.length.edge,
        )

    def longest_grid(self) -> tuple[int, int]:
        """(frequency, time) patches of the longest crop that the length limits allow."""
        limit = self.length.most_frames
        return self.grid(Crop(0, limit, 0, limit))

    def features(self, waveform: npt.NDArray[np.float32]) -> Tensor:
        """(T, F) log-mel frames of a waveform at ``fbank.sample_rate_hz``, not normalised."""
        return self.framing.frames(torch.from_numpy(waveform))

    def example(self, frames: Tensor, crop: Crop, targets: Tensor, clip_id: str) -> Example:
        """Crop, pad and normalise the (T, F) ``frames`` of a clip as ``crop`` says."""
        cut = frames[crop.first_frame : crop.first_frame + crop.num_frames]
        fitted = self._normalise(cut)
        if crop.pad_to > len(fitted):
            fitted = F.pad(fitted, (0, 0, 0, crop.pad_to - len(fitted)), value=self._pad_value)
        return Example(
            fbank=fitted,
            targets=targets,
            clip_id=clip_id,
            shift_ms=self.framing.shift_ms,
            cut_frames=crop.native_frames - crop.num_frames,
            patch=self.patch_spec,
        )

    def sound(self, waveform: Waveform, crop: Crop, targets: Tensor, clip_id: str) -> RawExample:
        """What ``example`` makes of the waveform's frames, still to be computed on the device."""
        framing = self.framing
        starts, pools = needed_frames(framing, len(waveform), crop.first_frame, crop.num_frames)
        rows = np.full(max(len(pools), crop.pad_to), PADDING, dtype=np.int64)
        rows[: len(pools)] = np.arange(len(pools))
        return RawExample(
            samples=prepare_clip(torch.from_numpy(waveform), self.fbank),
            frame_starts=starts,
            pools=pools,
            rows=rows,
            bins=(0, 0),
            noise=None,
            scale=Normalization(self.mean, 2 * self.std, self._pad_value),
            framing=framing,
            targets=targets,
            clip_id=clip_id,
            cut_frames=crop.native_frames - crop.num_frames,
            patch=self.patch_spec,
        )

    def _normalise(self, frames: Tensor) -> Tensor:
        return (frames - self.mean) / (2 * self.std)

    @property
    def _pad_value(self) -> float:
        raw = EXTRACTORS[self.fbank.frontend].floor if self.length.padding == "floor" else 0.0
        return (raw - self.mean) / (2 * self.std)


def _compressed(length: LengthConfig, compression: float) -> LengthConfig:
    """The limits of as many seconds in frames that are ``compression`` times as far apart."""

    def frames(limit: int) -> int:
        # The small number keeps quotients that are whole but for the last bit (as 96 / 1.2).
        return max(1, math.floor(limit / compression + 1e-9))

    fixed = frames(length.fixed_frames) if length.fixed_frames else 0
    return dataclasses.replace(length, max_frames=frames(length.max_frames), fixed_frames=fixed)


def frame_counts(num_samples: npt.NDArray[np.int64], framing: Framing) -> npt.NDArray[np.int64]:
    """(n,) frames of clips of ``num_samples`` (n,) samples."""
    distinct, inverse = np.unique(num_samples, return_inverse=True)
    frames = [framing.num_frames(int(samples)) for samples in distinct]
    return np.array(frames, dtype=np.int64)[inverse]
