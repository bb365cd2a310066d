"""Compute logits of many clips: the inference loop of validation, evaluation and sweeps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from elastictool.data.dataset import ClipDataset
from elastictool.data.device_transfer import HOST, DeviceTransfer
from elastictool.data.feature_extractor import Crop
from elastictool.data.loader import load_batches
from elastictool.data.samplers import BatchPlan
from elastictool.data.splits import require_frames
from elastictool.models.attention.base import ATTENTION
from elastictool.models.transformer import SpectrogramTransformer
from elastictool.packing.batch import PackedBatch
from elastictool.packing.planners import assign_lpt
from elastictool.training.distributed import SINGLE, Ranks
from elastictool.training.interrupts import report_oom
from elastictool.utils.progress import SILENT, Progress, Task
from elastictool.utils.signals import Stopped

_MEMORY_HINT = (
    "batches are small here, so only shorter clips need less: lower length.max_frames in "
    "training, --lengths in a sweep, --window for recordings; or close other programs"
)


@dataclass(frozen=True)
class Scores:
    """The outputs of a model for S clips.

    Attributes:
        logits: (S, C) float32.
        targets: (S, C) float32, 1 where a clip has a class.
        clip_ids: Ids of the clips (S).
        tokens: Tokens processed, with prefix tokens, without padding.
        cut_frames: Frames that length limits cut off, over all clips.
        seconds: Wall time of loading and computing.
    """

    logits: npt.NDArray[np.float32]
    targets: npt.NDArray[np.float32]
    clip_ids: tuple[str, ...]
    tokens: int
    cut_frames: int
    seconds: float


class ScoringOptions(TypedDict, total=False):
    """Optional arguments of ``score_clips``."""

    workers: int
    progress: Progress
    between: Callable[[], None]
    transfer: DeviceTransfer


def score_clips(
    model: SpectrogramTransformer,
    dataset: ClipDataset,
    clips: Sequence[int] | npt.NDArray[np.int64],
    precision: str = "fp32",
    max_tokens: int = 8_192,
    workers: int = 0,
    progress: Progress = SILENT,
    between: Callable[[], None] = lambda: None,
    ranks: Ranks = SINGLE,
    transfer: DeviceTransfer = HOST,
) -> Scores:
    """Returns logits of ``clips``, in their order.

    Clips are batched by length, shortest first, up to ``max_tokens`` a batch. Packing changes no
    clip's result, as the tests show, so batches are only a matter of speed. They are the same for
    any number of processes that share them, and so are the results.

    Args:
        model: On its device.
        dataset: The clips, with the run's feature extractor.
        clips: Indices in the store.
        precision: ``fp32`` or ``bf16``.
        max_tokens: Of a batch.
        workers: Loader processes.
        progress: Where to show a bar.
        between: Called before each batch; may raise ``Stopped``.
        ranks: The processes that share the work; each gets all scores.
        transfer: How batches reach the model.

    Raises:
        ValueError: ``clips`` is empty.
        UsageError: A clip is shorter than the analysis window.
        OutOfMemory: A batch does not fit.
        Stopped: ``between`` raised it, in any of the processes.
    """
    if len(clips) == 0:
        raise ValueError("no clips to score")
    require_frames(dataset.store, np.asarray(clips), dataset.feature_extractor.fbank)
    started = time.perf_counter()
    prefix_tokens = model.config.prefix_tokens
    frames = dataset.native_frames
    crops = [dataset.feature_extractor.crop(int(clip), int(frames[clip])) for clip in clips]
    batches = _by_budget(crops, dataset, prefix_tokens, max_tokens)
    shares = assign_lpt([tokens for tokens, _ in batches], [0] * ranks.world)
    spec = dataset.feature_extractor.pack_spec(
        prefix_tokens, ATTENTION[model.attention].padded_rows
    )
    plans = [
        BatchPlan(0, (tuple(crops[index] for index in batches[number][1]),), spec)
        for number in shares[ranks.rank]
    ]
    loaded = load_batches(plans, dataset, workers, transfer=transfer)
    with progress.task("scoring clips", sum(plan.num_crops for plan in plans)) as bar:
        own = _score(model, loaded, precision, bar, between)
    found = ranks.gather(own)
    scored: dict[int, Scores] = {}
    for share, part in zip(shares, found, strict=True):
        if part is None:
            raise Stopped
        scored.update(zip(share, part, strict=True))
    parts = [scored[number] for number in range(len(batches))]
    back = np.argsort([index for _, places in batches for index in places])
    clip_ids = [clip for part in parts for clip in part.clip_ids]
    return Scores(
        logits=np.concatenate([part.logits for part in parts])[back],
        targets=np.concatenate([part.targets for part in parts])[back],
        clip_ids=tuple(clip_ids[index] for index in back.tolist()),
        tokens=sum(part.tokens for part in parts),
        cut_frames=sum(part.cut_frames for part in parts),
        seconds=time.perf_counter() - started,
    )


def _score(
    model: SpectrogramTransformer,
    batches: Iterable[PackedBatch],
    precision: str,
    bar: Task,
    between: Callable[[], None],
) -> list[Scores] | None:
    """Returns the scores of each batch, not timed; None where ``between`` stopped this process."""
    scored, was_training = [], model.training
    model.eval()
    try:
        with torch.inference_mode():
            for batch in batches:
                between()
                logits, targets = run_batch(model, batch, model, precision), batch.targets.cpu()
                counts = batch.layout.num_tokens, batch.cut_frames
                scored.append(Scores(logits, targets.numpy(), batch.clip_ids, *counts, seconds=0.0))
                bar.advance(batch.num_clips)
    except Stopped:  # the other processes stop when they gather the scores
        return None
    finally:
        model.train(was_training)
    return scored


def run_batch(
    compute: Callable[[PackedBatch], Tensor],
    batch: PackedBatch,
    model: SpectrogramTransformer,
    precision: str,
) -> npt.NDArray[np.float32]:
    """Returns ``compute``'s values of a batch, on the model's device, as float32 on the host.

    Raises:
        OutOfMemory: The batch does not fit.
    """
    device = next(model.parameters()).device
    with report_oom((batch,), _MEMORY_HINT), autocast(device, precision):
        values: npt.NDArray[np.float32] = compute(batch.to(device)).float().cpu().numpy()
    return values


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Computes matrix products in bf16 where ``precision`` is ``bf16``; else in float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def _by_budget(
    crops: Sequence[Crop], dataset: ClipDataset, prefix_tokens: int, max_tokens: int
) -> list[tuple[int, list[int]]]:
    """Returns tokens and clip indices of batches of at most ``max_tokens`` tokens, or one clip."""
    batches: list[tuple[int, list[int]]] = []
    for index in sorted(range(len(crops)), key=lambda index: crops[index].total_frames):
        tokens = dataset.feature_extractor.num_patches(crops[index]) + prefix_tokens
        if batches and batches[-1][0] + tokens <= max_tokens:
            total, places = batches[-1]
            places.append(index)
            batches[-1] = (total + tokens, places)
        else:
            batches.append((tokens, [index]))
    return batches
