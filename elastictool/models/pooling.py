"""From the encoder's tokens to one vector per clip.

All clips are pooled at once by scattering into one bin per segment; filler, and tokens that do
not count, go to one more bin that is thrown away. Each bin sees its own tokens only, so a NaN
stays in its clip, and there is no loop over clips.

Source: ElasticAST, Section 2.2 (masked attention pooling).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from elastictool.config import ModelConfig
from elastictool.models.embedding import prefix_slots
from elastictool.models.encoder import attention_scale
from elastictool.packing.layout import FILLER, SegmentLayout


class AttentionPooling(nn.Module):
    """Multi-head attention of one learned query over the tokens of each segment."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.scale = attention_scale(config)
        self.query = nn.Parameter(torch.zeros(config.width))
        self.to_q = nn.Linear(config.width, config.width)
        self.to_kv = nn.Linear(config.width, 2 * config.width)
        self.projection = nn.Linear(config.width, config.width)

    def forward(self, tokens: Tensor, layout: SegmentLayout) -> Tensor:
        """(num_slots, D) to (S, D)."""
        q = self.to_q(self.query).view(self.heads, -1)
        k, v = self.to_kv(tokens).view(tokens.shape[0], 2, self.heads, -1).unbind(1)
        bins = segment_bins(layout)
        weights = segment_softmax(self.scale * (q * k).sum(-1), bins, layout.num_segments + 1)
        pooled = segment_sum((weights[:, :, None] * v).flatten(1), bins, layout)
        out: Tensor = self.projection(pooled)
        return out


class MeanPooling(nn.Module):
    """The average of each segment's patch tokens."""

    def forward(self, tokens: Tensor, layout: SegmentLayout) -> Tensor:
        """(num_slots, D) to (S, D)."""
        bins = segment_bins(layout)
        if layout.prefix_tokens:
            bins = bins.index_fill(0, prefix_slots(layout).flatten(), layout.num_segments)
        counts = layout.cu_seqlens.diff() - layout.prefix_tokens
        return segment_sum(tokens, bins, layout) / counts[:, None]


class PrefixPooling(nn.Module):
    """The average of each segment's prefix tokens (cls; cls and distillation)."""

    def forward(self, tokens: Tensor, layout: SegmentLayout) -> Tensor:
        """(num_slots, D) to (S, D)."""
        slots = prefix_slots(layout)
        prefix = tokens.index_select(0, slots.flatten())
        return prefix.view(*slots.shape, -1).mean(dim=1)


def build_pooling(config: ModelConfig) -> AttentionPooling | MeanPooling | PrefixPooling:
    """The pooling that ``config`` asks for."""
    if config.pooling == "attention":
        return AttentionPooling(config)
    return MeanPooling() if config.pooling == "mean" else PrefixPooling()


def segment_bins(layout: SegmentLayout) -> Tensor:
    """(num_slots,) int64, each slot's segment; filler gets the bin after the last segment."""
    return layout.segment_ids.masked_fill(layout.segment_ids == FILLER, layout.num_segments)


def segment_softmax(scores: Tensor, bins: Tensor, num_bins: int) -> Tensor:
    """Softmax of (N, H) scores over all tokens of the same bin, in float32 or better."""
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    index = bins[:, None].expand_as(scores)
    lowest = scores.new_full((num_bins, scores.shape[1]), -torch.inf)
    highest = lowest.scatter_reduce(0, index, scores.detach(), "amax")
    powers = (scores - highest[bins]).exp()
    sums = powers.new_zeros(highest.shape).index_add(0, bins, powers)
    return powers / sums[bins]


def segment_sum(values: Tensor, bins: Tensor, layout: SegmentLayout) -> Tensor:
    """Sum (num_slots, D) values into (S, D), in float32 or better; the spare bin is dropped."""
    values = values.to(torch.promote_types(values.dtype, torch.float32))
    sums = values.new_zeros(layout.num_segments + 1, values.shape[1])
    return sums.index_add(0, bins, values)[: layout.num_segments]
