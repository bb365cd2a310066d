"""Defines the linear layers, whose products in bfloat16 on a CPU come in few shapes.

oneDNN compiles code for every shape of a product and keeps it, half a megabyte each. Batches of
clips have as many shapes as numbers of tokens, and a layer has three products: memory would grow by
more than a gigabyte within some epochs, and a smaller cache would compile again at every step. So
rows are computed in blocks of a few sizes, and only the last block is padded. Other types and
devices have no such cache and take ``F.linear``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLOCK_ROWS = (1_024, 512, 256, 128)
"""Rows that are computed together; the last block is padded to the smallest of these."""


class Linear(nn.Linear):
    """``nn.Linear`` on (N, in) rows, by ``linear``."""

    def forward(self, rows: Tensor) -> Tensor:
        """(N, in) to (N, out)."""
        return linear(rows, self.weight, self.bias)


def linear(rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Returns what ``F.linear`` returns for (N, in) rows, computed in few shapes where these cost.

    The gradient of the weight is added up in float32 over the blocks.
    """
    if not compiled_by_shape(rows):
        return F.linear(rows, weight, bias)
    out: Tensor = _BlockLinear.apply(rows, weight, bias)  # type: ignore[no-untyped-call]
    return out


def compiled_by_shape(rows: Tensor) -> bool:
    """Returns whether products with ``rows`` are compiled and kept for every shape."""
    if rows.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    autocast = torch.is_autocast_enabled("cpu")
    return (torch.get_autocast_dtype("cpu") if autocast else rows.dtype) == torch.bfloat16


class _BlockLinear(torch.autograd.Function):
    """Computes a linear layer in bfloat16, block by block, forward and backward."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        half, kernel, offset = (tensor.to(torch.bfloat16) for tensor in (rows, weight, bias))
        ctx.save_for_backward(half, kernel)
        ctx.dtypes = rows.dtype, weight.dtype, bias.dtype
        out = half.new_empty((len(half), len(kernel)))
        for part, size in _blocks(len(half)):
            _write(torch.addmm, out[part], offset, _padded(half[part], size), kernel.t())
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        half, kernel = ctx.saved_tensors
        of_rows, of_weight, of_bias = ctx.needs_input_grad
        rows = torch.empty_like(half) if of_rows else None
        weight = torch.zeros_like(kernel, dtype=torch.float32) if of_weight else None
        for part, size in _blocks(len(half)):
            block = _padded(gradient[part], size)
            if rows is not None:
                _write(torch.mm, rows[part], block, kernel)
            if weight is not None:
                weight += block.t() @ _padded(half[part], size)
        bias = gradient.sum(0) if of_bias else None
        given = zip((rows, weight, bias), ctx.dtypes, strict=True)
        made = [value if value is None else value.to(dtype) for value, dtype in given]
        return made[0], made[1], made[2]


def _blocks(count: int) -> Iterator[tuple[slice, int]]:
    """Yields the blocks of ``count`` rows: which rows, and how many with padding."""
    first, smallest = 0, BLOCK_ROWS[-1]
    while first < count:
        left = -(-(count - first) // smallest) * smallest
        size = next(rows for rows in BLOCK_ROWS if rows <= left)
        yield slice(first, min(first + size, count)), size
        first += size


def _padded(rows: Tensor, size: int) -> Tensor:
    """Returns (size, D) rows, padded with zeros."""
    return rows if len(rows) == size else F.pad(rows, (0, 0, 0, size - len(rows)))


def _write(product: Any, out: Tensor, *operands: Tensor) -> None:
    """Writes ``product`` of the operands to ``out``, without its padded rows."""
    if len(operands[-2]) == len(out):
        product(*operands, out=out)
    else:
        out.copy_(product(*operands)[: len(out)])
