"""Computes log-mel frames of one clip, or of many at once on a GPU, and pools them over time.

A kind of filterbank (``config.FRONTENDS``) is a module with two functions: one for a clip as a
whole, and one for frames wherever they were cut out. A GPU computes the frames of one clip faster
than the calls for it can be made, so there the clips of a batch travel as one stream of samples,
and clips of any lengths and frame shifts take a handful of calls together.

The host computes where frames begin, once (``FbankConfig.frame_position``), without a device. The
stream is cut down to the frames of a block before they are indexed: all overlapping windows of a
stream of minutes are more values than 32 bits count, and CUDA indexes those more slowly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from typing import Protocol, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from elastictool.config import FRONTENDS, FbankConfig, PoolKind
from elastictool.config.fbank import Count

Integers = npt.NDArray[np.int64]
TakeFrames = Callable[[Tensor, int, int], Tensor]
"""(samples, first, stop) to the (stop - first, window) samples of these frames."""

MOST_VALUES = 2**31 - 1
"""Of all windows, overlapping, that frames are gathered from at once."""


class Frontend(Protocol):
    """Interface of a filterbank module; its functions are called without gradients."""

    @property
    def FLOOR(self) -> float:
        """Value of silence, and the smallest there is."""
        ...

    def prepare(self, waveform: Tensor, config: FbankConfig) -> Tensor:
        """Returns prepared (n,) samples: frame k begins at ``config.frame_position(k)``."""
        ...

    def analyse(self, samples: Tensor, take: TakeFrames, config: FbankConfig, out: Tensor) -> None:
        """Fills the (T, F) ``out``, T at least 1.

        The samples are of one clip, or of several with a zero before each.
        """
        ...


@cache
def frontend(name: str) -> Frontend:
    """Returns the filterbank module called ``name``."""
    return cast(Frontend, import_module(FRONTENDS[name].module))


def fbank(waveform: Tensor, config: FbankConfig) -> Tensor:
    """Returns log-mel frames of one clip, not normalised.

    Frame k covers ``config.window_samples`` from ``config.frame_start(k)``.

    Args:
        waveform: (n,) float32 or float64 samples at ``config.sample_rate_hz``, CPU or CUDA;
            left as they are.
        config: Kind of filterbank, window, shift and mel bins.

    Returns:
        (T, F) natural-log mel energies, at least the filterbank's floor, of the waveform's
        dtype and device; T is ``config.num_frames(n)``, 0 for a clip that is too short. No
        gradient flows back to the waveform.

    Raises:
        ValueError: The waveform has another shape or dtype.
    """
    if waveform.dim() != 1 or waveform.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"fbank takes (n,) float32 or float64, not {tuple(waveform.shape)} {waveform.dtype}"
        )
    # A tensor born in inference mode is tied to it: neither cache nor result may be.
    with torch.inference_mode(False), torch.no_grad():
        own = config.own_frames(len(waveform))
        frames = waveform.new_empty((own, config.num_mel_bins))
        if own == 0:
            return frames
        starts = config.frame_position(np.arange(own))
        fill_frames(prepare_clip(waveform, config), starts, config, frames)
        repeated = config.num_frames(len(waveform)) - own
        return torch.cat((frames, frames[-1:].expand(repeated, -1))) if repeated else frames


def prepare_clip(waveform: Tensor, config: FbankConfig) -> Tensor:
    """Returns the samples of a clip (n,), ready to be put into a stream."""
    with torch.inference_mode(False), torch.no_grad():
        return frontend(config.frontend).prepare(waveform, config)


def join_clips(clips: Sequence[Tensor]) -> tuple[Tensor, tuple[int, ...]]:
    """Joins prepared clips, a zero before each; returns them and where each first sample is.

    Pre-emphasis of a clip's first sample sees this zero and not the clip before it.
    """
    starts, end = [], 0
    for clip in clips:
        starts.append(end + 1)
        end += 1 + len(clip)
    stream = torch.zeros(end)
    for start, clip in zip(starts, clips, strict=True):
        stream[start : start + len(clip)] = clip
    return stream, tuple(starts)


def fill_frames(
    samples: Tensor,
    starts: Integers,
    config: FbankConfig,
    out: Tensor,
    device_starts: Tensor | None = None,
) -> None:
    """Fills ``out`` with the log-mel frames that begin at ``starts`` in a stream.

    Frames are computed in blocks of bounded size, so a long clip needs no more room for the
    transform than a short one.

    Args:
        samples: (n,) a prepared clip or joined clips, on any device.
        starts: (T,) first sample of each frame.
        config: Window and mel bins; ``starts`` has shift and length already.
        out: (T, F) of the samples' type and device.
        device_starts: (T,) ``starts`` on the samples' device, where a copy would wait for it.
    """
    if len(out) == 0:
        return
    window = config.window_samples

    def take(stream: Tensor, first: int, stop: int) -> Tensor:
        part = starts[first:stop]
        low, high = int(part.min()), int(part.max())
        steps = np.diff(part)  # where all are the same, frames are a view
        step = int(steps[0]) if len(steps) else 1
        if step > 0 and (steps == step).all():
            return stream[low : high + window].unfold(0, window, step)
        if (high - low + 1) * window > MOST_VALUES and stop - first > 1:
            middle = (first + stop) // 2
            return torch.cat((take(stream, first, middle), take(stream, middle, stop)))
        indices = device_starts
        if indices is None:
            indices = torch.from_numpy(starts).to(stream.device)
        windows = stream[low : high + window].unfold(0, window, 1)
        return windows.index_select(0, indices[first:stop] - low)

    with torch.inference_mode(False), torch.no_grad():
        frontend(config.frontend).analyse(samples, take, config, out)


def pooled_count(frames: Count, size: int) -> Count:
    """Counts whole groups of ``size`` in ``frames``; fewer frames make one group."""
    return frames // size + ((frames > 0) & (frames < size))


def pool_frames(frames: Tensor, size: int, kind: PoolKind) -> Tensor:
    """Pools frames over time as a layer with kernel and stride 1 x ``size`` does.

    Args:
        frames: (T, F) log-mel frames. Normalised or not makes no difference: both kinds of
            pooling go through a rising straight line.
        size: Frames that become one; a last incomplete group is left out, except where there is
            no other.
        kind: ``average`` or ``max``.

    Returns:
        (T // size, F), at least one frame; ``frames`` itself for size 1.

    Source: ElasticAST Section 3.5, average pooling; the published code pools the maximum, before
        it pads and normalises.
    """
    if size == 1:
        return frames
    count = pooled_count(len(frames), size)
    size = min(size, len(frames))
    groups = frames[: count * size].reshape(count, size, frames.shape[1])
    return groups.mean(dim=1) if kind == "average" else groups.amax(dim=1)


def pool_groups(frames: Tensor, sizes: Tensor, kind: PoolKind) -> Tensor:
    """Returns (T', F) frames, pooled in groups of ``sizes`` (T',); see ``pool_frames``."""
    how = "mean" if kind == "average" else "max"
    # "unsafe" leaves out a check of the sizes that would wait for the device.
    pooled: Tensor = torch.segment_reduce(frames, how, lengths=sizes, axis=0, unsafe=True)
    return pooled
