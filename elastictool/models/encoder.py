"""Defines the encoder: pre-LayerNorm ViT blocks over one flat stream of tokens.

Everything but attention works on single tokens, so the stream needs no rows and no mask; the
blocks get attention as a function that already knows the batch's layout.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import cast

from torch import Tensor, nn

from elastictool.config import ModelConfig
from elastictool.models.linear import Linear

QKV = tuple[Tensor, Tensor, Tensor]
"""(stream_length, H, d) queries, keys and values."""

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Attention of one batch: (stream_length, H, d) queries, keys and values to the same shape."""


def attention_scale(config: ModelConfig) -> float:
    """Returns the factor on attention scores: the configured one, or 1/sqrt(d) if that is 0."""
    head_width = config.width // config.heads
    return config.attention_scale or float(head_width**-0.5)


class Attention(nn.Module):
    """Projections before and after multi-head self-attention; q, k and v share one matrix."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = Linear(config.width, 3 * config.width)
        self.proj = Linear(config.width, config.width)

    def split_heads(self, tokens: Tensor) -> QKV:
        """Projects (stream_length, D) tokens to (stream_length, H, d) queries, keys and values."""
        q, k, v = self.qkv(tokens).view(tokens.shape[0], 3, self.heads, -1).unbind(1)
        return q, k, v


class Mlp(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = Linear(width, hidden)
        self.act = nn.GELU()
        self.fc2 = Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, D) to (N, D)."""
        out: Tensor = self.fc2(self.act(self.fc1(tokens)))
        return out


class Block(nn.Module):
    """Attention and MLP, each after a LayerNorm and added to its input.

    The parts before and after attention are functions of their own: they work on single tokens,
    so compiled code for them serves batches of any layout (``training/compilation.py``), while
    attention has its own kernels.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        hidden = round(config.width * config.mlp_ratio)
        self.norm1 = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.attn = Attention(config)
        self.norm2 = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.mlp = Mlp(config.width, hidden)
        self.dropout = nn.Dropout(config.dropout)

    def before_attention(self, tokens: Tensor) -> QKV:
        """Computes (stream_length, H, d) queries, keys, values from (stream_length, D) tokens."""
        return self.attn.split_heads(self.norm1(tokens))

    def after_attention(self, tokens: Tensor, attended: Tensor) -> Tensor:
        """Computes the block's (stream_length, D) output from its input and its attention's."""
        tokens = tokens + self.dropout(self.attn.proj(attended.flatten(1)))
        out: Tensor = tokens + self.dropout(self.mlp(self.norm2(tokens)))
        return out

    def to_next(self, following: Block, tokens: Tensor, attended: Tensor) -> tuple[Tensor, QKV]:
        """Computes the block's output, and from it the ``following`` block's queries, keys, values.

        One function for all between two attentions: as compiled code, its backward adds the two
        gradients of the tokens where it makes them, and LayerNorm need not read them again.
        """
        tokens = self.after_attention(tokens, attended)
        return tokens, following.before_attention(tokens)


def encode(blocks: nn.ModuleList, tokens: Tensor, attend: Attend) -> Tensor:
    """Pass (stream_length, D) tokens through all ``blocks``."""
    stack = cast(list[Block], list(blocks))
    qkv = stack[0].before_attention(tokens)
    for block, following in pairwise(stack):
        tokens, qkv = block.to_next(following, tokens, attend(*qkv))
    return stack[-1].after_attention(tokens, attend(*qkv))
