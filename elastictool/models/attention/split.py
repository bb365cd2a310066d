"""Attention segment by segment over the flat stream: no padding, no mask, no wasted products.

The stream is cut with ``split`` (the backward of a slice would fill a tensor as large as the
stream, for every segment); neighbours of equal length, such as all clips of a standard AST, go
through one call.
"""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import groupby
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from elastictool.models.attention.base import ATTENTION, AttentionBackend
from elastictool.packing.layout import PAD, SegmentLayout

MATRIX_PRODUCT_TOKENS = 1_024
"""Up to this length, bfloat16 on a CPU is about twice as fast by plain matrix products as by the
fused kernel, at the price of the weights' memory and of scores that are rounded to bfloat16 before
the softmax (the fused kernel keeps them in float32): the outputs' error grows with the scores, from
0.2 to 0.4 % at a deviation of 1, to 2 % at 16."""


class Run(NamedTuple):
    """``copies`` neighbouring spans of ``length`` tokens, all segments or all padding."""

    copies: int
    length: int
    padding: bool


@lru_cache(maxsize=8)
def equal_runs(span_lengths: tuple[int, ...], span_segments: tuple[int, ...]) -> tuple[Run, ...]:
    """Groups neighbouring spans of equal length."""
    spans = zip(span_lengths, (segment == PAD for segment in span_segments), strict=True)
    return tuple(Run(len(list(group)), *span) for span, group in groupby(spans))


class SplitAttention(AttentionBackend):
    """Computes scaled dot-product attention once per run of equally long segments."""

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, layout: SegmentLayout, scale: float
    ) -> Tensor:
        """See ``AttentionBackend``."""
        runs = equal_runs(layout.span_lengths, layout.span_segments)
        sizes = [run.copies * run.length for run in runs]
        spans = zip(*(torch.split(stream, sizes) for stream in (q, k, v)), strict=True)
        return torch.cat(
            [_attend(run, *qkv, scale=scale) for run, qkv in zip(runs, spans, strict=True)]
        )


def _attend(run: Run, q: Tensor, k: Tensor, v: Tensor, *, scale: float) -> Tensor:
    """Computes attention within each span of a run; (copies x length, H, d)."""
    if run.padding:
        return torch.zeros_like(q)
    shape = (run.copies, run.length, *q.shape[1:])
    q, k, v = (part.reshape(shape).transpose(1, 2) for part in (q, k, v))
    half = q.device.type == "cpu" and q.dtype == torch.bfloat16
    if half and run.length <= MATRIX_PRODUCT_TOKENS:
        out = _by_products(scale * q, k, v)
    else:
        out = F.scaled_dot_product_attention(q, k, v, scale=scale)
    return out.transpose(1, 2).flatten(0, 1)


def _by_products(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attends by matrix products of (B, H, length, d), padded to one of few lengths.

    As in ``models/linear.py``, every shape of a product would keep its code in memory: half a
    megabyte, whatever the size. So there are few lengths, and few numbers of clips at once.
    """
    copies, length = q.shape[0], q.shape[2]
    if copies & (copies - 1):
        sizes = [1 << bit for bit in range(copies.bit_length()) if copies >> bit & 1]
        parts = zip(*(torch.split(part, sizes) for part in (q, k, v)), strict=True)
        return torch.cat([_by_products(*part) for part in parts])
    padding = padded_length(length) - length
    if not padding:
        return (q @ k.transpose(2, 3)).softmax(dim=-1) @ v
    q, k, v = (F.pad(part, (0, 0, 0, padding)) for part in (q, k, v))
    hidden = F.pad(q.new_zeros(length), (0, padding), value=-math.inf)
    return ((q @ k.transpose(2, 3) + hidden).softmax(dim=-1) @ v)[:, :, :length]


def padded_length(length: int) -> int:
    """Returns the least of four lengths an octave, and multiples of 32, that holds ``length``."""
    step = max(32, 1 << max(0, (length - 1).bit_length() - 3))
    return -(-length // step) * step


ATTENTION.register("split")(SplitAttention())
