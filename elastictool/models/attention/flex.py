"""FlexAttention with a document mask, for CUDA in float32 or where ``varlen`` is missing.

torch's own way to a block mask evaluates the mask for all pairs of tokens, which for a long stream
is more work than the attention. Segments are contiguous, so which blocks meet follows from their
bounds: the mask is built from the layout's integers. A block's partners are one run of blocks, so
the host lists as many as the widest run holds and never looks at all pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from elastictool.models.attention.base import (
    ATTENTION,
    AttentionBackend,
    AttentionInputs,
    OncePerLayout,
    missing_for_triton,
    require_support,
)
from elastictool.packing.layout import SegmentLayout

Kernel = Callable[..., Tensor]

BLOCK = 128
"""Tokens of a block, FlexAttention's default."""


class FlexAttention(AttentionBackend):
    """Block-sparse attention; compiled on CUDA, plain (inference only) on a CPU.

    Where it is compiled, a stream of one block goes to ``split``: it would need kernels of its
    own, and of one function torch compiles eight variants at most before it runs it unfused.

    Args:
        kernel: A stand-in for the compiled kernel, for tests on machines without CUDA.
    """

    def __init__(self, kernel: Kernel | None = None) -> None:
        self._kernel = kernel
        self.mask = OncePerLayout(segment_block_mask)

    def unsupported(self, inputs: AttentionInputs) -> str:
        """See ``AttentionBackend``."""
        if inputs.device.type != "cuda":
            return "it cannot train on a CPU" if inputs.training else ""
        if inputs.dtype not in (torch.float32, torch.bfloat16, torch.float16):
            return f"it takes float32, bfloat16 and float16, not {inputs.dtype}"
        if inputs.head_width < 16:  # of the narrowest matrix product that triton compiles
            return f"it takes head widths from 16, not {inputs.head_width}"
        return missing_for_triton()

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, layout: SegmentLayout, scale: float
    ) -> Tensor:
        """See ``AttentionBackend``."""
        kernel = self._kernel
        if kernel is None:
            require_support("flex", AttentionInputs.of(q))
            kernel = _compiled() if q.device.type == "cuda" else _plain
        if kernel is not _plain and layout.stream_length <= BLOCK:
            return ATTENTION["split"](q, k, v, layout, scale)
        heads_first = (stream.transpose(0, 1)[None] for stream in (q, k, v))
        out = kernel(*heads_first, block_mask=self.mask(layout), scale=scale)
        # One layout for all backends, or compiled code around attention would come in variants.
        return out[0].transpose(0, 1).contiguous()


def segment_block_mask(layout: SegmentLayout, block: int = BLOCK) -> BlockMask:
    """Builds the mask: pairs of blocks that attend, and the token mask of those with a boundary."""
    ids = layout.segment_ids
    lists = torch.from_numpy(_block_lists(layout.span_lengths, block))
    if ids.device.type == "cuda":
        lists = lists.pin_memory()
    # Only the lists travel, and the host does not wait for them. On the device they are widened to
    # what a mask may hold, R x R: their width, which differs from batch to batch, would be one more
    # size that compiled code depends on.
    narrow = lists.to(ids.device, non_blocking=True)[:, None, None]
    counts = narrow[..., 0].contiguous()
    rows, width = lists.shape[1], lists.shape[2] - 1
    indices = narrow.new_zeros((2, 1, 1, rows, rows))
    indices[..., :width] = narrow[..., 1:]

    def same_segment(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return ids[query] == ids[key]

    # Pairs of blocks meet both ways: the queries of a block of keys are listed as its keys are.
    return BlockMask(
        seq_lengths=(layout.stream_length, layout.stream_length),
        kv_num_blocks=counts[0],
        kv_indices=indices[0],
        full_kv_num_blocks=counts[1],
        full_kv_indices=indices[1],
        q_num_blocks=counts[0],
        q_indices=indices[0],
        full_q_num_blocks=counts[1],
        full_q_indices=indices[1],
        BLOCK_SIZE=(block, block),
        mask_mod=same_segment,
    )


def _block_lists(span_lengths: tuple[int, ...], block: int) -> npt.NDArray[np.int32]:
    """Lists partners of R blocks as (2, R, 1 + W): their number, then which, ascending, then zeros.

    First the blocks that share a span in part, then those that lie in one span, as does itself.
    """
    lengths = np.array(span_lengths)
    stops = lengths.cumsum()
    starts = stops - lengths
    first = np.arange(0, stops[-1], block)
    last = np.minimum(first + block, stops[-1]) - 1
    low = np.searchsorted(stops, first, side="right")  # span of each block's first token
    high = np.searchsorted(stops, last, side="right")
    begin, end = starts[low] // block, (stops[high] - 1) // block + 1  # all partners
    inner = (low == high) & (last - first == block - 1)
    full_begin = np.where(inner, -(-starts[low] // block), begin)
    full_end = np.where(inner, stops[low] // block, begin)
    number = np.arange((end - begin).max())
    skipped = np.where(number >= (full_begin - begin)[:, None], (full_end - full_begin)[:, None], 0)
    full_count = full_end - full_begin
    counts = np.stack((end - begin - full_count, full_count))[:, :, None]
    partners = np.stack((begin[:, None] + number + skipped, full_begin[:, None] + number))
    listed = np.where(number < counts, partners, 0)
    return np.concatenate((counts, listed), axis=2).astype(np.int32)


_plain = cast(Kernel, flex_attention)


@lru_cache(maxsize=1)
def _compiled() -> Kernel:
    # One kernel for all stream lengths; without it every batch would compile its own.
    return torch.compile(_plain, dynamic=True)


ATTENTION.register("flex")(FlexAttention())
