"""Flash attention over the flat stream: one fused kernel for all segments of a batch.

The kernel takes the stream and the offsets of its spans; padding is one more span, so that a
stream may be padded to a round length without a mask. There is no float32 path.

Source: ``torch.nn.attention.varlen.varlen_attn`` (torch 2.10 and newer, CUDA).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import lru_cache
from typing import cast

import torch
from torch import Tensor

from elastictool.models.attention.base import (
    ATTENTION,
    AttentionBackend,
    AttentionInputs,
    require_support,
)
from elastictool.packing.layout import SegmentLayout

Kernel = Callable[..., Tensor]


class VarlenAttention(AttentionBackend):
    """Variable-length flash attention.

    Args:
        kernel: A stand-in for torch's ``varlen_attn``, for tests on machines without CUDA.
    """

    def __init__(self, kernel: Kernel | None = None) -> None:
        self._kernel = kernel

    def unsupported(self, inputs: AttentionInputs) -> str:
        """See ``AttentionBackend``."""
        if inputs.device.type != "cuda":
            return "it needs a CUDA device"
        if inputs.dtype not in (torch.bfloat16, torch.float16):
            return f"it takes bfloat16 and float16, not {inputs.dtype} (use precision bf16)"
        if torch.cuda.get_device_capability(inputs.device) < (8, 0):
            return "it needs a GPU of compute capability 8.0 or above"
        width = inputs.head_width
        if width % 8 or width > 256:
            return f"it takes head widths that are multiples of 8 up to 256, not {width}"
        return "" if _torch_kernel() else f"torch {torch.__version__} has no varlen_attn (2.10 has)"

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, layout: SegmentLayout, scale: float
    ) -> Tensor:
        """See ``AttentionBackend``."""
        kernel = self._kernel
        if kernel is None:
            require_support("varlen", AttentionInputs.of(q))
            kernel = _torch_kernel()
        offsets, longest = layout.cu_spans, layout.max_span
        if "scale" in _parameters(kernel):
            return kernel(q, k, v, offsets, offsets, longest, longest, scale=scale)  # type: ignore[misc]
        # The first versions always divide by sqrt(d), so another scale is multiplied into q. It is
        # compared as the default is computed: the product of both may miss 1 by its rounding.
        if scale != q.shape[-1] ** -0.5:
            q = q * (scale * q.shape[-1] ** 0.5)
        return kernel(q, k, v, offsets, offsets, longest, longest)  # type: ignore[misc]


@lru_cache(maxsize=1)
def _torch_kernel() -> Kernel | None:
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return cast(Kernel, varlen_attn)


@lru_cache(maxsize=8)
def _parameters(kernel: Kernel | None) -> frozenset[str]:
    return frozenset(inspect.signature(kernel).parameters) if kernel else frozenset()


ATTENTION.register("varlen")(VarlenAttention())
