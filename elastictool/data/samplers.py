"""Plans the batches of an epoch from metadata alone: which crops of which clips.

Everything random about a training batch (clips, order, crops, resolutions, partners, patch size) is
drawn from the run's seed and the epoch by the functions that are put together here, and rows are
planned here, so batches are known before a byte is read and are the same for any number of loader
workers, on every rank and after any interruption.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import count

import numpy as np
import numpy.typing as npt

from elastictool.config import AugmentConfig, FlexiConfig, PackingConfig, RunConfig
from elastictool.data.balance import Weights, clip_weights, draw_clips, occurrences
from elastictool.data.collate import PackSpec
from elastictool.data.crops import CropSampler, draw_cuts, draw_mixes, draw_resolutions
from elastictool.data.dataset import ClipDataset
from elastictool.data.feature_extractor import Crop, FeatureExtractor
from elastictool.packing.batching import batch_stop, windows
from elastictool.packing.grid import kept_patches, patch_size_along
from elastictool.packing.planners import PLANNERS, Counts, Rows, assign_lpt, plan_rows
from elastictool.packing.stream import WINDOW_PLANNERS, plans_windows
from elastictool.utils.rng import clip_rng

CROPS_PER_DRAW = 2
"""A clip that is drawn once more counts its crops on: the whole one and an added shorter one."""


@dataclass(frozen=True)
class BatchPlan:
    """One batch before it is loaded.

    Attributes:
        epoch: The epoch it belongs to (masks depend on it).
        rows: The crops of each row.
        spec: How it is packed.
    """

    epoch: int
    rows: tuple[tuple[Crop, ...], ...]
    spec: PackSpec

    @property
    def num_crops(self) -> int:
        """Crops in the batch: its clips, and added shorter crops."""
        return sum(len(row) for row in self.rows)

    @property
    def crops(self) -> list[Crop]:
        """All crops, in the order of the batch."""
        return [crop for row in self.rows for crop in row]


@dataclass(frozen=True)
class TrainingSampler:
    """Plans the training batches of any epoch.

    Attributes:
        clips: Indices of the training clips.
        native_frames: Frames of each clip of the store.
        feature_extractor: Gives the length limits.
        augment: Random shorter crops, resolutions, token dropout, mixing.
        packing: Batch size and planner.
        spec: How batches are packed, but for the patch size where that is drawn.
        seed: The run's seed.
        weights: Chance of each clip in balanced sampling; None takes each clip once an epoch.
        epoch_clips: Clips drawn for an epoch by ``weights``; 0 for as many as there are.
        flexi: Patch sizes to draw from.
        batches_per_step: Batches of one optimiser step; they share a patch size.
        num_samples: Samples of each clip of the store; only resolutions need them.
    """

    clips: npt.NDArray[np.int64]
    native_frames: npt.NDArray[np.int64]
    feature_extractor: FeatureExtractor
    augment: AugmentConfig
    packing: PackingConfig
    spec: PackSpec
    seed: int
    weights: Weights | None = None
    epoch_clips: int = 0
    flexi: FlexiConfig = field(default_factory=FlexiConfig)
    batches_per_step: int = 1
    num_samples: npt.NDArray[np.int64] | None = None

    @classmethod
    def of_run(
        cls,
        config: RunConfig,
        dataset: ClipDataset,
        clips: npt.NDArray[np.int64],
        padded_rows: bool = False,
    ) -> TrainingSampler:
        """Returns the sampler that ``config`` asks for over the ``clips`` of ``dataset``.

        Args:
            config: A resolved configuration.
            dataset: The store, and how its clips become spectrograms.
            clips: Indices of the training clips.
            padded_rows: The attention backend is made for padded rows.

        Raises:
            UsageError: Sampling is to be balanced, but no clip has a label.
        """
        balanced = config.data.balanced_sampling
        return cls(
            clips=clips,
            native_frames=dataset.native_frames,
            feature_extractor=dataset.feature_extractor,
            augment=config.augment,
            packing=config.packing,
            spec=dataset.feature_extractor.pack_spec(
                config.model.prefix_tokens, padded_rows, config.pad_to_multiple_of
            ),
            seed=config.seed,
            weights=clip_weights(dataset.store, clips) if balanced else None,
            epoch_clips=config.data.epoch_clips,
            flexi=config.flexi,
            batches_per_step=config.train.accumulate,
            num_samples=dataset.store.num_samples,
        )

    @property
    def clips_per_epoch(self) -> int:
        """Clips that an epoch draws; repeated ones count each time."""
        return self.epoch_clips or len(self.clips)

    def epoch(self, epoch: int) -> Iterator[BatchPlan]:
        """Yields the batches of ``epoch``, in order."""
        crops = self._epoch_crops(epoch)
        for number, batch in enumerate(self._batches(crops, epoch)):
            rows = [[crop for clip in clips for crop in crops[clip]] for clips in batch]
            yield self._plan(epoch, rows, self._spec_of(epoch, number))

    def num_batches(self, epoch: int) -> int:
        """Counts the batches of ``epoch``; with a token budget they differ from epoch to epoch."""
        if not self.packing.batch_tokens:
            return -(-self.clips_per_epoch // self.packing.batch_clips)
        return sum(1 for _ in self._batches(self._epoch_crops(epoch), epoch))

    def epoch_batches(self, epochs: int) -> list[int]:
        """Returns the number of batches of each of the first ``epochs`` epochs."""
        if not self.packing.batch_tokens:
            return [self.num_batches(0)] * epochs
        return [self.num_batches(epoch) for epoch in range(epochs)]

    def num_steps(self, epoch_batches: Sequence[int]) -> int:
        """Returns the number of optimiser steps of epochs with these numbers of batches."""
        return sum(-(-count // self.batches_per_step) for count in epoch_batches)

    def shares(self, plans: Sequence[BatchPlan], processes: int) -> list[list[BatchPlan]]:
        """Returns each process's share of the batches of one optimiser step.

        Clips are assigned batch by batch, longest first, each to the process with the fewest
        tokens of the step so far; rows are planned anew. A process may get none of a batch.
        """
        if processes == 1:
            return [list(plans)]
        shares: list[list[BatchPlan]] = [[] for _ in range(processes)]
        loads = [0] * processes
        for plan in plans:
            crops, tokens = plan.crops, self.tokens_of(plan)
            for process, indices in enumerate(assign_lpt(tokens, loads)):
                loads[process] += sum(tokens[index] for index in indices)
                if indices:
                    own = [crops[index] for index in indices]
                    shares[process].append(self._plan(plan.epoch, [own], plan.spec))
        return shares

    def tokens_of(self, plan: BatchPlan) -> list[int]:
        """Returns the tokens of each crop of a batch."""
        return [self._tokens(crop, plan.spec) for crop in plan.crops]

    def draw_patch_size(self, epoch: int, batch: int) -> tuple[int, int]:
        """Draws the (frequency, time) patch size of one batch from the seed and its number."""
        own, flexi = self.spec.patch_size, self.flexi
        if not flexi.sizes:
            return own
        rng = clip_rng(self.seed, epoch, batch // self.batches_per_step, "patch-size")
        weights = np.array(flexi.weights or [1.0] * len(flexi.sizes))
        size = flexi.sizes[int(rng.choice(len(weights), p=weights / weights.sum()))]
        return patch_size_along(flexi.axes, size, own)

    def _spec_of(self, epoch: int, batch: int) -> PackSpec:
        return self.spec.at_patch_size(self.draw_patch_size(epoch, batch))

    def _batches(self, crops: Sequence[Sequence[Crop]], epoch: int) -> Iterator[Rows]:
        """Yields each batch's clips by position, in lists whose rows are planned together.

        A planner of one batch gets it whole. A window planner has chosen the rows already, at the
        run's own patch size; its batches come in its own order, longest clips first, and so
        are shuffled.
        """
        if not plans_windows(self.packing.planner):
            for start, stop in self._cuts(crops, epoch):
                yield [list(range(start, stop))]
            return
        tokens = self._clip_tokens(crops, self.spec)
        for number, window in enumerate(windows(len(tokens), self.packing)):
            batches = WINDOW_PLANNERS[self.packing.planner](tokens[window], self.packing).batches()
            rng = clip_rng(self.seed, epoch, number, "window")
            for batch in rng.permutation(len(batches)).tolist():
                yield [[window.start + position for position in row] for row in batches[batch]]

    def _cuts(self, crops: Sequence[Sequence[Crop]], epoch: int) -> Iterator[tuple[int, int]]:
        """Yields the first clip of each batch and the one after its last, in arrival order.

        A token budget counts tokens of the batch's own patch size.
        """
        totals: dict[tuple[int, int], Counts] = {}
        none = np.zeros(len(crops), dtype=np.int64)  # where batches go by clips
        start = 0
        for batch in count():
            if start == len(crops):
                return
            spec = self._spec_of(epoch, batch)
            size = spec.patch_size
            if size not in totals:
                tokens = self._clip_tokens(crops, spec) if self.packing.batch_tokens else none
                totals[size] = np.cumsum(tokens)
            stop = batch_stop(totals[size], start, self.packing)
            yield start, stop
            start = stop

    def _clip_tokens(self, crops: Sequence[Sequence[Crop]], spec: PackSpec) -> Counts:
        """Counts the tokens of each clip, all its crops together."""
        sums = [sum(self._tokens(crop, spec) for crop in group) for group in crops]
        return np.array(sums, dtype=np.int64)

    def _plan(self, epoch: int, together: Sequence[Sequence[Crop]], spec: PackSpec) -> BatchPlan:
        """Plans rows of each list of crops; a window planner's row stays one unless it is too long.

        It is too long where a clip has two crops that do not fit into one row, or where the
        batch's patches are smaller than those that the row was planned with.
        """
        windowed = plans_windows(self.packing.planner)
        planner = PLANNERS["first-come" if windowed else self.packing.planner]
        rows: list[tuple[Crop, ...]] = []
        for crops in together:
            lengths = [self._tokens(crop, spec) for crop in crops]
            for row in plan_rows(planner, lengths, self.packing.capacity):
                rows.append(tuple(crops[index] for index in row))
        return BatchPlan(epoch, tuple(rows), spec)

    def _tokens(self, crop: Crop, spec: PackSpec) -> int:
        patches = math.prod(spec.grid(crop.total_frames, self.feature_extractor.fbank.num_mel_bins))
        return kept_patches(patches, crop.token_dropout) + spec.prefix_tokens

    def _epoch_crops(self, epoch: int) -> list[list[Crop]]:
        """Returns the crops of each clip, in the epoch's order.

        Draws are made for all clips at once and indexed by clip, so that a clip's crops depend on
        (seed, epoch, clip) alone and not on its position in the order.
        """
        clips, draws = self._epoch_clips(epoch)
        order = clip_rng(self.seed, epoch, 0, "order").permutation(len(clips))
        cuts = draw_cuts(len(clips), self.seed, epoch)
        mixes = draw_mixes(len(clips), self.clips, self.augment, self.seed, epoch)
        which = draw_resolutions(len(clips), self.augment.resolution, self.seed, epoch)
        frames = self._frames(clips, which)
        dropout = self.augment.token_dropout
        crops: list[list[Crop]] = []
        for i in order.tolist():
            sampler = self._crop_samplers[which[i]]
            whole = sampler.whole(int(clips[i]), int(frames[i]))
            if draws[i] or dropout or mixes[i]:
                whole = replace(whole, draw=int(draws[i]), token_dropout=dropout, mix=mixes[i])
            crops.append(sampler.crops(whole, cuts[i].tolist()))
        return crops

    def _epoch_clips(self, epoch: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Returns the clips that the epoch draws, and the draw of each one's first crop."""
        if self.weights is None:
            return self.clips, np.zeros_like(self.clips)
        drawn = draw_clips(self.weights, self.clips_per_epoch, self.seed, epoch)
        return self.clips[drawn], CROPS_PER_DRAW * occurrences(drawn)

    @cached_property
    def _crop_samplers(self) -> list[CropSampler]:
        """Crop samplers, one for each resolution."""
        own = CropSampler(self.feature_extractor, self.augment.length_diversity)
        drawn = self.augment.resolution
        return [own.at_compression(c, drawn.reduction) for c in drawn.compressions] or [own]

    def _frames(
        self, clips: npt.NDArray[np.int64], which: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int64]:
        """Returns the number of frames of each of ``clips`` at its drawn resolution."""
        if not self.augment.resolution.compressions:
            return self.native_frames[clips]
        if self.num_samples is None:
            raise ValueError("frames at other resolutions follow from num_samples")
        frames = np.empty(len(clips), dtype=np.int64)
        for index, sampler in enumerate(self._crop_samplers):
            members = which == index
            samples = self.num_samples[clips[members]]
            frames[members] = sampler.feature_extractor.num_frames(samples)
        return frames
