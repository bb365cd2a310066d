"""The one dataset of the project: a crop of a prepared clip in, a packable example out.

Which frames of which clip are wanted is decided outside (``data/samplers.py`` in training,
``FeatureExtractor.view`` in evaluation) and travels as a ``Crop``; token counts follow from the
crop alone, so batches are planned without touching audio. Features are computed on the fly, because
frame shifts and cuts change from epoch to epoch.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from elastictool.audio.augment import (
    Waveform,
    add_noise,
    mask_fill,
    mix_waveforms,
    roll_frames,
    spec_augment,
)
from elastictool.audio.extractors import EXTRACTORS
from elastictool.audio.framing import Framing
from elastictool.audio.streams import prepare_clip
from elastictool.config import AugmentConfig, FbankConfig, LengthConfig, PoolKind, Reduction
from elastictool.data.collate import Example, Packable, PatchSpec
from elastictool.data.raw import PADDING, Normalization, RawExample, needed_frames
from elastictool.data.store import PreparedStore
from elastictool.packing.grid import grid_shape, kept_patches, scaled_stride
from elastictool.utils.rng import clip_rng

ReadAudio = Callable[[int, int, int], Waveform]
"""(clip, start, stop) to its samples."""


@dataclass(frozen=True)
class Mix:
    """Another clip, mixed into a view.

    Attributes:
        clip: Its index in the store.
        ratio: Share of the view's own clip, 0..1, in the waveform and in the targets.
    """

    clip: int
    ratio: float


@dataclass(frozen=True)
class Crop:
    """The frames of one clip that the model is to see.

    Attributes:
        clip: Index in the store.
        native_frames: Frames of the whole clip.
        first_frame: Where the view begins.
        num_frames: Frames taken from there.
        pad_to: Frames after padding; 0 where nothing is padded.
        repeat: 0 for a clip's first view in an epoch, 1 for an added one, and on where the clip is
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
    repeat: int = 0
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

    def view(self, clip: int, native_frames: int) -> Crop:
        """The evaluation view of a clip: its first frames, up to the length limits."""
        limit = self.length.most_frames
        return Crop(clip, native_frames, 0, min(native_frames, limit), self.length.fixed_frames)

    def num_patches(self, view: Crop) -> int:
        """Patch tokens of a view that the model is to see."""
        return kept_patches(math.prod(self.grid(view)), view.token_dropout)

    def grid(self, view: Crop) -> tuple[int, int]:
        """(frequency, time) patches of a view."""
        return grid_shape(
            view.total_frames,
            self.fbank.num_mel_bins,
            self.patch_size,
            self.patch_stride,
            self.length.edge,
        )

    def longest_grid(self) -> tuple[int, int]:
        """(frequency, time) patches of the longest view that the length limits allow."""
        limit = self.length.most_frames
        return self.grid(Crop(0, limit, 0, limit))

    def features(self, waveform: npt.NDArray[np.float32]) -> Tensor:
        """(T, F) log-mel frames of a waveform at ``fbank.sample_rate_hz``, not normalised."""
        return self.framing.frames(torch.from_numpy(waveform))

    def example(self, frames: Tensor, view: Crop, targets: Tensor, clip_id: str) -> Example:
        """Crop, pad and normalise the (T, F) ``frames`` of a clip as ``view`` says."""
        cut = frames[view.first_frame : view.first_frame + view.num_frames]
        fitted = self._normalise(cut)
        if view.pad_to > len(fitted):
            fitted = F.pad(fitted, (0, 0, 0, view.pad_to - len(fitted)), value=self._pad_value)
        return Example(
            fbank=fitted,
            targets=targets,
            clip_id=clip_id,
            shift_ms=self.framing.shift_ms,
            cut_frames=view.native_frames - view.num_frames,
            patch=self.patch_spec,
        )

    def sound(self, waveform: Waveform, view: Crop, targets: Tensor, clip_id: str) -> RawExample:
        """What ``example`` makes of the waveform's frames, still to be computed on the device."""
        framing = self.framing
        starts, pools = needed_frames(framing, len(waveform), view.first_frame, view.num_frames)
        rows = np.full(max(len(pools), view.pad_to), PADDING, dtype=np.int64)
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
            cut_frames=view.native_frames - view.num_frames,
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


class ClipDataset:
    """Clips of a prepared store, seen through a front end.

    Args:
        store: The prepared clips.
        feature_extractor: How waveforms become spectrograms.
        augment: Masks, noise and roll; None in evaluation. Mixing and token dropout come with
            the views, as they are planned.
        seed: The run's seed; masks depend on (seed, epoch, clip) only, never on worker order.
        cache_mb: Log-mel frames kept in memory, per process; 0 keeps none. As many clips are kept
            as fit, and never dropped, so small data are analysed once and large data cost no more
            than that. Views at another resolution are analysed each time. Where features are
            computed on the device, it is decoded audio that is kept.
    """

    def __init__(
        self,
        store: PreparedStore,
        feature_extractor: FeatureExtractor,
        augment: AugmentConfig | None = None,
        seed: int = 0,
        cache_mb: int = 0,
    ) -> None:
        self.store = store
        self.feature_extractor = feature_extractor
        self.augment = augment
        self.seed = seed
        self._cache: dict[int, Tensor] = {}
        self._audio: dict[int, Waveform] = {}
        self._cache_room = cache_mb * 1_000_000

    @property
    def native_frames(self) -> npt.NDArray[np.int64]:
        """Frames of each clip of the store."""
        return frame_counts(self.store.num_samples, self.feature_extractor.framing)

    def load(
        self, view: Crop, epoch: int = 0, patch_size: tuple[int, int] | None = None
    ) -> Example:
        """Read, analyse, crop, normalise and (in training) change one view.

        Args:
            view: What to load.
            epoch: Decides on everything random.
            patch_size: How it will be cut into patches, where not as the front end says.
        """
        frames, local = self._frames(view)
        feature_extractor = self._feature_extractor(view, patch_size)
        example = feature_extractor.example(
            frames, local, self.view_targets(view), self.store.ids[view.clip]
        )
        if self.augment is not None:
            fbank = self._augmented(example.fbank, self.augment, view, epoch)
            example = example._replace(fbank=fbank)
        return example._replace(kept=self._kept(example, view, epoch))

    def sound(
        self, view: Crop, epoch: int = 0, patch_size: tuple[int, int] | None = None
    ) -> RawExample:
        """What ``load`` gives, with the features still to be computed (``data/raw.py``)."""
        waveform, local = self._waveform(view, self._kept_audio)
        feature_extractor = self._feature_extractor(view, patch_size)
        sound = feature_extractor.sound(
            waveform, local, self.view_targets(view), self.store.ids[view.clip]
        )
        if self.augment is not None:
            sound = sound.changed(self.augment, partial(self._rng, view, epoch))
        return sound._replace(kept=self._kept(sound, view, epoch))

    def targets(self, clip: int) -> Tensor:
        """(C,) float, 1 for each class of the clip."""
        return torch.from_numpy(self.store.targets(clip))

    def view_targets(self, view: Crop) -> Tensor:
        """(C,) float, the clip's targets, mixed as the view is."""
        targets = self.targets(view.clip)
        if view.mix is None:
            return targets
        return view.mix.ratio * targets + (1 - view.mix.ratio) * self.targets(view.mix.clip)

    def _augmented(self, fbank: Tensor, config: AugmentConfig, view: Crop, epoch: int) -> Tensor:
        """Masks, noise and roll, in the order of the published code; each draws its own numbers."""
        rng = partial(self._rng, view, epoch)
        feature_extractor = self.feature_extractor
        fill = mask_fill(config, feature_extractor.mean, 2 * feature_extractor.std)
        fbank = spec_augment(fbank, config, rng("spec-augment"), fill)
        if config.noise:
            fbank = add_noise(fbank, config.noise, rng("noise"))
        return roll_frames(fbank, config.roll, rng("roll")) if config.roll else fbank

    def _kept(self, example: Packable, view: Crop, epoch: int) -> Tensor | None:
        """(K,) int64, the patches that token dropout leaves: as many as were planned."""
        if not view.token_dropout:
            return None
        count = math.prod(example.grid)
        order = self._rng(view, epoch, "token-dropout").permutation(count)
        return torch.from_numpy(np.sort(order[: kept_patches(count, view.token_dropout)]))

    def _feature_extractor(
        self, view: Crop, patch_size: tuple[int, int] | None = None
    ) -> FeatureExtractor:
        """At the view's resolution, and with the patches of its batch."""
        feature_extractor = self.feature_extractor
        if view.compression != 1:
            feature_extractor = feature_extractor.at_compression(view.compression, view.reduction)
        return feature_extractor.at_patch_size(patch_size) if patch_size else feature_extractor

    def _rng(self, view: Crop, epoch: int, purpose: str) -> np.random.Generator:
        return clip_rng(self.seed, epoch, view.clip, f"{purpose}-{view.repeat}")

    @cached_property
    def _cacheable(self) -> npt.NDArray[np.bool_]:
        """(n,) whether a clip's frames are kept, decided beforehand.

        An excerpt cut out of a whole analysed clip equals one analysed alone up to rounding only.
        So it may not depend on what this process has loaded before: resumed runs, and workers,
        are to find the same bits. Which clips are kept is drawn, because a store has all training
        clips in one place.
        """
        sizes = self.native_frames * self.feature_extractor.fbank.num_mel_bins * 4
        order = clip_rng(0, 0, 0, "cache").permutation(len(sizes))
        fits = np.empty(len(sizes), dtype=np.bool_)
        fits[order] = np.cumsum(sizes[order]) <= self._cache_room
        return fits

    def _frames(self, view: Crop) -> tuple[Tensor, Crop]:
        """Frames that hold the view, and the view's place in them."""
        # With another partner each time, or at one of many resolutions, kept frames would seldom
        # be used.
        if view.mix is not None or view.compression != 1 or not self._cacheable[view.clip]:
            return self._read(view)
        if view.clip not in self._cache:
            whole = dataclasses.replace(view, first_frame=0, num_frames=view.native_frames)
            self._cache[view.clip], _ = self._read(whole)
        return self._cache[view.clip], view

    def _read(self, view: Crop) -> tuple[Tensor, Crop]:
        """The frames of the view, reading no more audio than they need."""
        waveform, local = self._waveform(view, self.store.waveform)
        return self._feature_extractor(view).features(waveform), local

    def _waveform(self, view: Crop, read: ReadAudio) -> tuple[Waveform, Crop]:
        """Samples that hold the view, and the view's place in their frames.

        From the view's start on, the beginning of another clip may be mixed in.
        """
        framing = self._feature_extractor(view).framing
        begin, stop, before = framing.excerpt(view.first_frame, view.num_frames, view.native_frames)
        waveform = read(view.clip, begin, stop)
        local = dataclasses.replace(view, first_frame=before)
        if view.mix is None:
            return waveform, local
        begin = max(framing.frame_start(before), 0)
        other = read(view.mix.clip, 0, len(waveform) - begin)
        mixed = mix_waveforms(waveform[begin:], other, view.mix.ratio)
        return np.concatenate((waveform[:begin], mixed)), local

    def _kept_audio(self, clip: int, start: int, stop: int) -> Waveform:
        """Samples of a clip, out of the cache where it is there or fits.

        A part of a whole decoded clip is what decoding the part gives, so what is kept may depend
        on what was asked for.
        """
        size = 4 * int(self.store.num_samples[clip])
        if clip not in self._audio and size <= self._cache_room:
            self._cache_room -= size
            self._audio[clip] = self.store.waveform(clip)
        if clip in self._audio:
            return self._audio[clip][start:stop]
        return self.store.waveform(clip, start, stop)
