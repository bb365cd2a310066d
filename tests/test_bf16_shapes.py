"""Products in bfloat16 on a CPU come in few shapes, and give what they should."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.memory import anonymous_mb
from elastictool import ElasticAST, pack
from elastictool.models.attention.base import ATTENTION
from elastictool.models.attention.split import MATRIX_PRODUCT_TOKENS, padded_length
from elastictool.models.linear import BLOCK_ROWS, linear
from elastictool.packing.batch import PackedBatch
from elastictool.packing.layout import build_layout
from elastictool.utils.heap import trim_heap


class Products(TorchDispatchMode):
    """Notes the shapes of all matrix products in bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: set[tuple[Any, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in (
            torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.bmm, torch.ops.aten.baddbmm,
        ):  # fmt: skip
            tensors = [arg for arg in args if isinstance(arg, Tensor)][-2:]
            if tensors[0].dtype == torch.bfloat16:
                self.shapes.add(tuple(tuple(tensor.shape) for tensor in tensors))
        return func(*args, **(kwargs or {}))


def batch_of(columns: list[int]) -> PackedBatch:
    generator = torch.Generator().manual_seed(sum(columns))
    fbanks = [torch.randn(16 * count, 128, generator=generator) for count in columns]
    return pack(fbanks, torch.arange(len(columns)) % 5, patch_size=16)


def step(model: torch.nn.Module, batch: PackedBatch) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(batch)
    F.cross_entropy(logits.float(), batch.targets).backward()


def model() -> ElasticAST:
    torch.manual_seed(0)
    return ElasticAST("tiny", num_classes=5, depth=1)


def test_batches_of_any_lengths_have_few_shapes() -> None:
    trained, found = model(), Products()
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 40, (40, 6), generator=generator).tolist()
    with found:
        for columns in lengths:
            step(trained, batch_of(columns))
    linears = [shape for shape in found.shapes if len(shape[0]) == 2]
    attention = [shape for shape in found.shapes if len(shape[0]) == 3]
    # Seven layers, three products each, at most; and six products of an attention.
    assert len(linears) <= 7 * 3 * len(BLOCK_ROWS)
    lengths_in_use = {padded_length(8 * count) for row in lengths for count in row}
    single = [shape for shape in attention if shape[0][0] == 3]  # one clip, three heads
    assert 0 < len(single) <= 6 * len(lengths_in_use) <= 6 * 16


def test_equal_neighbours_come_in_few_numbers() -> None:
    trained, found = model(), Products()
    with found:
        for copies in range(1, 17):
            step(trained, batch_of([4] * copies))
    attention = [shape for shape in found.shapes if len(shape[0]) == 3]
    assert {shape[0][0] // 3 for shape in attention} == {1, 2, 4, 8, 16}
    assert len(attention) <= 6 * 5


def test_lengths_are_few_and_close() -> None:
    lengths = range(1, MATRIX_PRODUCT_TOKENS + 1)
    padded = [padded_length(length) for length in lengths]
    assert len(set(padded)) <= 16
    added = [more - length for length, more in zip(lengths, padded, strict=True)]
    assert all(0 <= more < max(32, length / 4) for length, more in zip(lengths, added, strict=True))


def gradients(
    apply: Callable[[Tensor, Tensor, Tensor], Tensor], tensors: tuple[Tensor, ...]
) -> list[Tensor]:
    inputs = [tensor.clone().requires_grad_() for tensor in tensors]
    out = apply(*inputs)
    out.backward(torch.linspace(-1, 1, out.numel()).view_as(out).to(out.dtype))
    return [out.detach(), *(tensor.grad for tensor in inputs if tensor.grad is not None)]


@pytest.mark.parametrize("rows", [1, 12, 127, 128, 129, 640, 1_024, 1_500, 3_001])
def test_a_layer_in_blocks_is_a_linear_layer(rows: int) -> None:
    generator = torch.Generator().manual_seed(rows)
    tensors = tuple(
        torch.randn(*size, generator=generator) for size in ((rows, 64), (96, 64), (96,))
    )
    exact = gradients(F.linear, tuple(tensor.double() for tensor in tensors))
    with torch.autocast("cpu", torch.bfloat16):
        found, plain = gradients(linear, tensors), gradients(F.linear, tensors)
    for value, usual, right in zip(found, plain, exact, strict=True):
        assert value.dtype == usual.dtype
        error = (value.double() - right).norm() / right.norm()
        assert error <= 1.1 * (usual.double() - right).norm() / right.norm() + 1e-6
    half = tuple(tensor.bfloat16() for tensor in tensors)
    assert all(value.dtype == torch.bfloat16 for value in gradients(linear, half))


def test_other_types_are_left_alone() -> None:
    tensors = torch.randn(300, 64), torch.randn(96, 64), torch.randn(96)
    for left, right in zip(gradients(linear, tensors), gradients(F.linear, tensors), strict=True):
        assert torch.equal(left, right)


@pytest.mark.parametrize("lengths", [(1, 7, 8, 9), (65, 65, 65, 128), (100, 3, 130, 257)])
def test_padded_attention_is_attention(lengths: tuple[int, ...]) -> None:
    layout = build_layout([lengths])
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(sum(lengths), 2, 16, generator=generator) for _ in range(3))

    def attend(name: str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        return lambda *qkv: ATTENTION[name](*qkv, layout, 0.25)

    exact = gradients(attend("reference"), (q.double(), k.double(), v.double()))
    found = gradients(attend("split"), (q.bfloat16(), k.bfloat16(), v.bfloat16()))
    for value, right in zip(found, exact, strict=True):
        assert value.isfinite().all()
        assert (value.double() - right).norm() < 0.02 * right.norm()


def test_a_clip_in_bfloat16_does_not_depend_on_others() -> None:
    trained = model().eval()
    one, two = batch_of([5, 11, 23]), batch_of([5, 11, 23])
    (group,) = two.patch_groups
    others = two.layout.segment_ids[group.token_indices] != 1
    group.patches[others] = torch.randn(int(others.sum()), group.patches.shape[1])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        first, second = trained(one), trained(two)
    assert torch.equal(first[1], second[1]) and not torch.equal(first[0], second[0])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_free_pages_below_used_ones_are_returned() -> None:
    blocks = [bytearray(64_000) for _ in range(1_000)]
    kept = blocks[::50]
    used = anonymous_mb()
    del blocks
    trim_heap()
    assert anonymous_mb() < used - 40 and all(map(len, kept))
