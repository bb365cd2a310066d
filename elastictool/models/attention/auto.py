"""The fastest backend for where the tokens are and what they are made of.

The choice is made when tokens arrive, not when the model is built: a model may be moved to another
device or run under autocast afterwards.
"""

from __future__ import annotations

import torch
from torch import Tensor

from elastictool.models.attention.base import ATTENTION, choose_attention
from elastictool.packing.layout import SegmentLayout


class AutoAttention:
    """Hands every call to the backend that ``choose_attention`` names."""

    padded_rows = False

    def unsupported(self, device: torch.device, dtype: torch.dtype, training: bool) -> str:
        """Works everywhere; see ``AttentionBackend``."""
        return ""

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, layout: SegmentLayout, scale: float
    ) -> Tensor:
        """See ``AttentionBackend``."""
        backend = ATTENTION[choose_attention("auto", q.device.type, q.dtype)]
        return backend(q, k, v, layout, scale)


ATTENTION.register("auto")(AutoAttention())
