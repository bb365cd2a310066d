"""What an attention backend is, and which one ``auto`` means.

All models attend within segments only, and the backends differ in how they get there. Each takes
the flat stream of queries, keys and values and the batch's layout, so that a new backend is one
new file here plus its name in the table, and the property tests run over it at once.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from elastictool.errors import UsageError
from elastictool.packing.layout import SegmentLayout
from elastictool.registry import Registry

_LOG = logging.getLogger(__name__)


class AttentionBackend(Protocol):
    """Attention within segments.

    Attributes:
        padded_rows: The backend is made for the paper's padded rows (``collate(...,
            padded_rows=True)``); every backend takes both kinds of layout.
    """

    padded_rows: bool

    def unsupported(self, device: torch.device, dtype: torch.dtype, training: bool) -> str:
        """Why the backend cannot serve tensors of ``dtype`` on ``device``; empty where it can.

        Args:
            device: Where the stream is.
            dtype: Of queries, keys and values.
            training: Whether a backward pass follows.
        """
        ...

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
    tuple(
        f"elastictool.models.attention.{name}"
        for name in ("auto", "reference", "split", "varlen", "flex")
    ),
)

FASTEST_FIRST = ("varlen", "flex", "split")
"""What ``auto`` tries in turn. On a CPU ``flex`` cannot train and is slower, so it declines."""


def choose_attention(name: str, device: str = "cpu", dtype: torch.dtype = torch.float32) -> str:
    """The backend to use: ``name``, or for ``auto`` the fastest for the device and type.

    Raises:
        UsageError: There is no backend called ``name``.
    """
    if name == "auto":
        return _fastest(device, dtype)
    ATTENTION[name]
    return name


def require_support(
    name: str, device: torch.device, dtype: torch.dtype, training: bool
) -> AttentionBackend:
    """The backend called ``name``, which must be able to serve these tensors.

    Raises:
        UsageError: It cannot, or there is none of that name.
    """
    backend = ATTENTION[name]
    reason = backend.unsupported(device, dtype, training)
    if reason:
        raise UsageError(
            f"the attention backend {name!r} cannot be used here: {reason}",
            "leave the choice to --attention auto",
        )
    return backend


@lru_cache(maxsize=32)
def _fastest(device: str, dtype: torch.dtype) -> str:
    place = torch.device(device)
    reasons = {name: ATTENTION[name].unsupported(place, dtype, True) for name in FASTEST_FIRST}
    chosen = next(name for name, reason in reasons.items() if not reason)
    if place.type == "cuda":
        declined = [f"no {name}: {reason}" for name, reason in reasons.items() if reason]
        _LOG.info("attention on %s in %s: %s", device, dtype, "; ".join([chosen, *declined]))
    return chosen
