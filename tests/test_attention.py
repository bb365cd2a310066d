"""Every attention backend: within segments what ``reference`` says, between segments nothing."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask

from elastictool.errors import UsageError
from elastictool.models.attention.base import (
    ATTENTION,
    _fastest,
    choose_attention,
    require_support,
)
from elastictool.models.attention.flex import segment_block_mask
from elastictool.models.attention.reference import ReferenceAttention, attention_weights
from elastictool.models.attention.varlen import VarlenAttention
from elastictool.packing.layout import FILLER, SegmentLayout, build_layout
from tests.attention_backends import CPU, TRAINABLE, plain_varlen, varlen_without_cuda  # noqa: F401

HEADS, HEAD_WIDTH, SCALE = 2, 8, 0.6
ROWS = [[5, 1, 9], [3, 3, 3], [12]]
BACKENDS = TRAINABLE
LAYOUTS = [pytest.param(False, id="flat"), pytest.param(True, id="padded_rows")]
PLANTED = [math.nan, math.inf, 1e30, 1e200]

rows_of_lengths = st.lists(
    st.lists(st.integers(1, 12), min_size=1, max_size=4), min_size=1, max_size=4
)


def draw_qkv(layout: SegmentLayout, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    """(3, num_slots, H, d) normal numbers, wide enough to make the softmax uneven."""
    generator = torch.Generator().manual_seed(seed)
    shape = (3, layout.num_slots, HEADS, HEAD_WIDTH)
    return 2 * torch.randn(shape, generator=generator, dtype=dtype)


def attend(name: str, qkv: Tensor, layout: SegmentLayout) -> Tensor:
    """The backend's outputs for tokens only, (tokens, H, d)."""
    q, k, v = qkv
    return ATTENTION[name](q, k, v, layout, SCALE)[layout.token_slots]


def attend_and_grad(
    name: str, qkv: Tensor, layout: SegmentLayout, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """Outputs, and the gradient of (outputs x weight) summed, in tokens' slots."""
    qkv = qkv.clone().requires_grad_()
    out = attend(name, qkv, layout)
    (grad,) = torch.autograd.grad(out, qkv, weight)
    return out.detach(), grad[:, layout.token_slots]


@pytest.mark.parametrize("padded_rows", LAYOUTS)
@pytest.mark.parametrize("name", BACKENDS)
@settings(deadline=None, max_examples=25)
@given(rows=rows_of_lengths, seed=st.integers(0, 2**31), size=st.sampled_from([0.1, 1.0, 30.0]))
def test_agrees_with_the_reference_forward_and_backward(
    name: str, padded_rows: bool, rows: list[list[int]], seed: int, size: float
) -> None:
    reference = build_layout(rows, padded_rows=True)
    layout = build_layout(rows, padded_rows=padded_rows)
    qkv = size * draw_qkv(reference, seed=seed)
    stream = qkv.new_zeros(3, layout.num_slots, HEADS, HEAD_WIDTH)
    stream[:, layout.token_slots] = qkv[:, reference.token_slots]
    weight = torch.randn(layout.num_tokens, HEADS, HEAD_WIDTH, dtype=torch.float64)
    expected = attend_and_grad("reference", qkv, reference, weight)
    for found, wanted in zip(attend_and_grad(name, stream, layout, weight), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("padded_rows", LAYOUTS)
@pytest.mark.parametrize("name", BACKENDS)
def test_equals_plain_attention_of_each_segment_alone(name: str, padded_rows: bool) -> None:
    layout = build_layout(ROWS, padded_rows=padded_rows)
    qkv = draw_qkv(layout)
    alone = []
    for q, k, v in zip(
        *(part.split(layout.lengths) for part in qkv[:, layout.token_slots]), strict=True
    ):
        weights = (SCALE * torch.einsum("ihd,jhd->hij", q, k)).softmax(-1)
        alone.append(torch.einsum("hij,jhd->ihd", weights, v))
    torch.testing.assert_close(attend(name, qkv, layout), torch.cat(alone), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("name", BACKENDS)
def test_lower_precision_stays_close(name: str, dtype: torch.dtype, tolerance: float) -> None:
    layout = build_layout([[5, 40, 1_100], [7]])
    qkv = (0.5 * draw_qkv(layout)).to(dtype)
    exact = attend(name, qkv.double(), layout)
    out = attend(name, qkv, layout)
    assert out.dtype == dtype
    assert (out.double() - exact).norm() < tolerance * exact.norm()


@pytest.mark.parametrize("padded_rows", LAYOUTS)
def test_cross_clip_attention_weights_are_exactly_zero(padded_rows: bool) -> None:
    layout = build_layout(ROWS, padded_rows=padded_rows)
    q, k, _ = draw_qkv(layout)
    weights = attention_weights(q, k, layout, SCALE)
    batch, length = layout.rows_shape or (1, layout.num_slots)
    ids = layout.segment_ids.view(batch, 1, length)
    same = (ids.transpose(1, 2) == ids)[:, None].expand_as(weights)
    assert (weights[~same] == 0).all()
    assert (weights[same] > 0).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))


@pytest.mark.parametrize("padded_rows", LAYOUTS)
@pytest.mark.parametrize("name", BACKENDS)
def test_no_output_depends_on_another_segment(name: str, padded_rows: bool) -> None:
    layout = build_layout([[3, 2], [4]], padded_rows=padded_rows)
    qkv = draw_qkv(layout)
    qkv.requires_grad_()
    out = attend(name, qkv, layout)
    grads = [torch.autograd.grad(value, qkv, retain_graph=True)[0] for value in out.flatten()]
    influence = (
        torch.stack(grads).abs().sum((1, 3, 4)).view(layout.num_tokens, -1, layout.num_slots)
    )
    influence = influence.sum(1)
    owner = layout.segment_ids[layout.token_slots]
    foreign = owner[:, None] != layout.segment_ids[None, :]
    assert (influence[foreign] == 0).all()
    assert (influence[~foreign] > 0).all()


@pytest.mark.parametrize("padded_rows", LAYOUTS)
@pytest.mark.parametrize("name", BACKENDS)
def test_changing_one_segment_leaves_all_others_bit_for_bit(name: str, padded_rows: bool) -> None:
    layout = build_layout(ROWS, padded_rows=padded_rows)
    qkv = draw_qkv(layout, torch.float32)
    before = attend(name, qkv, layout)
    owner = layout.segment_ids[layout.token_slots]
    for segment in range(layout.num_segments):
        changed = qkv.clone()
        changed[:, layout.segment_ids == segment] *= -3
        after = attend(name, changed, layout)
        assert torch.equal(after[owner != segment], before[owner != segment])
        assert not torch.equal(after[owner == segment], before[owner == segment])


@pytest.mark.parametrize("planted", PLANTED)
@pytest.mark.parametrize("where", [[0], [1], [2], [0, 1, 2]], ids=["q", "k", "v", "all"])
@pytest.mark.parametrize("padded_rows", LAYOUTS)
@pytest.mark.parametrize("name", BACKENDS)
def test_a_broken_segment_reaches_no_other_output_or_gradient(
    name: str, padded_rows: bool, where: list[int], planted: float
) -> None:
    layout = build_layout(ROWS, padded_rows=padded_rows)
    qkv = draw_qkv(layout)
    owner = layout.segment_ids[layout.token_slots]
    broken = qkv.clone()
    for part in where:
        broken[part, layout.segment_ids == 2] = planted
    others = owner != 2
    everything = torch.ones(layout.num_tokens, HEADS, HEAD_WIDTH, dtype=torch.float64)
    out, grad = attend_and_grad(name, qkv, layout, everything)
    for upstream in (1.0, 0.0, math.nan):
        weight = everything.masked_fill(~others[:, None, None], upstream)
        if math.isnan(upstream) and attend(name, broken, layout).isfinite().all():
            continue  # no broken output, so nothing broken comes back
        broken_out, broken_grad = attend_and_grad(name, broken, layout, weight)
        torch.testing.assert_close(broken_out[others], out[others], rtol=0, atol=1e-12)
        torch.testing.assert_close(broken_grad[:, others], grad[:, others], rtol=0, atol=1e-12)
        if math.isnan(planted):
            assert broken_out[~others].isnan().any()


@pytest.mark.parametrize("name", BACKENDS)
def test_filler_slots_are_finite(name: str) -> None:
    layout = build_layout(ROWS, padded_rows=True)
    q, k, v = draw_qkv(layout)
    assert (layout.segment_ids == FILLER).any()
    out = ATTENTION[name](q, k, v, layout, SCALE)
    assert out[layout.segment_ids == FILLER].isfinite().all()


@pytest.mark.parametrize("name", BACKENDS)
def test_differentiates_as_finite_differences_do(name: str) -> None:
    layout = build_layout([[2, 3], [1]], padded_rows=True)
    qkv = draw_qkv(layout)[:, :, :, :2].requires_grad_()
    assert torch.autograd.gradcheck(lambda x: attend(name, x, layout), qkv)


def test_reference_builds_the_mask_once_for_all_layers() -> None:
    backend = ReferenceAttention()
    layout = build_layout(ROWS, padded_rows=True)
    first = backend.mask(layout)
    assert backend.mask(layout) is first
    assert backend.mask(build_layout(ROWS, padded_rows=True)) is not first


def test_split_sends_neighbours_of_equal_length_through_one_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shapes: list[tuple[int, ...]] = []
    original = F.scaled_dot_product_attention

    def spy(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        shapes.append(tuple(q.shape[:3]))
        return original(q, k, v, scale=scale)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    layout = build_layout([[4, 4], [4, 6]])
    attend("split", draw_qkv(layout), layout)
    assert shapes == [(3, HEADS, 4), (1, HEADS, 6)]


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@settings(deadline=None, max_examples=15)
@given(rows=rows_of_lengths, multiple=st.sampled_from([1, 8, 64]), padded_rows=st.booleans())
def test_flex_agrees_with_the_reference_forward(
    rows: list[list[int]], multiple: int, padded_rows: bool
) -> None:
    layout = build_layout(rows, padded_rows=padded_rows, multiple=multiple)
    qkv = draw_qkv(layout)
    torch.testing.assert_close(attend("flex", qkv, layout), attend("reference", qkv, layout))


@pytest.mark.parametrize("rows", [[[300, 5, 128], [1, 700]], [[128, 128, 256]], [[40] * 20]])
@pytest.mark.parametrize("padded_rows", LAYOUTS)
def test_flex_block_mask_equals_the_one_torch_finds_pair_by_pair(
    rows: list[list[int]], padded_rows: bool
) -> None:
    layout = build_layout(rows, padded_rows=padded_rows)
    ids, length = layout.segment_ids, layout.num_slots
    mask = segment_block_mask(layout)
    wanted = create_block_mask(lambda b, h, q, k: ids[q] == ids[k], None, None, length, length, CPU)
    assert torch.equal(mask.to_dense(), wanted.to_dense())
    assert torch.equal(mask.kv_num_blocks, wanted.kv_num_blocks)
    assert torch.equal(mask.full_kv_num_blocks, wanted.full_kv_num_blocks)


def test_varlen_folds_the_scale_into_q_where_the_kernel_knows_none() -> None:
    def without_scale(q: Tensor, k: Tensor, v: Tensor, *places: Tensor | int) -> Tensor:
        return plain_varlen(q, k, v, *places)  # type: ignore[arg-type]

    layout = build_layout(ROWS)
    q, k, v = draw_qkv(layout)
    out = VarlenAttention(without_scale)(q, k, v, layout, SCALE)
    torch.testing.assert_close(out, ATTENTION["reference"](q, k, v, layout, SCALE))


@pytest.mark.parametrize("name", [*BACKENDS])
def test_filling_the_stream_up_changes_no_output(name: str) -> None:
    plain, filled = build_layout(ROWS), build_layout(ROWS, multiple=64)
    assert filled.num_slots == 64 and plain.num_slots == filled.num_tokens == plain.num_tokens
    qkv = draw_qkv(plain)
    stream = qkv.new_full((3, 64, HEADS, HEAD_WIDTH), 0.5)
    stream[:, filled.token_slots] = qkv
    torch.testing.assert_close(attend(name, stream, filled), attend(name, qkv, plain))


def test_a_backend_that_cannot_serve_says_why() -> None:
    with pytest.raises(UsageError, match="needs a CUDA device") as caught:
        VarlenAttention()(*draw_qkv(build_layout(ROWS)), build_layout(ROWS), SCALE)
    assert "auto" in caught.value.hint
    with pytest.raises(UsageError, match="cannot train on a CPU"):
        require_support("flex", CPU, torch.float32, training=True)


@pytest.mark.parametrize(
    "capability, triton, dtype, chosen",
    [
        ((9, 0), True, torch.bfloat16, "varlen"),
        ((9, 0), True, torch.float32, "flex"),
        ((7, 5), True, torch.float16, "flex"),
        ((7, 5), False, torch.bfloat16, "split"),
    ],
)
def test_auto_on_cuda_takes_the_first_of_varlen_flex_split_that_can(
    monkeypatch: pytest.MonkeyPatch,
    capability: tuple[int, int],
    triton: bool,
    dtype: torch.dtype,
    chosen: str,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object() if triton else None)
    _fastest.cache_clear()
    try:
        assert choose_attention("auto", "cuda", dtype) == chosen
    finally:
        _fastest.cache_clear()


def test_auto_takes_split_on_a_cpu() -> None:
    assert choose_attention("auto", "cpu", torch.float32) == "split"
    assert choose_attention("reference") == "reference"


def test_an_unknown_backend_is_a_usage_error_that_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="refrence") as caught:
        choose_attention("refrence")
    assert "'reference'" in caught.value.hint
