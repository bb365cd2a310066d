"""FlexAttention with a document mask: the fused kernel for CUDA in float32, or without ``varlen``.

torch's own way to a block mask evaluates the mask for all pairs of slots, which for a long stream
is more work than the attention. Segments are contiguous, so which blocks meet follows from their
bounds: the mask is built from the layout's integers.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import lru_cache
from itertools import accumulate
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from elastictool.models.attention.base import ATTENTION, HEAD_WIDTH, require_support
from elastictool.models.attention.triton_needs import missing_for_triton
from elastictool.packing.layout import SegmentLayout

Kernel = Callable[..., Tensor]

BLOCK = 128
"""Slots of a block, FlexAttention's default."""

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LEAST_WIDTH = 16
"""Head width of the narrowest matrix product that triton compiles."""


class FlexAttention:
    """Block-sparse attention; compiled on CUDA, plain (inference only) on a CPU.

    Where it is compiled, a stream of one block goes to ``split``: it would need kernels of its
    own, and of one function torch compiles eight variants at most before it runs it unfused.

    Args:
        kernel: A stand-in for the compiled kernel, for tests on machines without CUDA.
    """

    padded_rows = False

    def __init__(self, kernel: Kernel | None = None) -> None:
        self._kernel = kernel
        self._mask: tuple[weakref.ref[SegmentLayout], BlockMask] | None = None

    def unsupported(
        self,
        device: torch.device,
        dtype: torch.dtype,
        training: bool,
        head_width: int = HEAD_WIDTH,
    ) -> str:
        """See ``AttentionBackend``."""
        if device.type != "cuda":
            return "it cannot train on a CPU" if training else ""
        if dtype not in _DTYPES:
            return f"it takes float32, bfloat16 and float16, not {dtype}"
        if head_width < LEAST_WIDTH:
            return f"it takes head widths from {LEAST_WIDTH}, not {head_width}"
        return missing_for_triton()

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, layout: SegmentLayout, scale: float
    ) -> Tensor:
        """See ``AttentionBackend``."""
        kernel = self._kernel
        if kernel is None:
            training = q.requires_grad and torch.is_grad_enabled()
            require_support("flex", q.device, q.dtype, training, q.shape[-1])
            kernel = _compiled() if q.device.type == "cuda" else _plain
        if kernel is not _plain and layout.num_slots <= BLOCK:
            return ATTENTION["split"](q, k, v, layout, scale)
        heads_first = (stream.transpose(0, 1)[None] for stream in (q, k, v))
        out = kernel(*heads_first, block_mask=self.mask(layout), scale=scale)
        return out[0].transpose(0, 1)

    def mask(self, layout: SegmentLayout) -> BlockMask:
        """``segment_block_mask`` of ``layout``, built once for all layers of a forward pass."""
        cached = self._mask
        if cached is None or cached[0]() is not layout:
            cached = (weakref.ref(layout), segment_block_mask(layout))
            self._mask = cached
        return cached[1]


def segment_block_mask(layout: SegmentLayout, block: int = BLOCK) -> BlockMask:
    """Which blocks of slots attend to which, and the mask within those that hold a boundary."""
    device = layout.segment_ids.device
    partial, full = _partial_and_full(layout.piece_lengths, block)
    ids = layout.segment_ids

    def same_segment(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return ids[query] == ids[key]

    return BlockMask.from_kv_blocks(
        *_block_lists(partial, device),
        *_block_lists(full, device),
        BLOCK_SIZE=block,
        mask_mod=same_segment,
        seq_lengths=(layout.num_slots, layout.num_slots),
    )


def _partial_and_full(
    piece_lengths: tuple[int, ...], block: int
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """(blocks, blocks) bool: pairs that share a segment in part, and pairs within one segment."""
    stops = np.fromiter(accumulate(piece_lengths), dtype=np.int64)
    total = int(stops[-1])
    first = np.arange(0, total, block)
    last = np.minimum(first + block, total) - 1
    low = np.searchsorted(stops, first, side="right")  # piece of each block's first slot
    high = np.searchsorted(stops, last, side="right")
    meet = (low[:, None] <= high[None]) & (low[None] <= high[:, None])
    single = low == high
    whole = last - first == block - 1
    full = meet & (single & whole)[:, None] & (single & whole)[None]
    return meet & ~full, full


def _block_lists(table: npt.NDArray[np.bool_], device: torch.device) -> tuple[Tensor, Tensor]:
    """(1, 1, rows) counts and (1, 1, rows, columns) indices, the True columns of a row first."""
    columns = np.argsort(~table, axis=1, kind="stable").astype(np.int32)
    counts = torch.from_numpy(table.sum(axis=1).astype(np.int32))
    return counts[None, None].to(device), torch.from_numpy(columns)[None, None].to(device)


_plain = cast(Kernel, flex_attention)


@lru_cache(maxsize=1)
def _compiled() -> Kernel:
    # One kernel for all stream lengths; without it every batch would compile its own.
    return torch.compile(_plain, dynamic=True)


ATTENTION.register("flex")(FlexAttention())
