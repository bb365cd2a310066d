"""The cells of a sweep, scored a chunk of clips at a time.

Each clip of a chunk is decoded once, analysed once per framing, and scored once per distinct crop:
where a length cuts no clip of a chunk, the crops equal those of a longer length, and their logits
are taken from there. So are logits that the cache of a stopped sweep holds.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, cast

import numpy as np
import numpy.typing as npt
from torch import Tensor

from elastictool.audio.augment import Waveform
from elastictool.checkpoint.weights import LoadedRun
from elastictool.config import FbankConfig, PatchAxes, PoolKind
from elastictool.data.dataset import ClipDataset
from elastictool.data.feature_extractor import Crop, FeatureExtractor
from elastictool.data.store import PreparedStore
from elastictool.evaluation.flops import forward_flops
from elastictool.evaluation.logit_cache import LogitCache
from elastictool.evaluation.points import Identity
from elastictool.metrics.classification import class_probabilities
from elastictool.packing.grid import patch_size_along
from elastictool.training.predict_logits import Scores, score_clips
from elastictool.utils.progress import Task

Crops = tuple[Crop, ...]
Indices = npt.NDArray[np.int64]
Probabilities = npt.NDArray[np.float64]
Targets = npt.NDArray[np.float32]
PatchAxesOption = PatchAxes | Literal["auto"]


def extractor_at(
    run: LoadedRun, axis: str, value: float, patch_axes: PatchAxesOption, base_shift_ms: float
) -> FeatureExtractor:
    """Returns the run's feature extractor at a value of an axis.

    - ``length``: clips are trimmed to this number of frames; fixed-length models pad shorter ones.
    - ``patch_size``: clips keep the run's length; the model resizes its kernels.
    - ``resolution``: the frame shift is ``value * base_shift_ms``. All models see the seconds that
      they were trained with: fixed lengths and caps are divided by the compression and rounded
      down, as in the published code. ElasticAST takes the first rows of its time positions; a
      standard AST's are fitted as ``model.pos_embed_fit`` says (the published figure's way is not
      public).
    - ``average_pooling``, ``max_pooling``: this number of frames becomes one, after the
      filterbank and before trimming, padding and normalising. The published code takes the maximum.

    Source: ElasticAST Sections 3.3 to 3.5, FlexiAST Section 3.3.
    """
    own = run.feature_extractor
    if axis == "length":
        return own.at_length(int(value))
    if axis == "patch_size":
        along = run.config.flexi.axes if patch_axes == "auto" else patch_axes
        return own.at_patch_size(patch_size_along(along, int(value), own.patch_size))
    if axis == "resolution":
        return own.at_compression(value * base_shift_ms / own.fbank.shift_ms)
    return own.at_compression(int(value), cast(PoolKind, axis.removesuffix("_pooling")))


def own_value(run: LoadedRun, axis: str, frames: int, base_shift_ms: float) -> float:
    """Returns where the run's own setting lies on an axis; ``frames`` are its longest clip's."""
    if axis == "length":
        return frames
    if axis == "patch_size":
        frequency, time = run.feature_extractor.patch_size
        return frequency if run.config.flexi.axes == "frequency" else time
    return run.feature_extractor.fbank.shift_ms / base_shift_ms if axis == "resolution" else 1.0


@dataclass
class SweepCell:
    """One run at one value of an axis (None: its own) on its clips, with its scores so far."""

    axis: str
    run: LoadedRun
    feature_extractor: FeatureExtractor
    value: float | None
    clips: Indices
    crops: list[Crop] = field(default_factory=list)
    scores: list[Scores] = field(default_factory=list)

    @property
    def label(self) -> str:
        """For the progress bar."""
        return f"{self.run.name} at {f'{self.value:g}' if self.value else 'its own setting'}"

    @property
    def fits(self) -> tuple[str, str]:
        """How grid positions and kernels are fitted; empty where they are not."""
        model = self.run.config.model
        return (
            model.pos_embed_fit if model.pos_embed == "grid" else "",
            model.resize if self.axis == "patch_size" else "",
        )

    @property
    def identity(self) -> Identity:
        """The identity of the cell's point."""
        return (self.run.name, *self.fits, self.value)

    def crops_of(self, chunk: Indices, store: PreparedStore) -> Crops:
        """Crops of those clips of ``chunk`` that the run is evaluated on."""
        count = self.feature_extractor.num_frames
        return tuple(
            self.feature_extractor.crop(clip, count(int(store.num_samples[clip])))
            for clip in np.intersect1d(chunk, self.clips).tolist()
        )

    def cache_key(self, crops: Crops, cache: LogitCache) -> str:
        """The same for cells that see the same: what a length does to a clip is in its crop."""
        own_length = dataclasses.replace(
            self.feature_extractor, length=self.run.feature_extractor.length
        )
        return cache.key(self.run, own_length, crops)

    def add(self, crops: Crops, scores: Scores) -> None:
        """Adds the scores of a chunk."""
        self.crops.extend(crops)
        self.scores.append(scores)

    def probabilities(self) -> tuple[Probabilities, Targets]:
        """(S, C) probabilities and targets in the order of the store, as in ``eval``."""
        order = np.argsort([crop.clip for crop in self.crops])
        logits = np.concatenate([scores.logits for scores in self.scores])[order]
        targets = np.concatenate([scores.targets for scores in self.scores])[order]
        return class_probabilities(logits, self.run.config.train.loss), targets

    def gflops(self) -> float:
        """Forward operations of all clips, in 1e9."""
        model, size = self.run.config.model, self.feature_extractor.patch_size
        counts = Counter(self.feature_extractor.num_patches(crop) for crop in self.crops)
        return sum(n * forward_flops(model, count, size) for count, n in counts.items()) / 1e9


@dataclass(frozen=True)
class _CellChunk:
    """A cell's crops of a chunk of clips, with their key in the cache."""

    cell: SweepCell
    crops: Crops
    key: str

    @property
    def framing(self) -> tuple[FbankConfig, int, PoolKind]:
        """What the crops' log-mel frames follow from: the same for parts that share them."""
        extractor = self.cell.feature_extractor
        return extractor.fbank, extractor.pool, extractor.pool_kind


class _AnalysedClips(ClipDataset):
    """Clips whose log-mel frames are already in memory."""

    def __init__(
        self,
        store: PreparedStore,
        feature_extractor: FeatureExtractor,
        frames: Mapping[int, Tensor],
    ) -> None:
        super().__init__(store, feature_extractor)
        self._analysed = frames

    def _frames_around(self, crop: Crop) -> tuple[Tensor, int]:
        return self._analysed[crop.clip], crop.first_frame


def score_chunk(
    cells: Sequence[SweepCell],
    chunk: Indices,
    cache: LogitCache,
    bar: Task,
    between: Callable[[], None],
) -> None:
    """Adds the scores of a chunk of clips to all cells; equal crops of one run are scored once."""
    store = cache.store
    parts = []
    for cell in cells:
        if crops := cell.crops_of(chunk, store):
            parts.append(_CellChunk(cell, crops, cell.cache_key(crops, cache)))
    scored = cache.read(chunk)
    new = {part.key: part for part in parts if part.key not in scored}
    waveforms = _waveforms(list(new.values()), store)
    for framing in dict.fromkeys(part.framing for part in new.values()):
        members = [part for part in new.values() if part.framing == framing]
        clips = {crop.clip for part in members for crop in part.crops}
        compute = members[0].cell.feature_extractor.frames
        frames = {clip: compute(waveforms[clip]) for clip in clips}
        for part in members:
            run = part.cell.run
            dataset = _AnalysedClips(store, part.cell.feature_extractor, frames)
            indices = [crop.clip for crop in part.crops]
            scored[part.key] = score_clips(
                run.model, dataset, indices, cache.precision, between=between
            )
            bar.advance(len(part.crops), part.cell.label)
    for part in parts:
        part.cell.add(part.crops, scored[part.key])
        if new.get(part.key) is not part:
            bar.advance(len(part.crops))
    if new:
        cache.write(chunk, {part.key: (scored[part.key], part.crops) for part in parts})


def _waveforms(parts: Sequence[_CellChunk], store: PreparedStore) -> dict[int, Waveform]:
    """The samples of each clip that its crops need, decoded once."""
    stops: dict[int, int] = {}
    for part in parts:
        for crop in part.crops:
            stop = part.cell.feature_extractor.samples_for(crop.num_frames)
            stops[crop.clip] = max(stops.get(crop.clip, 0), stop)
    return {clip: store.waveform(clip, 0, stop) for clip, stop in stops.items()}
