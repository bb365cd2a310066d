"""Pool the encoder's tokens to one vector per clip.

All clips are pooled at once, segment by segment, over tokens without padding. Each segment sees
its own tokens only, so a NaN stays in its clip, and there is no loop over clips. A segment's sum
is taken in the order of its tokens on every device; scattered additions (``index_add``) would come
in any order on CUDA, and outputs would change in their last bits.

Source: ElasticAST, Section 2.2 (masked attention pooling).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from elastictool.config import ModelConfig
from elastictool.models.encoder import attention_scale
from elastictool.models.linear import Linear
from elastictool.packing.layout import SegmentLayout


class AttentionPool(nn.Module):
    """Multi-head attention of one learned query over the tokens of each segment.

    Names are those of timm's ``AttentionPoolLatent``.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.scale = attention_scale(config)
        self.latent = nn.Parameter(torch.zeros(config.width))
        self.q = nn.Linear(config.width, config.width)
        self.kv = Linear(config.width, 2 * config.width)
        self.proj = Linear(config.width, config.width)

    def forward(self, tokens: Tensor, layout: SegmentLayout) -> Tensor:
        """Pools (N, D) tokens without padding to (S, D)."""
        q = self.q(self.latent).view(self.heads, -1)
        k, v = self.kv(tokens).view(tokens.shape[0], 2, self.heads, -1).unbind(1)
        scores = (_wide(q) * k).sum(-1)  # rounded once and not for each of d products
        weights = segment_softmax(self.scale * scores, layout)
        pooled = segment_sum((weights[:, :, None] * v).flatten(1), layout)
        out: Tensor = self.proj(pooled)
        return out


def mean_pool(tokens: Tensor, layout: SegmentLayout) -> Tensor:
    """Averages each segment's patch tokens: (N, D) tokens without padding to (S, D)."""
    if layout.prefix_tokens:
        tokens = tokens.index_fill(0, layout.prefix_rows().flatten(), 0.0)
    counts = layout.cu_seqlens.diff() - layout.prefix_tokens
    return segment_sum(tokens, layout) / counts[:, None]


def prefix_pool(tokens: Tensor, layout: SegmentLayout) -> Tensor:
    """Averages each segment's prefix tokens (cls; cls and distillation): (N, D) to (S, D)."""
    rows = layout.prefix_rows()
    return tokens.index_select(0, rows.flatten()).view(*rows.shape, -1).mean(dim=1)


def drop_padding(stream: Tensor, layout: SegmentLayout) -> Tensor:
    """Returns the (N, …) tokens of a (stream_length, …) stream, segment after segment."""
    if layout.rows_shape is None:  # a flat stream has padding at its end only
        return stream[: layout.num_tokens]
    return stream.index_select(0, layout.token_indices)


def segment_softmax(scores: Tensor, layout: SegmentLayout) -> Tensor:
    """Computes the softmax of (N, H) scores over each segment's tokens, in float32 or better."""
    scores = _wide(scores)
    segments = drop_padding(layout.segment_ids, layout)
    highest = _reduce(scores.detach(), "max", layout).index_select(0, segments)
    powers = (scores - highest).exp()
    return powers / segment_sum(powers, layout).index_select(0, segments)


def segment_sum(values: Tensor, layout: SegmentLayout) -> Tensor:
    """Sums (N, D) values into (S, D), in float32 or better."""
    return _reduce(_wide(values), "sum", layout)


def _wide(values: Tensor) -> Tensor:
    """Returns ``values`` in float32 or better."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _reduce(values: Tensor, how: str, layout: SegmentLayout) -> Tensor:
    # unsafe: without the check that the lengths add up, for which the host would wait.
    lengths = layout.cu_seqlens.diff().long()
    return torch.segment_reduce(values, how, lengths=lengths, axis=0, unsafe=True)
