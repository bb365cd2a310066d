"""Defines the interface of attention backends, their registry, and the choice of ``auto``.

All models attend within segments only; backends differ in how they compute it. Each takes the flat
stream of queries, keys and values and the batch's layout. A new backend is one new file here and
its name in the registry; the property tests run over the registry.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import sys
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import lru_cache
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from elastictool.packing.layout import SegmentLayout
from elastictool.utils.errors import UsageError
from elastictool.utils.registry import Registry

_LOG = logging.getLogger(__name__)
T = TypeVar("T")
HEAD_WIDTH = 64
"""d of all sizes of ViT."""


class AttentionInputs(NamedTuple):
    """Properties of queries, keys and values on which the choice of a backend depends.

    Attributes:
        device: Where the stream is.
        dtype: Of queries, keys and values.
        training: Whether a backward pass follows.
        head_width: d, the last dimension of queries, keys and values.
    """

    device: torch.device
    dtype: torch.dtype
    training: bool = True
    head_width: int = HEAD_WIDTH

    @classmethod
    def of(cls, q: Tensor) -> AttentionInputs:
        """Returns the properties of (stream_length, H, d) queries."""
        return cls(q.device, q.dtype, q.requires_grad and torch.is_grad_enabled(), q.shape[-1])


class AttentionBackend(ABC):
    """Attention within segments.

    Attributes:
        padded_rows: The backend computes on the paper's padded rows (``collate(...,
            padded_rows=True)``); every backend takes both kinds of layout.
    """

    padded_rows = False

    def unsupported(self, inputs: AttentionInputs) -> str:
        """Returns why the backend cannot take such ``inputs``; empty if it can."""
        return ""

    @abstractmethod
    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, layout: SegmentLayout, scale: float
    ) -> Tensor:
        """Attends: softmax(scale q k^T) v over the tokens of each segment.

        Args:
            q: (stream_length, H, d) queries; k and v alike.
            k: Keys.
            v: Values.
            layout: Which token belongs to which segment.
            scale: Factor on the scores before the softmax.

        Returns:
            (stream_length, H, d); finite and without meaning in padding.
        """


class OncePerLayout(Generic[T]):
    """Calls ``make`` once for all layers of a forward pass: it keeps the result of one layout."""

    def __init__(self, make: Callable[[SegmentLayout], T]) -> None:
        self._make = make
        self._last: tuple[weakref.ref[SegmentLayout], T] | None = None

    def __call__(self, layout: SegmentLayout) -> T:
        """Returns what ``make`` returns for ``layout``."""
        last = self._last
        if last is None or last[0]() is not layout:
            self._last = last = (weakref.ref(layout), self._make(layout))
        return last[1]


ATTENTION: Registry[AttentionBackend] = Registry(
    "attention backend",
    tuple(
        f"elastictool.models.attention.{name}" for name in ("reference", "split", "varlen", "flex")
    ),
)

FASTEST_FIRST = ("varlen", "flex", "split")
"""The order in which ``auto`` tries backends; ``flex`` declines on a CPU."""


def choose_attention(
    name: str,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    training: bool = True,
    head_width: int = HEAD_WIDTH,
) -> str:
    """Returns ``name``, or for ``auto`` the fastest backend for such tensors.

    Raises:
        UsageError: There is no backend called ``name``.
    """
    if name == "auto":
        return fastest(AttentionInputs(torch.device(device), dtype, training, head_width))[0]
    ATTENTION[name]
    return name


def fastest(inputs: AttentionInputs) -> tuple[str, tuple[str, ...]]:
    """Returns the first of ``FASTEST_FIRST`` that works, and why each one before it does not."""
    declined: list[str] = []
    for name in FASTEST_FIRST[:-1]:
        reason = _reason(name, inputs)
        # Compiling FlexAttention takes tens of seconds, for training and inference each. A
        # training run gets them back; predict, eval and embed would wait for their first output.
        if not reason and name == "flex" and not inputs.training:
            reason = "without gradients it would compile for longer than it saves"
        if not reason:
            return name, tuple(declined)
        declined.append(f"not {name}: {reason}")
    return FASTEST_FIRST[-1], tuple(declined)


def require_support(name: str, inputs: AttentionInputs) -> AttentionBackend:
    """Returns the backend called ``name`` if it can take these ``inputs``.

    Raises:
        UsageError: It cannot, or there is none of that name.
    """
    reason = _reason(name, inputs)
    if reason:
        raise UsageError(
            f"the attention backend {name!r} cannot be used here: {reason}",
            "leave the choice to --attention auto",
        )
    return ATTENTION[name]


@lru_cache(maxsize=64)
def _reason(name: str, inputs: AttentionInputs) -> str:
    """Caches ``unsupported``, which may look at the disk, for all layers."""
    return ATTENTION[name].unsupported(inputs)


class AutoAttention(AttentionBackend):
    """Passes every call to the backend that ``fastest`` names.

    The choice is made when tokens arrive, not when the model is built: a model may be moved to
    another device or run under autocast afterwards. On a GPU a warning gives the reasons why faster
    backends cannot be used, because often they can be removed.
    """

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


def missing_for_triton() -> str:
    """Returns what triton lacks to compile code for CUDA at run time; empty if nothing is.

    Source: triton's ``runtime/build.py``, for the compilers it looks for where CC is not set.
    """
    if importlib.util.find_spec("triton") is None:
        return "it needs triton"
    # Triton compiles the code that starts its kernels; on Windows it brings a compiler along.
    named = os.environ.get("CC")
    compilers = ("gcc", "clang") if named is None else (named,)
    if sys.platform == "win32" or any(map(shutil.which, compilers)):
        return ""
    if named is not None:
        return f"it needs a C compiler, and {named!r} (the variable CC) is not there"
    return "it needs a C compiler (gcc, clang, or one named in the variable CC)"
