"""Filterbanks of many clips at once, as a GPU wants them.

A GPU computes the frames of one clip faster than the calls for it can be made, so the clips of a
batch travel as one stream of samples, and frames are cut out of it wherever they begin: clips of
any lengths and frame shifts take a handful of calls together. Frames are computed in blocks of
bounded size, so a long clip needs no more room for the transform than a short one.

Where the frames of a block lie, the host knows too, and cuts the stream down to them first: all
overlapping windows of a stream of minutes are more values than 32 bits count, and CUDA gathers
more slowly from those.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from elastictool.audio.extractors import EXTRACTORS
from elastictool.config import FbankConfig

MOST_VALUES = 2**31 - 1
"""Of all windows, overlapping, that frames are gathered from at once."""


def prepare_clip(waveform: Tensor, config: FbankConfig) -> Tensor:
    """What the front end does to a clip (n,) as a whole: samples ready to be put into a stream."""
    with torch.inference_mode(False), torch.no_grad():
        return EXTRACTORS[config.frontend].prepare(waveform, config)


def join_clips(clips: Sequence[Tensor]) -> tuple[Tensor, tuple[int, ...]]:
    """Prepared clips as one stream, a zero before each, and the place of each one's first sample.

    The zero is what pre-emphasis finds before a clip, so no clip hears the one before it.
    """
    starts, end = [], 0
    for clip in clips:
        starts.append(end + 1)
        end += 1 + len(clip)
    stream = torch.zeros(end)
    for start, clip in zip(starts, clips, strict=True):
        stream[start : start + len(clip)] = clip
    return stream, tuple(starts)


def stream_fbank(
    samples: Tensor,
    frame_starts: Tensor,
    places: npt.NDArray[np.int64],
    config: FbankConfig,
    out: Tensor,
) -> None:
    """Fill ``out`` with the log-mel frames that begin at these places of a stream.

    Args:
        samples: (n,) joined clips, on any device.
        frame_starts: (T,) int64 first sample of each frame, on the same device.
        places: (T,) the same on the host, so that no device is asked for them.
        config: Window and mel bins; shift and length are in the places already.
        out: (T, F) of the samples' type and device.
    """
    if len(out) == 0:
        return
    window = config.window_samples

    def take(stream: Tensor, first: int, stop: int) -> Tensor:
        low, high = int(places[first:stop].min()), int(places[first:stop].max())
        if (high - low + 1) * window > MOST_VALUES and stop - first > 1:
            middle = (first + stop) // 2
            return torch.cat((take(stream, first, middle), take(stream, middle, stop)))
        windows = stream[low : high + window].unfold(0, window, 1)
        return windows.index_select(0, frame_starts[first:stop] - low)

    with torch.inference_mode(False), torch.no_grad():
        EXTRACTORS[config.frontend].analyse(samples, take, config, out)
