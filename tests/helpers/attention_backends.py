"""Which attention backends the property tests run over, and a stand-in for the CUDA kernel."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from elastictool.models.attention.base import ATTENTION, AttentionInputs

CPU = torch.device("cpu")
TRAINABLE = sorted(
    {
        name
        for name in ATTENTION
        if not ATTENTION[name].unsupported(AttentionInputs(CPU, torch.float64))
    }
    | {"varlen"}
)


def plain_varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float | None = None,
) -> Tensor:
    """What ``varlen_attn`` computes, by its documentation."""
    assert query.ndim == key.ndim == value.ndim == 3
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    # On the meta device lengths have no values; any spans give the right shape.
    meta = cu_seq_q.device.type == "meta"
    lengths = [len(query)] if meta else cu_seq_q.diff().tolist()
    assert sum(lengths) == len(query)
    assert meta or max(lengths) == max_q == max_k
    spans = zip(*(part.split(lengths) for part in (query, key, value)), strict=True)
    heads_first = ([part.transpose(0, 1) for part in span] for span in spans)
    return torch.cat(
        [F.scaled_dot_product_attention(*qkv, scale=scale).transpose(0, 1) for qkv in heads_first]
    )


@pytest.fixture(scope="module", autouse=True)
def varlen_without_cuda() -> Iterator[None]:
    """Let ``varlen`` run on this machine, with the stand-in in the kernel's place."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ATTENTION["varlen"], "_kernel", plain_varlen)
        yield
