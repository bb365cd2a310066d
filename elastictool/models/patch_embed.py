"""Embed patches as tokens, and scatter tokens into the stream.

Patches arrive flattened, so the patch embedding is a matrix, and overlapping patches (imported
ASTs) need no code of their own. All sizes come from the layout's integers, never from the device.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from elastictool.config import ModelConfig
from elastictool.models.linear import linear
from elastictool.models.resize import resample_patch_embed
from elastictool.packing.layout import SegmentLayout


class PatchEmbed(nn.Module):
    """One matrix on flattened patches, resized for patches of other sizes."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        self.how = config.resize
        self.proj = nn.Linear(math.prod(config.patch_size), config.width)

    def weight_for(self, patch_size: tuple[int, int]) -> Tensor:
        """The (D, P) kernel for patches of ``patch_size``, which gradients pass through."""
        weight = self.proj.weight
        if patch_size == self.patch_size:
            return weight
        kernel = weight.view(-1, *self.patch_size)
        return resample_patch_embed(kernel, patch_size, self.how).flatten(1)

    def forward(self, patches: Tensor, patch_size: tuple[int, int]) -> Tensor:
        """Embeds (N, P) patches as (N, D) tokens."""
        return linear(patches, self.weight_for(patch_size), self.proj.bias)


def scatter_tokens(
    layout: SegmentLayout, token_indices: Tensor, patches: Tensor, prefix: Tensor | None
) -> Tensor:
    """Puts tokens at their positions in the stream; padding is zero.

    Args:
        layout: Where each segment starts.
        token_indices: (N,) int64, the position of each patch token in the stream.
        patches: (N, D) patch tokens.
        prefix: (prefix tokens, D), the same for every clip, or None.

    Returns:
        (stream_length, D).
    """
    stream = patches.new_zeros(layout.stream_length, patches.shape[1])
    stream.index_copy_(0, token_indices, patches)
    if prefix is None:
        return stream
    repeated = prefix.to(patches.dtype).repeat(layout.num_segments, 1)
    return stream.index_copy_(0, layout.token_indices[layout.prefix_rows().flatten()], repeated)
