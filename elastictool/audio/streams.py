"""Filterbanks of many clips at once, as a GPU wants them.

A GPU computes the frames of one clip faster than the calls for it can be made, so the clips of a
batch travel as one stream of samples, and frames are cut out of it wherever they begin: clips of
any lengths and frame shifts take a handful of calls together. Frames are computed in blocks of
bounded size, so a long clip needs no more room for the transform than a short one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from elastictool.audio.frontends import FRONT_ENDS
from elastictool.config import FbankConfig


def prepare_clip(waveform: Tensor, config: FbankConfig) -> Tensor:
    """What the front end does to a clip (n,) as a whole: samples ready to be put into a stream."""
    with torch.inference_mode(False), torch.no_grad():
        return FRONT_ENDS[config.frontend].prepare(waveform, config)


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


def stream_fbank(samples: Tensor, frame_starts: Tensor, config: FbankConfig, out: Tensor) -> None:
    """Fill ``out`` with the log-mel frames that begin at these places of a stream.

    Args:
        samples: (n,) joined clips, on any device.
        frame_starts: (T,) int64 first sample of each frame, on the same device.
        config: Window and mel bins; shift and length are in the places already.
        out: (T, F) of the samples' type and device.
    """
    if len(out) == 0:
        return

    def take(stream: Tensor, first: int, stop: int) -> Tensor:
        windows = stream.unfold(0, config.window_samples, 1)
        return windows.index_select(0, frame_starts[first:stop])

    with torch.inference_mode(False), torch.no_grad():
        FRONT_ENDS[config.frontend].analyse(samples, take, config, out)
