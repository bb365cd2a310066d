"""Logits of many clips: the one inference loop, used by validation, evaluation and sweeps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from elastictool.data.dataset import ClipDataset, ClipView
from elastictool.data.feed import HOST, Feed
from elastictool.data.loader import load_batches
from elastictool.data.samplers import BatchPlan
from elastictool.models.attention.base import ATTENTION
from elastictool.models.transformer import SpectrogramTransformer
from elastictool.progress import SILENT, Progress
from elastictool.training.leaving import memory_told

_MEMORY_HINT = (
    "batches are small here, so only shorter clips need less: lower length.max_frames in "
    "training, --lengths in a sweep; or close other programs"
)


@dataclass(frozen=True)
class Scores:
    """What a model says of S clips.

    Attributes:
        logits: (S, C) float32.
        targets: (S, C) float32, 1 where a clip has a class.
        clip_ids: Ids of the clips (S).
        tokens: Tokens processed, prefix tokens included, filler not.
        cut_frames: Frames that length limits cut off, over all clips.
        seconds: Wall time of loading and computing.
    """

    logits: npt.NDArray[np.float32]
    targets: npt.NDArray[np.float32]
    clip_ids: tuple[str, ...]
    tokens: int
    cut_frames: int
    seconds: float


def score_clips(
    model: SpectrogramTransformer,
    dataset: ClipDataset,
    clips: Sequence[int] | npt.NDArray[np.int64],
    precision: str = "fp32",
    max_tokens: int = 8_192,
    workers: int = 0,
    progress: Progress = SILENT,
    between: Callable[[], None] = lambda: None,
    feed: Feed = HOST,
) -> Scores:
    """Logits of ``clips``, in their order.

    Clips are batched by length, shortest first, up to ``max_tokens`` a batch; packing changes no
    clip's result (a property that the tests hold), so this is only a matter of speed.

    Args:
        model: On its device.
        dataset: The clips, seen through the run's front end.
        clips: Indices in the store.
        precision: ``fp32`` or ``bf16``.
        max_tokens: Of a batch.
        workers: Loader processes.
        progress: Where to show a bar.
        between: Called before each batch; may raise to stop.
        feed: How batches reach the model.

    Raises:
        ValueError: ``clips`` is empty.
        OutOfMemory: A batch does not fit.
    """
    if len(clips) == 0:
        raise ValueError("no clips to score")
    device = next(model.parameters()).device
    frames = dataset.native_frames
    views = [dataset.front_end.view(int(clip), int(frames[clip])) for clip in clips]
    order = sorted(range(len(views)), key=lambda place: views[place].total_frames)
    plans = [
        BatchPlan(0, (tuple(views[place] for place in places),))
        for places in _by_budget(order, views, dataset, model.config.prefix_tokens, max_tokens)
    ]
    batches = load_batches(
        plans,
        dataset,
        model.config.prefix_tokens,
        ATTENTION[model.attention].padded_rows,
        workers,
        feed=feed,
    )
    logits: list[Tensor] = []
    targets: list[Tensor] = []
    clip_ids: list[str] = []
    tokens = cut_frames = 0
    started = time.perf_counter()
    with _evaluating(model), progress.task("scoring clips", len(views)) as bar:
        for batch in batches:
            between()
            with memory_told((batch,), _MEMORY_HINT), autocast(device, precision):
                logits.append(model(batch.to(device)).float().cpu())
            targets.append(batch.targets.cpu())
            clip_ids.extend(batch.clip_ids)
            tokens += batch.layout.num_tokens
            cut_frames += batch.cut_frames
            bar.advance(batch.num_clips)
    back = np.argsort(np.array(order))
    return Scores(
        logits=torch.cat(logits).numpy()[back],
        targets=torch.cat(targets).numpy()[back],
        clip_ids=tuple(clip_ids[place] for place in back.tolist()),
        tokens=tokens,
        cut_frames=cut_frames,
        seconds=time.perf_counter() - started,
    )


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """bf16 matrix products where ``precision`` is ``bf16``; float32 otherwise."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


class _evaluating:
    """Evaluation mode without gradients inside, the former mode restored after."""

    def __init__(self, model: SpectrogramTransformer) -> None:
        self._model, self._was_training = model, model.training
        self._no_grad = torch.inference_mode()

    def __enter__(self) -> None:
        self._model.eval()
        self._no_grad.__enter__()

    def __exit__(self, *exc: object) -> None:
        self._no_grad.__exit__(None, None, None)
        self._model.train(self._was_training)


def _by_budget(
    order: Sequence[int],
    views: Sequence[ClipView],
    dataset: ClipDataset,
    prefix_tokens: int,
    max_tokens: int,
) -> Iterator[list[int]]:
    """Cut ``order`` into runs of at most ``max_tokens`` tokens, at least one clip each."""
    batch: list[int] = []
    total = 0
    for place in order:
        tokens = dataset.front_end.num_patches(views[place]) + prefix_tokens
        if batch and total + tokens > max_tokens:
            yield batch
            batch, total = [], 0
        batch.append(place)
        total += tokens
    yield batch
