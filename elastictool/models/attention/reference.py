"""Masked self-attention as the paper writes it: rows, a boolean mask, softmax(Mask(QK^T))V.

It is slow and plain, and the other backends are compared with it. A weight of zero keeps a NaN
(0 x NaN = NaN), so segments that are not finite are set to zero before the products and to NaN
afterwards: a broken clip changes no other clip.

Source: ElasticAST, Section 2.2.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from elastictool.models.attention.base import ATTENTION, AttentionBackend, OncePerLayout
from elastictool.packing.layout import SegmentLayout


class ReferenceAttention(AttentionBackend):
    """Dense attention over whole rows with a boolean mask (B, L, L)."""

    padded_rows = True

    def __init__(self) -> None:
        self.mask = OncePerLayout(same_segment_mask)

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, layout: SegmentLayout, scale: float
    ) -> Tensor:
        """See ``AttentionBackend``."""
        broken = torch.stack([_not_finite(part) for part in (q, k, v)]).any(dim=0)
        broken = _anywhere_in_segment(broken, layout)
        q, k, v = (part.masked_fill(broken[:, None, None], 0.0) for part in (q, k, v))
        weights = attention_weights(q, k, self.mask(layout), layout, scale)
        out = (weights @ _rows(v, layout)).transpose(1, 2).reshape(q.shape)
        broken = broken | _anywhere_in_segment(_not_finite(out), layout)
        return out.masked_fill(broken[:, None, None], math.nan)


def same_segment_mask(layout: SegmentLayout) -> Tensor:
    """Returns a (B, L, L) bool mask, True where query and key belong to one segment.

    Padding attends to padding, so that no row of scores is masked as a whole.
    """
    ids = layout.segment_ids.view(_rows_shape(layout))
    return ids[:, :, None] == ids[:, None, :]


def attention_weights(
    q: Tensor, k: Tensor, mask: Tensor, layout: SegmentLayout, scale: float
) -> Tensor:
    """Returns the (B, H, L, L) attention weights; exactly zero where ``mask`` is False."""
    scores = scale * (_rows(q, layout) @ _rows(k, layout).transpose(-2, -1))
    elsewhere = ~mask[:, None]
    weights = scores.masked_fill(elsewhere, -math.inf).softmax(dim=-1)
    # A row whose own scores overflow is NaN as a whole, hence the second masking.
    return weights.masked_fill(elsewhere, 0.0)


def _rows_shape(layout: SegmentLayout) -> tuple[int, int]:
    return layout.rows_shape or (1, layout.stream_length)


def _rows(stream: Tensor, layout: SegmentLayout) -> Tensor:
    """Reshapes a (stream_length, H, d) stream to (B, H, L, d) rows."""
    return stream.reshape(*_rows_shape(layout), *stream.shape[1:]).transpose(1, 2)


def _not_finite(stream: Tensor) -> Tensor:
    """Returns (stream_length,) bool: whether the token holds a NaN or an infinity."""
    return ~stream.isfinite().flatten(1).all(dim=1)


def _anywhere_in_segment(mask: Tensor, layout: SegmentLayout) -> Tensor:
    """Returns (stream_length,) bool: True for all tokens of a segment that has a True one."""
    bins = layout.segment_ids + 1
    count = torch.zeros(layout.num_segments + 1, device=mask.device)
    return count.index_add(0, bins, mask.to(count.dtype))[bins] > 0


ATTENTION.register("reference")(ReferenceAttention())
