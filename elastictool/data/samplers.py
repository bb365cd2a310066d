"""Which views of which clips form the batches of an epoch: metadata only, no audio.

Everything random about a training batch (order, shorter views) is drawn here from the run's seed
and the epoch, and rows are planned here, so batches are known before a byte is read and are the
same for any number of loader workers and after any interruption.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from elastictool.config import LengthDiversityConfig, PackingConfig
from elastictool.data.dataset import ClipView, FrontEnd
from elastictool.packing.batching import batch_starts
from elastictool.packing.planners import PLANNERS
from elastictool.seeds import clip_rng


@dataclass(frozen=True)
class BatchPlan:
    """One batch before it is loaded.

    Attributes:
        epoch: The epoch it belongs to (masks depend on it).
        rows: The views of each row.
    """

    epoch: int
    rows: tuple[tuple[ClipView, ...], ...]

    @property
    def num_views(self) -> int:
        """Views in the batch: its clips, and added shorter views."""
        return sum(len(row) for row in self.rows)


@dataclass(frozen=True)
class TrainingSampler:
    """Plans the training batches of any epoch.

    Attributes:
        clips: Indices of the training clips.
        native_frames: Frames of each clip of the store.
        front_end: Gives the length limits and token counts.
        diversity: Random shorter views.
        packing: Batch size and planner.
        prefix_tokens: Prefix tokens of the model, which take room in a row.
        seed: The run's seed.
    """

    clips: npt.NDArray[np.int64]
    native_frames: npt.NDArray[np.int64]
    front_end: FrontEnd
    diversity: LengthDiversityConfig
    packing: PackingConfig
    prefix_tokens: int
    seed: int

    def epoch(self, epoch: int) -> Iterator[BatchPlan]:
        """The batches of ``epoch``, in order."""
        views = self._epoch_views(epoch)
        tokens = np.array([sum(map(self._tokens, group)) for group in views], dtype=np.int64)
        starts = batch_starts(tokens, self.packing)
        for start, stop in zip(starts, [*starts[1:], len(views)], strict=True):
            yield self._plan(epoch, [view for group in views[start:stop] for view in group])

    def num_batches(self, epoch: int) -> int:
        """Batches of ``epoch``; with a token budget they differ from epoch to epoch."""
        if not self.packing.batch_tokens:
            return -(-len(self.clips) // self.packing.batch_clips)
        return sum(1 for _ in self.epoch(epoch))

    def _plan(self, epoch: int, views: Sequence[ClipView]) -> BatchPlan:
        lengths = [self._tokens(view) for view in views]
        rows = PLANNERS[self.packing.planner](lengths, self.packing.capacity)
        return BatchPlan(epoch, tuple(tuple(views[index] for index in row) for row in rows))

    def _tokens(self, view: ClipView) -> int:
        return self.front_end.num_patches(view) + self.prefix_tokens

    def _epoch_views(self, epoch: int) -> list[list[ClipView]]:
        """The views of each clip, in the epoch's order.

        Draws are made for all clips at once and indexed by clip, so that a clip's views depend on
        (seed, epoch, clip) alone and not on its place in the order.
        """
        count = len(self.clips)
        order = clip_rng(self.seed, epoch, 0, "order").permutation(count)
        draws = clip_rng(self.seed, epoch, 0, "views").random((count, 5))
        return [self._clip_views(int(self.clips[i]), draws[i].tolist()) for i in order.tolist()]

    def _clip_views(self, clip: int, draws: list[float]) -> list[ClipView]:
        wanted, kind, length, place, crop = draws
        whole = self._whole_view(clip, crop)
        if wanted >= self.diversity.share:
            return [whole]
        shorter = self._shorter_view(whole, kind, length, place)
        if self.diversity.mode == "replace":
            return [replace(shorter, repeat=0)]
        return [whole] if shorter.num_frames == whole.num_frames else [whole, shorter]

    def _whole_view(self, clip: int, place: float) -> ClipView:
        view = self.front_end.view(clip, int(self.native_frames[clip]))
        if self.front_end.length.crop == "start":
            return view
        return replace(view, first_frame=_place(view.native_frames - view.num_frames, place))

    def _shorter_view(self, whole: ClipView, kind: float, length: float, place: float) -> ClipView:
        least = min(self.diversity.min_frames, whole.num_frames)
        num_frames = round(least * (whole.num_frames / least) ** length)
        is_prefix = kind < self.diversity.prefix_share
        offset = 0 if is_prefix else _place(whole.num_frames - num_frames, place)
        return replace(
            whole,
            first_frame=whole.first_frame + offset,
            num_frames=num_frames,
            pad_to=0,
            repeat=1,
        )


def _place(room: int, draw: float) -> int:
    """A uniform start within ``room`` spare frames."""
    return int(draw * (room + 1)) if room > 0 else 0
