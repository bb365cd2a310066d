"""Defines one transformer for AST, FlexiAST and ElasticAST.

The models differ in their configuration only: how many clips share a stream, where positions
come from, what is pooled. So there is one forward, over a ``PackedBatch``.

Broken clips (NaN, infinities, values whose squares overflow) are computed as zeros and get NaN
outputs. Within the forward pass segments never mix, but the gradient of a shared weight adds all
clips up, and there 0 x NaN would reach every other clip's update.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor, nn

from elastictool.config import ModelConfig
from elastictool.models.attention.base import ATTENTION
from elastictool.models.encoder import Block, attention_scale, encode
from elastictool.models.init import initialize
from elastictool.models.linear import Linear
from elastictool.models.patch_embed import PatchEmbed, scatter_tokens
from elastictool.models.pooling import AttentionPool, drop_padding, mean_pool, prefix_pool
from elastictool.models.pos_embed import build_pos_embed
from elastictool.packing.batch import PackedBatch
from elastictool.packing.layout import SegmentLayout


class SpectrogramTransformer(nn.Module):
    """Classifies or embeds the clips of a packed batch.

    Args:
        config: What the model is; ``num_classes`` 0 leaves out the classifier.
        attention: The attention backend, or ``auto``.

    Attributes:
        config: As given.
        attention: Name of the backend in use.

    Raises:
        UsageError: ``config.grid`` is not set, or there is no such backend.
    """

    def __init__(self, config: ModelConfig, attention: str = "auto") -> None:
        super().__init__()
        self.config = config
        ATTENTION[attention]
        self.attention = attention
        self.patch_embed = PatchEmbed(config)
        self.pos_embed = build_pos_embed(config)
        self.prefix_tokens = self.prefix_pos_embed = None
        if config.prefix_tokens:
            self.prefix_tokens, self.prefix_pos_embed = (
                nn.Parameter(torch.zeros(config.prefix_tokens, config.width)) for _ in range(2)
            )
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.attn_pool = AttentionPool(config) if config.pooling == "attention" else None
        self.fc_norm: nn.Module = nn.Identity()
        if config.fc_norm:
            self.fc_norm = nn.LayerNorm(config.width, eps=config.fc_norm_eps)
        self.head: nn.Module = nn.Identity()
        if config.num_classes:
            self.head = Linear(config.width, config.num_classes)
        initialize(self, config)

    def forward(self, batch: PackedBatch) -> Tensor:
        """Returns the clips' logits (S, C), or their embeddings (S, D) if there is no classifier.

        The same as ``forward_head(forward_features(batch), batch)``.

        Raises:
            UsageError: The batch's patches or grids do not fit the model.
        """
        batch = batch.with_prefix_tokens(self.config.prefix_tokens)
        broken = batch.broken_clips()
        return self._head(self._features(batch, broken), batch, broken, pre_logits=False)

    def forward_features(self, batch: PackedBatch) -> Tensor:
        """Returns the tokens (N, D) after the last norm, clip after clip, without padding.

        A clip's prefix tokens come first, then its patches, frequency-major; for each clip
        ``batch.layout.lengths`` counts them, prefix tokens if the batch was packed with them.
        Tokens of a broken clip (see ``PackedBatch.broken_clips``) are NaN.

        Raises:
            UsageError: The batch's patches or grids do not fit the model.
        """
        batch = batch.with_prefix_tokens(self.config.prefix_tokens)
        broken = batch.broken_clips()
        return self._features(batch, broken).masked_fill(_of_tokens(broken, batch), math.nan)

    def forward_head(self, tokens: Tensor, batch: PackedBatch, pre_logits: bool = False) -> Tensor:
        """Pools tokens to one vector a clip and classifies it.

        Args:
            tokens: (N, D), from ``forward_features`` of the same batch.
            batch: Which token belongs to which clip.
            pre_logits: Return the pooled vectors before ``fc_norm`` and classifier: embeddings.

        Returns:
            (S, C) logits, or (S, D) embeddings with ``pre_logits``; NaN for broken clips.
        """
        batch = batch.with_prefix_tokens(self.config.prefix_tokens)
        broken = batch.broken_clips()
        tokens = tokens.masked_fill(_of_tokens(broken, batch), 0.0)
        return self._head(tokens, batch, broken, pre_logits)

    def pool(self, tokens: Tensor, layout: SegmentLayout) -> Tensor:
        """Pools (N, D) tokens without padding to (S, D), by the method of ``config.pooling``."""
        if self.attn_pool is not None:
            pooled: Tensor = self.attn_pool(tokens, layout)
            return pooled
        return (mean_pool if self.config.pooling == "mean" else prefix_pool)(tokens, layout)

    def _features(self, batch: PackedBatch, broken: Tensor) -> Tensor:
        """Computes ``forward_features``, with zeros for the patches of ``broken`` (S,) clips."""
        backend = ATTENTION[self.attention]
        attend = partial(backend, layout=batch.layout, scale=attention_scale(self.config))
        stream = encode(self.blocks, self._embed(batch, broken), attend)
        tokens: Tensor = self.norm(drop_padding(stream, batch.layout))
        return tokens

    def _head(self, tokens: Tensor, batch: PackedBatch, broken: Tensor, pre_logits: bool) -> Tensor:
        """Computes ``forward_head`` from tokens that are finite also in ``broken`` (S,) clips."""
        out = self.pool(tokens, batch.layout)
        if not pre_logits:
            out = self.head(self.fc_norm(out))
        return out.masked_fill(broken[:, None], math.nan)

    def _embed(self, batch: PackedBatch, broken: Tensor) -> Tensor:
        """Embeds patches as a (stream_length, D) stream; patches of ``broken`` clips are zeros."""
        layout = batch.layout
        tokens = []
        for group in batch.patch_groups:
            clips = layout.segment_ids[group.token_indices]
            patches = group.patches.masked_fill(broken[clips][:, None], 0.0)
            shapes = batch.group_shapes(group)
            positions = self.pos_embed(group.coords, clips, shapes, group.patch_size)
            tokens.append(self.patch_embed(patches, group.patch_size) + positions)
        token_indices = _joined([group.token_indices for group in batch.patch_groups])
        prefix = None
        if self.prefix_tokens is not None and self.prefix_pos_embed is not None:
            prefix = self.prefix_tokens + self.prefix_pos_embed
        return scatter_tokens(layout, token_indices, _joined(tokens), prefix)


def tensor_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Returns names and shapes of the tensors of a model of ``config``, without allocating them."""
    with torch.device("meta"):
        empty = SpectrogramTransformer(config)
    return {name: tuple(value.shape) for name, value in empty.state_dict().items()}


def _joined(parts: list[Tensor]) -> Tensor:
    """Concatenates the parts; nothing is copied where there is one, as there usually is."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _of_tokens(clips: Tensor, batch: PackedBatch) -> Tensor:
    """Expands (S,) values of clips to (N, 1) values of their tokens, without padding."""
    return clips[drop_padding(batch.layout.segment_ids, batch.layout)][:, None]
