"""Loads crops of prepared clips as examples that can be packed.

Which frames of which clip are wanted is decided outside (``data/samplers.py`` in training,
``FeatureExtractor.crop`` in evaluation). Features are computed on the fly, because frame shifts and
crops change from epoch to epoch.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import cached_property, partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from elastictool.audio.augment import Waveform, mix_waveforms
from elastictool.config import AugmentConfig
from elastictool.data.collate import Example, PackSpec
from elastictool.data.feature_extractor import Crop, FeatureExtractor
from elastictool.data.spectrogram import RawFrames
from elastictool.data.store import PreparedStore
from elastictool.packing.grid import kept_patches
from elastictool.utils.rng import clip_rng

ReadAudio = Callable[[int, int, int], Waveform]
"""(clip, start, stop) to its samples."""


class ClipDataset:
    """Loads clips of a prepared store through a feature extractor.

    Args:
        store: The prepared clips.
        feature_extractor: How waveforms become spectrograms.
        augment: Masks, noise and roll; None in evaluation. Mixing and token dropout come with
            the crops, as they are planned.
        seed: The run's seed; masks depend on (seed, epoch, clip) only, never on worker order.
        cache_mb: Log-mel frames kept in memory, per process; 0 keeps none. As many clips are kept
            as fit, and never dropped, so small data are analysed once and large data cost no more
            than that. Crops at another resolution are analysed each time. Where features are
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
        return self.feature_extractor.num_frames(self.store.num_samples)

    def load(
        self, crop: Crop, epoch: int = 0, spec: PackSpec | None = None, on_device: bool = False
    ) -> Example:
        """Reads a crop of a clip, computes its spectrogram and (in training) augments it.

        Args:
            crop: What to load.
            epoch: Decides on everything random.
            spec: How it will be cut into patches; None takes the feature extractor's.
            on_device: Leave the features to the device (``data/raw.py``).
        """
        feature_extractor = self._feature_extractor(crop)
        frames: Tensor | RawFrames
        if on_device:
            waveform, before = self._waveform(crop, self._kept_audio)
            frames = feature_extractor.raw_frames(waveform, before, crop.num_frames)
        else:
            frames = self.crop_frames(crop)
        spectrogram = feature_extractor.spectrogram(frames, crop)
        if self.augment is not None:
            spectrogram = spectrogram.augmented(self.augment, partial(self._rng, crop, epoch))
        grid = (spec or feature_extractor.pack_spec()).grid(*spectrogram.shape)
        return Example(
            fbank=spectrogram if on_device else spectrogram.computed(),
            targets=self.crop_targets(crop),
            clip_id=self.store.ids[crop.clip],
            shift_ms=feature_extractor.shift_ms,
            cut_frames=crop.cut_frames,
            kept=self._kept(math.prod(grid), crop, epoch),
        )

    def targets(self, clip: int) -> Tensor:
        """Returns (C,) float, 1 for each class of the clip."""
        return torch.from_numpy(self.store.targets(clip))

    def crop_targets(self, crop: Crop) -> Tensor:
        """Returns (C,) float, the clip's targets, mixed as the crop is."""
        targets = self.targets(crop.clip)
        if crop.mix is None:
            return targets
        return crop.mix.ratio * targets + (1 - crop.mix.ratio) * self.targets(crop.mix.clip)

    def _kept(self, count: int, crop: Crop, epoch: int) -> Tensor | None:
        """Returns (K,) int64, the patches that token dropout leaves: as many as were planned."""
        if not crop.token_dropout:
            return None
        order = self._rng(crop, epoch, "token-dropout").permutation(count)
        return torch.from_numpy(np.sort(order[: kept_patches(count, crop.token_dropout)]))

    def _feature_extractor(self, crop: Crop) -> FeatureExtractor:
        """Returns the feature extractor at the crop's resolution."""
        if crop.compression == 1:
            return self.feature_extractor
        return self.feature_extractor.at_compression(crop.compression, crop.reduction)

    def _rng(self, crop: Crop, epoch: int, purpose: str) -> np.random.Generator:
        return clip_rng(self.seed, epoch, crop.clip, f"{purpose}-{crop.draw}")

    @cached_property
    def _cacheable(self) -> npt.NDArray[np.bool_]:
        """Returns (n,) whether a clip's frames are kept in memory, which is decided before loading.

        An excerpt cut out of a whole analysed clip has the bits of one analysed alone, as far as
        the processor's matrix product allows (``kaldi_fbank.ROWS``). So that resumed runs and
        workers find the same bits on any, it does not depend on what this process has loaded
        before. Which clips are kept is drawn, because in a store training clips are neighbours.
        """
        sizes = self.native_frames * self.feature_extractor.fbank.num_mel_bins * 4
        order = clip_rng(0, 0, 0, "cache").permutation(len(sizes))
        fits = np.empty(len(sizes), dtype=np.bool_)
        fits[order] = np.cumsum(sizes[order]) <= self._cache_room
        return fits

    def crop_frames(self, crop: Crop) -> Tensor:
        """Returns (T', F) log-mel frames of the crop."""
        # With another partner each time, or at one of many resolutions, kept frames would seldom
        # be used.
        if crop.mix is not None or crop.compression != 1 or not self._cacheable[crop.clip]:
            frames, first = self._read(crop)
        else:
            if crop.clip not in self._cache:
                whole = dataclasses.replace(crop, first_frame=0, num_frames=crop.native_frames)
                self._cache[crop.clip], _ = self._read(whole)
            frames, first = self._cache[crop.clip], crop.first_frame
        return frames[first : first + crop.num_frames]

    def _read(self, crop: Crop) -> tuple[Tensor, int]:
        """Returns frames that hold the crop, reading no more audio than they need."""
        waveform, before = self._waveform(crop, self.store.waveform)
        return self._feature_extractor(crop).frames(waveform), before

    def _waveform(self, crop: Crop, read: ReadAudio) -> tuple[Waveform, int]:
        """Returns samples that hold the crop, and how many of their frames precede it.

        From the crop's start on, the beginning of another clip may be mixed in.
        """
        extractor = self._feature_extractor(crop)
        begin, stop, before = extractor.excerpt(
            crop.first_frame, crop.num_frames, crop.native_frames
        )
        waveform = read(crop.clip, begin, stop)
        if crop.mix is None:
            return waveform, before
        begin = max(extractor.frame_start(before), 0)
        other = read(crop.mix.clip, 0, len(waveform) - begin)
        mixed = mix_waveforms(waveform[begin:], other, crop.mix.ratio)
        return np.concatenate((waveform[:begin], mixed)), before

    def _kept_audio(self, clip: int, start: int, stop: int) -> Waveform:
        """Returns samples of a clip, from the cache where it is there or fits.

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
