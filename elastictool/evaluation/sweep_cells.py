"""Score the cells of a sweep, a chunk of clips at a time.

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
Framing = tuple[FbankConfig, int, PoolKind]
"""What log-mel frames follow from: cells of one framing share them."""
Indices = npt.NDArray[np.int64]
Probabilities = npt.NDArray[np.float64]
Groups = npt.NDArray[np.str_]
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
      standard AST's are fitted by ``model.pos_embed_fit`` (the published figure's way is not
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

    def probabilities(self) -> tuple[Probabilities, Targets]:
        """(S, C) probabilities and targets in the order of the store, as in ``eval``."""
        order = np.argsort([crop.clip for crop in self.crops])
        logits = np.concatenate([scores.logits for scores in self.scores])[order]
        targets = np.concatenate([scores.targets for scores in self.scores])[order]
        return class_probabilities(logits, self.run.config.train.loss), targets

    def groups(self, store: PreparedStore) -> Groups:
        """(S,) groups of the clips in that order; empty is none."""
        return np.asarray(store.groups[np.sort([crop.clip for crop in self.crops])])

    def gflops(self) -> float:
        """Forward operations of all clips, in 1e9."""
        model, size = self.run.config.model, self.feature_extractor.patch_size
        counts = Counter(self.feature_extractor.num_patches(crop) for crop in self.crops)
        return sum(n * forward_flops(model, count, size) for count, n in counts.items()) / 1e9


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

    def crop_frames(self, crop: Crop) -> Tensor:
        return self._analysed[crop.clip][crop.first_frame : crop.first_frame + crop.num_frames]


def score_chunk(
    cells: Sequence[SweepCell],
    chunk: Indices,
    cache: LogitCache,
    bar: Task,
    between: Callable[[], None],
) -> None:
    """Adds the scores of a chunk of clips to all cells; equal crops of one run are scored once."""
    store, scored = cache.store, cache.read(chunk)
    parts: list[tuple[SweepCell, Crops, str]] = []
    new: dict[Framing, dict[str, tuple[SweepCell, Crops]]] = {}
    stops: dict[int, int] = {}
    for cell in cells:
        if not (crops := cell.crops_of(chunk, store)):
            continue
        extractor = cell.feature_extractor
        # What a length does to a clip is in its crop, so cells of several lengths have one key.
        own_length = dataclasses.replace(extractor, length=cell.run.feature_extractor.length)
        key = cache.key(cell.run, own_length, crops)
        framing = extractor.fbank, extractor.pool, extractor.pool_kind
        parts.append((cell, crops, key))
        if key in scored or key in new.setdefault(framing, {}):
            bar.advance(len(crops))
            continue
        new[framing][key] = cell, crops
        for crop in crops:
            stop = extractor.samples_for(crop.num_frames)
            stops[crop.clip] = max(stops.get(crop.clip, 0), stop)
    waveforms = {clip: store.waveform(clip, 0, stop) for clip, stop in stops.items()}
    for members in new.values():
        frames: dict[int, Tensor] = {}
        for key, (cell, crops) in members.items():
            extractor, indices = cell.feature_extractor, [crop.clip for crop in crops]
            for clip in indices:
                if clip not in frames:
                    frames[clip] = extractor.frames(waveforms[clip])
            dataset = _AnalysedClips(store, extractor, frames)
            scored[key] = score_clips(
                cell.run.model, dataset, indices, cache.precision, between=between
            )
            where = f"{cell.value:g}" if cell.value else "its own setting"
            bar.advance(len(crops), f"{cell.run.name} at {where}")
    for cell, crops, key in parts:
        cell.crops.extend(crops)
        cell.scores.append(scored[key])
    if stops:
        cache.write(chunk, {key: (scored[key], crops) for _, crops, key in parts})
