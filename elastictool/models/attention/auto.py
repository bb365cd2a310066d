"""The fastest backend for the device and type of the tokens.

The choice is made when tokens arrive, not when the model is built: a model may be moved to another
device or run under autocast afterwards. On a GPU a warning gives the reasons why faster backends
cannot be used, because often they can be removed.
"""

from __future__ import annotations

import logging
from functools import lru_cache

import torch
from torch import Tensor

from elastictool.models.attention.base import ATTENTION, AttentionInputs, fastest
from elastictool.packing.layout import SegmentLayout

_LOG = logging.getLogger(__name__)


class AutoAttention:
    """Passes every call to the backend that ``fastest`` names."""

    padded_rows = False

    def unsupported(self, inputs: AttentionInputs) -> str:
        """Works everywhere; see ``AttentionBackend``."""
        return ""

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, layout: SegmentLayout, scale: float
    ) -> Tensor:
        """See ``AttentionBackend``."""
        name, declined = fastest(AttentionInputs.of(q))
        if declined and q.device.type == "cuda":
            _warn_once(q.device, q.dtype, name, declined)
        return ATTENTION[name](q, k, v, layout, scale)


@lru_cache(maxsize=64)
def _warn_once(
    device: torch.device, dtype: torch.dtype, name: str, declined: tuple[str, ...]
) -> None:
    kind = str(dtype).removeprefix("torch.")
    _LOG.warning("attention on %s in %s: %s is used, %s", device, kind, name, "; ".join(declined))


ATTENTION.register("auto")(AutoAttention())
