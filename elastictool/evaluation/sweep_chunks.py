"""A chunk of clips at all points of a sweep: decoded once, analysed once, scored once a view."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from elastictool.audio.framing import Framing
from elastictool.checkpoint.weights import LoadedRun
from elastictool.data.dataset import ClipDataset
from elastictool.data.feature_extractor import Crop, FeatureExtractor
from elastictool.data.store import PreparedStore
from elastictool.evaluation.evaluate import class_probabilities
from elastictool.evaluation.flops import forward_flops
from elastictool.evaluation.logit_cache import KeptScores
from elastictool.evaluation.points import Identity
from elastictool.training.predict_logits import Scores, score_clips
from elastictool.utils.progress import Task

Views = tuple[Crop, ...]
Indices = npt.NDArray[np.int64]
Probabilities = npt.NDArray[np.float64]
Targets = npt.NDArray[np.float32]


@dataclass
class Setting:
    """One run at one value of the axis (None: its own) on its clips, and what they gave so far."""

    axis: str
    run: LoadedRun
    feature_extractor: FeatureExtractor
    value: float | None
    clips: Indices
    views: list[Crop] = field(default_factory=list)
    scores: list[Scores] = field(default_factory=list)

    @property
    def label(self) -> str:
        """For the progress bar."""
        return f"{self.run.name} at {f'{self.value:g}' if self.value else 'its own setting'}"

    @property
    def front_end_but_length(self) -> FeatureExtractor:
        """With the run's own length: what a length does to a clip is in its view."""
        return dataclasses.replace(self.feature_extractor, length=self.run.feature_extractor.length)

    def views_of(self, chunk: Indices, store: PreparedStore) -> Views:
        """Views of those clips of ``chunk`` that the run is evaluated on."""
        count = self.feature_extractor.framing.num_frames
        return tuple(
            self.feature_extractor.crop(clip, count(int(store.num_samples[clip])))
            for clip in np.intersect1d(chunk, self.clips).tolist()
        )

    @property
    def ways(self) -> tuple[str, str]:
        """How positions and kernels are fitted, as its points say it."""
        model = self.run.config.model
        return (
            model.pos_embed_fit if model.pos_embed == "grid" else "",
            model.resize if self.axis == "patch_size" else "",
        )

    @property
    def identity(self) -> Identity:
        """That of the point that it becomes."""
        return (self.run.name, *self.ways, self.value)

    def add(self, views: Views, scores: Scores) -> None:
        """Keep the scores of a chunk."""
        self.views.extend(views)
        self.scores.append(scores)

    def answers(self) -> tuple[Probabilities, Targets]:
        """(S, C) probabilities and targets in the order of the store, as in ``eval``."""
        order = np.argsort([view.clip for view in self.views])
        logits = np.concatenate([scores.logits for scores in self.scores])[order]
        targets = np.concatenate([scores.targets for scores in self.scores])[order]
        return class_probabilities(logits, self.run.config.train.loss), targets

    def gflops(self) -> float:
        """For all clips, in 1e9 operations."""
        model, size = self.run.config.model, self.feature_extractor.patch_size
        counts = Counter(self.feature_extractor.num_patches(view) for view in self.views)
        return sum(n * forward_flops(model, count, size) for count, n in counts.items()) / 1e9


@dataclass(frozen=True)
class _Seen:
    """A chunk of clips at one setting.

    Attributes:
        setting: The setting.
        views: Views of those clips of the chunk that its run is evaluated on.
        key: The same for settings that see the same.
    """

    setting: Setting
    views: Views
    key: str

    @classmethod
    def of(cls, setting: Setting, chunk: Indices, store: PreparedStore, kept: KeptScores) -> _Seen:
        """What a setting sees of a chunk."""
        views = setting.views_of(chunk, store)
        return cls(setting, views, kept.key(setting.run, setting.front_end_but_length, views))

    @property
    def clips(self) -> list[int]:
        """Their indices in the store."""
        return [view.clip for view in self.views]


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

    def _frames(self, view: Crop) -> tuple[Tensor, Crop]:
        return self._analysed[view.clip], view


def score_chunk(
    settings: Sequence[Setting],
    store: PreparedStore,
    chunk: Indices,
    precision: str,
    bar: Task,
    kept: KeptScores,
    between: Callable[[], None],
) -> None:
    """Score a chunk of clips at all settings; equal views of one run are scored once."""
    seen = [_Seen.of(setting, chunk, store, kept) for setting in settings]
    known = kept.read(chunk)
    new = {item.key: item for item in seen if item.views and item.key not in known}
    waveforms = _waveforms(list(new.values()), store)
    for framing, members in _by_analysis(list(new.values())).items():
        clips = {view.clip for item in members for view in item.views}
        frames = {clip: framing.frames(waveforms[clip]) for clip in clips}
        for item in members:
            analysed = _AnalysedClips(store, item.setting.feature_extractor, frames)
            model = item.setting.run.model
            known[item.key] = score_clips(model, analysed, item.clips, precision, between=between)
            bar.advance(len(item.views), item.setting.label)
    for item in (item for item in seen if item.views):
        item.setting.add(item.views, known[item.key])
        if new.get(item.key) is not item:
            bar.advance(len(item.views))
    if new:
        kept.write(chunk, {item.key: (known[item.key], item.clips) for item in seen if item.views})


def _waveforms(seen: Sequence[_Seen], store: PreparedStore) -> dict[int, Tensor]:
    """The samples of each clip that its views need, decoded once."""
    stops: dict[int, int] = {}
    for item in seen:
        for view in item.views:
            stop = item.setting.feature_extractor.framing.samples_for(view.num_frames)
            stops[view.clip] = max(stops.get(view.clip, 0), stop)
    return {clip: torch.from_numpy(store.waveform(clip, 0, stop)) for clip, stop in stops.items()}


def _by_analysis(seen: Sequence[_Seen]) -> dict[Framing, list[_Seen]]:
    """What shares its log-mel frames."""
    groups: dict[Framing, list[_Seen]] = {}
    for item in seen:
        groups.setdefault(item.setting.feature_extractor.framing, []).append(item)
    return groups
