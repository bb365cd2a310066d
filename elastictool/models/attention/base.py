"""What an attention backend is, and which one ``auto`` means.

All models attend within segments only, and the backends differ in how they get there. Each takes
the flat stream of queries, keys and values and the batch's layout, so that a new backend is one
new file here plus its name in the table, and the property tests run over it at once.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from elastictool.packing.layout import SegmentLayout
from elastictool.registry import Registry


class AttentionBackend(Protocol):
    """Attention within segments.

    Attributes:
        padded_rows: The backend is made for the paper's padded rows (``collate(...,
            padded_rows=True)``); every backend takes both kinds of layout.
    """

    padded_rows: bool

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, layout: SegmentLayout, scale: float
    ) -> Tensor:
        """Attend: softmax(scale q k^T) v over the tokens of each segment.

        Args:
            q: (num_slots, H, d) queries; k and v alike.
            k: Keys.
            v: Values.
            layout: Which slot belongs to which segment.
            scale: Factor on the scores before the softmax.

        Returns:
            (num_slots, H, d); finite and without meaning in filler slots.
        """
        ...


ATTENTION: Registry[AttentionBackend] = Registry(
    "attention backend",
    ("elastictool.models.attention.reference", "elastictool.models.attention.split"),
)


def choose_attention(name: str, device: str = "cpu", dtype: torch.dtype = torch.float32) -> str:
    """The backend to use: ``name``, or for ``auto`` the fastest for the device and type.

    Raises:
        UsageError: There is no backend called ``name``.
    """
    if name == "auto":
        return "split"
    ATTENTION[name]
    return name
