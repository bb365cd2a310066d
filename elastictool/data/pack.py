"""``elastictool.pack``: spectrograms of any lengths as one batch without padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from numbers import Integral
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from elastictool.config import Edge
from elastictool.data.collate import Example, PackSpec, collate
from elastictool.packing.batch import PackedBatch
from elastictool.utils.errors import UsageError

PatchSize = int | tuple[int, int]
"""(frequency, time) of a patch, or one number for both."""
Features = Tensor | npt.NDArray[Any]


def pack(
    features: Sequence[Features],
    targets: Tensor | npt.NDArray[Any] | Sequence[Any] | None = None,
    patch_size: PatchSize | list[PatchSize] = 16,
    stride: PatchSize | None = None,
    *,
    edge: Edge = "pad",
    pad_value: float = 0.0,
    prefix_tokens: int = 0,
    shift_ms: float = 10.0,
    clip_ids: Sequence[str] | None = None,
) -> PackedBatch:
    """Packs spectrograms into one stream of patches, for any model of elastictool.

    Args:
        features: S spectrograms (T, F), floating point and normalised, as ``fbank`` gives them;
            each has a length T of its own.
        targets: What the batch carries as ``targets``: (S,) class indices, or (S, C) with 1 where
            a clip has a class. ``cross_entropy`` takes both.
        patch_size: Mel bins and frames of a patch: a number, a pair (frequency, time), or a list
            with one of these for each clip.
        stride: Mel bins and frames from patch to patch; left out, patches lie side by side.
        edge: ``pad`` fills up an incomplete last patch, ``drop`` leaves it out.
        pad_value: What edges are padded with; 0 is the mean of normalised features.
        prefix_tokens: Tokens that the model puts before each clip's patches
            (``model.config.prefix_tokens``). Models lay out anew a batch with another number;
            pass it where ``batch.layout`` should count them.
        shift_ms: Milliseconds from frame to frame, for the positions in seconds.
        clip_ids: Names of the clips; their numbers if left out.

    Returns:
        The batch in float32, where the first spectrogram is. Gradients flow back to the features.

    Raises:
        UsageError: The features, targets or patch sizes are of other shapes or types.

    Source: ElasticAST (Interspeech 2024), Section 2.2, without its padding.
    """
    clips = [_spectrogram(values, index) for index, values in enumerate(features)]
    if not clips:
        raise UsageError("there is nothing to pack: features is empty", "give one clip or more")
    if len({clip.shape[1] for clip in clips}) > 1:
        bins = ", ".join(map(str, sorted({clip.shape[1] for clip in clips})))
        raise UsageError(f"the clips have different numbers of mel bins: {bins}")
    sizes = patch_size if isinstance(patch_size, list) else [patch_size] * len(clips)
    ids = [str(index) for index in range(len(clips))] if clip_ids is None else list(clip_ids)
    for name, given in (("patch sizes", sizes), ("clip_ids", ids)):
        if len(given) != len(clips):
            raise UsageError(f"{len(clips)} clips, but {len(given)} {name}", "give one for each")
    examples = [
        Example(clip, torch.zeros(0), name, shift_ms) for clip, name in zip(clips, ids, strict=True)
    ]
    specs = []
    for size in sizes:
        pair = _pair(size, "patch_size")
        step = pair if stride is None else _pair(stride, "stride")
        specs.append(PackSpec(pair, step, edge, pad_value, prefix_tokens))
    batch = collate([examples], specs)
    return replace(batch, targets=_targets(targets, len(clips))).to(clips[0].device)


def _spectrogram(values: Features, index: int) -> Tensor:
    clip = torch.as_tensor(values)
    if clip.dim() != 2 or 0 in clip.shape or not clip.is_floating_point():
        raise UsageError(
            f"features[{index}] is {tuple(clip.shape)} {str(clip.dtype).removeprefix('torch.')}",
            "a clip is (frames, mel bins), floating point, with one frame or more; "
            "elastictool.fbank makes it of a waveform",
        )
    return clip.float()


def _targets(targets: Tensor | npt.NDArray[Any] | Sequence[Any] | None, clips: int) -> Tensor:
    """Returns (S,) int64 class indices or (S, C) float; (S, 0) where there are none."""
    if targets is None:
        return torch.zeros(clips, 0)
    if isinstance(targets, (list, tuple)) and targets and isinstance(targets[0], Tensor):
        targets = torch.stack(list(targets))
    found = torch.as_tensor(targets)
    indices = found.dim() == 1 and not found.is_floating_point() and found.dtype != torch.bool
    if len(found.shape) == 0 or len(found) != clips or not (indices or found.dim() == 2):
        raise UsageError(
            f"targets are {tuple(found.shape)} {str(found.dtype).removeprefix('torch.')} "
            f"for {clips} clips",
            "give (clips,) class indices, or (clips, classes) with 1 where a clip has a class",
        )
    return found.long() if indices else found.float()


def _pair(value: PatchSize, name: str) -> tuple[int, int]:
    parts: Any = (value, value) if isinstance(value, Integral) else value
    sized = isinstance(parts, Sequence) and len(parts) == 2
    if not (sized and all(isinstance(part, Integral) and int(part) > 0 for part in parts)):
        raise UsageError(
            f"{name} = {value!r} is no size",
            "give a number above 0 or a pair (frequency, time); a list has one for each clip",
        )
    return int(parts[0]), int(parts[1])
