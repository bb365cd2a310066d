"""One transformer for AST, FlexiAST and ElasticAST.

The models differ in their configuration only: how many clips share a stream, where positions
come from, what is pooled. So there is one forward, over a ``PackedBatch``.

Clips that no arithmetic can save (NaN, infinities, values whose squares overflow) are computed as
zeros and get NaN outputs. Within the forward pass segments never mix, but the gradient of a
shared weight adds all clips up, and there 0 x NaN would reach every other clip's update.
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
from elastictool.models.patch_embed import PatchEmbed, place
from elastictool.models.pooling import build_pooling
from elastictool.models.positions import build_positions
from elastictool.packing.batch import PackedBatch
from elastictool.packing.layout import SegmentLayout
from elastictool.utils.errors import CheckpointError, first_line


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
        self.embedding = PatchEmbed(config)
        self.positions = build_positions(config)
        self.prefix_tokens = _prefix_table(config)
        self.prefix_pos_embed = _prefix_table(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.pooling = build_pooling(config)
        self.fc_norm: nn.Module = nn.Identity()
        if config.fc_norm:
            self.fc_norm = nn.LayerNorm(config.width, eps=config.fc_norm_eps)
        self.head: nn.Module = nn.Identity()
        if config.num_classes:
            self.head = nn.Linear(config.width, config.num_classes)
        initialize(self, config)

    def forward(self, batch: PackedBatch) -> Tensor:
        """Logits (S, C) of the batch's clips; their embeddings (S, D) if there is no classifier.

        Raises:
            UsageError: The batch's patches or grids do not fit the model.
        """
        pooled, broken = self._pool(batch)
        logits: Tensor = self.head(self.fc_norm(pooled))
        return logits.masked_fill(broken[:, None], math.nan)

    def embed(self, batch: PackedBatch) -> Tensor:
        """Embeddings (S, D) of the batch's clips, before ``fc_norm`` and classifier.

        Raises:
            UsageError: The batch's patches or grids do not fit the model.
        """
        pooled, broken = self._pool(batch)
        return pooled.masked_fill(broken[:, None], math.nan)

    def _pool(self, batch: PackedBatch) -> tuple[Tensor, Tensor]:
        """(S, D) pooled outputs, and (S,) bool, the clips whose outputs mean nothing."""
        tokens, broken = self._embed(batch)
        backend = ATTENTION[self.attention]
        attend = partial(backend, layout=batch.layout, scale=attention_scale(self.config))
        tokens = encode(self.blocks, tokens, attend)
        pooled: Tensor = self.pooling(self.norm(tokens), batch.layout)
        return pooled, broken

    def _embed(self, batch: PackedBatch) -> tuple[Tensor, Tensor]:
        """(stream_length, D) tokens with positions in their slots, and (S,) bool, broken clips."""
        layout = batch.layout
        tokens, broken = [], torch.zeros(layout.num_segments, device=layout.segment_ids.device)
        for group in batch.patch_groups:
            clips = layout.segment_ids[group.token_indices]
            overflow = _overflow(group.patches)
            broken = broken.scatter_reduce(0, clips, overflow.to(broken.dtype), "amax")
            patches = group.patches.masked_fill(overflow[:, None], 0.0)
            shapes = batch.group_shapes(group)
            positions = self.positions(group.coords, clips, shapes, group.patch_size)
            tokens.append(self.embedding(patches, group.patch_size) + positions)
        token_indices = _joined([group.token_indices for group in batch.patch_groups])
        return place(layout, token_indices, _joined(tokens), self._prefix(layout)), broken > 0

    def _prefix(self, layout: SegmentLayout) -> Tensor | None:
        if layout.prefix_tokens != self.config.prefix_tokens:
            raise ValueError(
                f"the batch has {layout.prefix_tokens} prefix tokens a clip, "
                f"the model {self.config.prefix_tokens}"
            )
        if self.prefix_tokens is None or self.prefix_pos_embed is None:
            return None
        return self.prefix_tokens + self.prefix_pos_embed


def tensor_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of a model of ``config``, without making them.

    Raises:
        CheckpointError: No computer has such tensors.
    """
    try:
        with torch.device("meta"):
            empty = SpectrogramTransformer(config)
    except RuntimeError as error:  # more values than 64 bits count
        raise CheckpointError(f"no model is of this size: {first_line(error)}") from error
    return {name: tuple(value.shape) for name, value in empty.state_dict().items()}


def _joined(parts: list[Tensor]) -> Tensor:
    """The parts end to end; nothing is copied where there is one, as there usually is."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _overflow(patches: Tensor) -> Tensor:
    """(N,) bool: patches that hold a NaN, an infinity, or values whose squares overflow."""
    norms: Tensor = torch.linalg.vector_norm(patches.detach(), dim=1)
    return ~norms.isfinite()


def _prefix_table(config: ModelConfig) -> nn.Parameter | None:
    if not config.prefix_tokens:
        return None
    return nn.Parameter(torch.zeros(config.prefix_tokens, config.width))
