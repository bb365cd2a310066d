"""The fastest backend for where the tokens are and what they are made of.

The choice is made when tokens arrive, not when the model is built: a model may be moved to another
device or run under autocast afterwards. A GPU that has to do without its fastest backend is told
once, with the reasons: often something can be done about them.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from elastictool.models.attention.base import ATTENTION, AttentionInputs, fastest
from elastictool.packing.layout import SegmentLayout

_LOG = logging.getLogger(__name__)


class AutoAttention:
    """Hands every call to the backend that ``fastest`` names."""

    padded_rows = False

    def __init__(self) -> None:
        self._told: set[tuple[torch.device, torch.dtype]] = set()

    def unsupported(self, inputs: AttentionInputs) -> str:
        """Works everywhere; see ``AttentionBackend``."""
        return ""

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, layout: SegmentLayout, scale: float
    ) -> Tensor:
        """See ``AttentionBackend``."""
        name, declined = fastest(AttentionInputs.of(q))
        if declined and q.device.type == "cuda":
            self._tell_once(q, name, declined)
        return ATTENTION[name](q, k, v, layout, scale)

    def _tell_once(self, q: Tensor, name: str, declined: tuple[str, ...]) -> None:
        """One line for each device and type."""
        if (q.device, q.dtype) in self._told:
            return
        self._told.add((q.device, q.dtype))
        kind = str(q.dtype).removeprefix("torch.")
        reasons = "; ".join(declined)
        _LOG.warning("attention on %s in %s: %s is used, %s", q.device, kind, name, reasons)


ATTENTION.register("auto")(AutoAttention())
