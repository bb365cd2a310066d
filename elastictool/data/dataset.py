"""The one dataset of the project: a crop of a prepared clip in, a packable example out.

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

from elastictool.audio.augment import (
    Waveform,
    add_noise,
    mask_fill,
    mix_waveforms,
    roll_frames,
    spec_augment,
)
from elastictool.config import AugmentConfig
from elastictool.data.collate import Example, Packable
from elastictool.data.feature_extractor import Crop, FeatureExtractor, frame_counts
from elastictool.data.raw import RawExample
from elastictool.data.store import PreparedStore
from elastictool.packing.grid import kept_patches
from elastictool.utils.rng import clip_rng

ReadAudio = Callable[[int, int, int], Waveform]
"""(clip, start, stop) to its samples."""


class ClipDataset:
    """Clips of a prepared store, seen through a front end.

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
        return frame_counts(self.store.num_samples, self.feature_extractor.framing)

    def load(
        self, crop: Crop, epoch: int = 0, patch_size: tuple[int, int] | None = None
    ) -> Example:
        """Read, analyse, crop, normalise and (in training) change one crop.

        Args:
            crop: What to load.
            epoch: Decides on everything random.
            patch_size: How it will be cut into patches, where not as the front end says.
        """
        frames, local = self._frames(crop)
        feature_extractor = self._feature_extractor(crop, patch_size)
        example = feature_extractor.example(
            frames, local, self.crop_targets(crop), self.store.ids[crop.clip]
        )
        if self.augment is not None:
            fbank = self._augmented(example.fbank, self.augment, crop, epoch)
            example = example._replace(fbank=fbank)
        return example._replace(kept=self._kept(example, crop, epoch))

    def sound(
        self, crop: Crop, epoch: int = 0, patch_size: tuple[int, int] | None = None
    ) -> RawExample:
        """What ``load`` gives, with the features still to be computed (``data/raw.py``)."""
        waveform, local = self._waveform(crop, self._kept_audio)
        feature_extractor = self._feature_extractor(crop, patch_size)
        sound = feature_extractor.sound(
            waveform, local, self.crop_targets(crop), self.store.ids[crop.clip]
        )
        if self.augment is not None:
            sound = sound.changed(self.augment, partial(self._rng, crop, epoch))
        return sound._replace(kept=self._kept(sound, crop, epoch))

    def targets(self, clip: int) -> Tensor:
        """(C,) float, 1 for each class of the clip."""
        return torch.from_numpy(self.store.targets(clip))

    def crop_targets(self, crop: Crop) -> Tensor:
        """(C,) float, the clip's targets, mixed as the crop is."""
        targets = self.targets(crop.clip)
        if crop.mix is None:
            return targets
        return crop.mix.ratio * targets + (1 - crop.mix.ratio) * self.targets(crop.mix.clip)

    def _augmented(self, fbank: Tensor, config: AugmentConfig, crop: Crop, epoch: int) -> Tensor:
        """Masks, noise and roll, in the order of the published code; each draws its own numbers."""
        rng = partial(self._rng, crop, epoch)
        feature_extractor = self.feature_extractor
        fill = mask_fill(config, feature_extractor.mean, 2 * feature_extractor.std)
        fbank = spec_augment(fbank, config, rng("spec-augment"), fill)
        if config.noise:
            fbank = add_noise(fbank, config.noise, rng("noise"))
        return roll_frames(fbank, config.roll, rng("roll")) if config.roll else fbank

    def _kept(self, example: Packable, crop: Crop, epoch: int) -> Tensor | None:
        """(K,) int64, the patches that token dropout leaves: as many as were planned."""
        if not crop.token_dropout:
            return None
        count = math.prod(example.grid)
        order = self._rng(crop, epoch, "token-dropout").permutation(count)
        return torch.from_numpy(np.sort(order[: kept_patches(count, crop.token_dropout)]))

    def _feature_extractor(
        self, crop: Crop, patch_size: tuple[int, int] | None = None
    ) -> FeatureExtractor:
        """At the crop's resolution, and with the patches of its batch."""
        feature_extractor = self.feature_extractor
        if crop.compression != 1:
            feature_extractor = feature_extractor.at_compression(crop.compression, crop.reduction)
        return feature_extractor.at_patch_size(patch_size) if patch_size else feature_extractor

    def _rng(self, crop: Crop, epoch: int, purpose: str) -> np.random.Generator:
        return clip_rng(self.seed, epoch, crop.clip, f"{purpose}-{crop.draw}")

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

    def _frames(self, crop: Crop) -> tuple[Tensor, Crop]:
        """Frames that hold the crop, and the crop's place in them."""
        # With another partner each time, or at one of many resolutions, kept frames would seldom
        # be used.
        if crop.mix is not None or crop.compression != 1 or not self._cacheable[crop.clip]:
            return self._read(crop)
        if crop.clip not in self._cache:
            whole = dataclasses.replace(crop, first_frame=0, num_frames=crop.native_frames)
            self._cache[crop.clip], _ = self._read(whole)
        return self._cache[crop.clip], crop

    def _read(self, crop: Crop) -> tuple[Tensor, Crop]:
        """The frames of the crop, reading no more audio than they need."""
        waveform, local = self._waveform(crop, self.store.waveform)
        return self._feature_extractor(crop).features(waveform), local

    def _waveform(self, crop: Crop, read: ReadAudio) -> tuple[Waveform, Crop]:
        """Samples that hold the crop, and the crop's place in their frames.

        From the crop's start on, the beginning of another clip may be mixed in.
        """
        framing = self._feature_extractor(crop).framing
        begin, stop, before = framing.excerpt(crop.first_frame, crop.num_frames, crop.native_frames)
        waveform = read(crop.clip, begin, stop)
        local = dataclasses.replace(crop, first_frame=before)
        if crop.mix is None:
            return waveform, local
        begin = max(framing.frame_start(before), 0)
        other = read(crop.mix.clip, 0, len(waveform) - begin)
        mixed = mix_waveforms(waveform[begin:], other, crop.mix.ratio)
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
