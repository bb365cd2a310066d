"""What an attention backend is, and which one ``auto`` means.

All models attend within segments only, and the backends differ in how they get there. Each takes
the flat stream of queries, keys and values and the batch's layout, so that a new backend is one
new file here plus its name in the table, and the property tests run over it at once.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from elastictool.packing.layout import SegmentLayout
from elastictool.utils.errors import UsageError
from elastictool.utils.registry import Registry

HEAD_WIDTH = 64
"""d of all sizes of ViT; what is asked about where no head width is named."""


class AttentionInputs(NamedTuple):
    """What queries, keys and values are made of, as far as backends differ in what they take.

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
        """What (stream_length, H, d) queries say of all three."""
        return cls(q.device, q.dtype, q.requires_grad and torch.is_grad_enabled(), q.shape[-1])


class AttentionBackend(Protocol):
    """Attention within segments.

    Attributes:
        padded_rows: The backend is made for the paper's padded rows (``collate(...,
            padded_rows=True)``); every backend takes both kinds of layout.
    """

    padded_rows: bool

    def unsupported(self, inputs: AttentionInputs) -> str:
        """Why the backend cannot serve such ``inputs``; empty where it can."""
        ...

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, layout: SegmentLayout, scale: float
    ) -> Tensor:
        """Attend: softmax(scale q k^T) v over the tokens of each segment.

        Args:
            q: (stream_length, H, d) queries; k and v alike.
            k: Keys.
            v: Values.
            layout: Which token belongs to which segment.
            scale: Factor on the scores before the softmax.

        Returns:
            (stream_length, H, d); finite and without meaning in padding.
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


def choose_attention(
    name: str,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    training: bool = True,
    head_width: int = HEAD_WIDTH,
) -> str:
    """The backend to use: ``name``, or for ``auto`` the fastest for such tensors.

    Raises:
        UsageError: There is no backend called ``name``.
    """
    if name == "auto":
        return fastest(AttentionInputs(torch.device(device), dtype, training, head_width))[0]
    ATTENTION[name]
    return name


def fastest(inputs: AttentionInputs) -> tuple[str, tuple[str, ...]]:
    """The first of ``FASTEST_FIRST`` that serves, and why each one before it does not."""
    declined: list[str] = []
    for name in FASTEST_FIRST[:-1]:
        reason = _reason(name, inputs)
        # Compiling FlexAttention takes tens of seconds, for training and inference each. A
        # training run gets them back; the first answer of predict, eval or embed would wait.
        if not reason and name == "flex" and not inputs.training:
            reason = "without gradients it would compile for longer than it saves"
        if not reason:
            return name, tuple(declined)
        declined.append(f"not {name}: {reason}")
    return FASTEST_FIRST[-1], tuple(declined)


def require_support(name: str, inputs: AttentionInputs) -> AttentionBackend:
    """The backend called ``name``, which must be able to serve these ``inputs``.

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
    """``unsupported``, which may look at the disk, asked once and not in every layer."""
    return ATTENTION[name].unsupported(inputs)
