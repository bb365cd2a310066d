"""Every attention backend: equal to ``reference`` within segments, no effect between them."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._dynamo.utils import counters
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from elastictool.models.attention.base import (
    ATTENTION,
    AttentionInputs,
    AutoAttention,
    _reason,
    choose_attention,
    missing_for_triton,
    require_support,
)
from elastictool.models.attention.flex import FlexAttention, segment_block_mask
from elastictool.models.attention.reference import (
    ReferenceAttention,
    attention_weights,
    same_segment_mask,
)
from elastictool.models.attention.varlen import VarlenAttention
from elastictool.packing.layout import PAD, SegmentLayout, build_layout, map_tensors
from elastictool.utils.errors import UsageError
from tests.helpers.attention_backends import CPU, TRAINABLE, plain_varlen, varlen_without_cuda  # noqa: F401

HEADS, HEAD_WIDTH, SCALE = 2, 8, 0.6
ROWS = [[5, 1, 9], [3, 3, 3], [12]]
BACKENDS = TRAINABLE
LAYOUTS = [pytest.param(False, id="flat"), pytest.param(True, id="padded_rows")]
PLANTED = [math.nan, math.inf, 1e30, 1e200]

rows_of_lengths = st.lists(
    st.lists(st.integers(1, 12), min_size=1, max_size=4), min_size=1, max_size=4
)


def draw_qkv(layout: SegmentLayout, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    """(3, stream_length, H, d) normal numbers, wide enough to make the softmax uneven."""
    generator = torch.Generator().manual_seed(seed)
    shape = (3, layout.stream_length, HEADS, HEAD_WIDTH)
    return 2 * torch.randn(shape, generator=generator, dtype=dtype)


def attend(name: str, qkv: Tensor, layout: SegmentLayout) -> Tensor:
    """The backend's outputs for tokens only, (tokens, H, d)."""
    q, k, v = qkv
    return ATTENTION[name](q, k, v, layout, SCALE)[layout.token_indices]


def attend_and_grad(
    name: str, qkv: Tensor, layout: SegmentLayout, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """Outputs, and the gradient of (outputs x weight) summed, of all tokens."""
    qkv = qkv.clone().requires_grad_()
    out = attend(name, qkv, layout)
    (grad,) = torch.autograd.grad(out, qkv, weight)
    return out.detach(), grad[:, layout.token_indices]


@pytest.mark.parametrize("padded_rows", LAYOUTS)
@pytest.mark.parametrize("name", BACKENDS)
@settings(max_examples=25)
@given(rows=rows_of_lengths, seed=st.integers(0, 2**31), size=st.sampled_from([0.1, 1.0, 30.0]))
def test_agrees_with_the_reference_forward_and_backward(
    name: str, padded_rows: bool, rows: list[list[int]], seed: int, size: float
) -> None:
    reference = build_layout(rows, padded_rows=True)
    layout = build_layout(rows, padded_rows=padded_rows)
    qkv = size * draw_qkv(reference, seed=seed)
    stream = qkv.new_zeros(3, layout.stream_length, HEADS, HEAD_WIDTH)
    stream[:, layout.token_indices] = qkv[:, reference.token_indices]
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
        *(part.split(layout.lengths) for part in qkv[:, layout.token_indices]), strict=True
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
    weights = attention_weights(q, k, same_segment_mask(layout), layout, SCALE)
    batch, length = layout.rows_shape or (1, layout.stream_length)
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
        torch.stack(grads).abs().sum((1, 3, 4)).view(layout.num_tokens, -1, layout.stream_length)
    )
    influence = influence.sum(1)
    owner = layout.segment_ids[layout.token_indices]
    foreign = owner[:, None] != layout.segment_ids[None, :]
    assert (influence[foreign] == 0).all()
    assert (influence[~foreign] > 0).all()


@pytest.mark.parametrize("padded_rows", LAYOUTS)
@pytest.mark.parametrize("name", BACKENDS)
def test_changing_one_segment_leaves_all_others_bit_for_bit(name: str, padded_rows: bool) -> None:
    layout = build_layout(ROWS, padded_rows=padded_rows)
    qkv = draw_qkv(layout, torch.float32)
    before = attend(name, qkv, layout)
    owner = layout.segment_ids[layout.token_indices]
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
    owner = layout.segment_ids[layout.token_indices]
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
def test_padding_is_finite(name: str) -> None:
    layout = build_layout(ROWS, padded_rows=True)
    q, k, v = draw_qkv(layout)
    assert (layout.segment_ids == PAD).any()
    out = ATTENTION[name](q, k, v, layout, SCALE)
    assert out[layout.segment_ids == PAD].isfinite().all()


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
@settings(max_examples=15)
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
    assert_blocks_are_those_of_all_pairs(build_layout(rows, padded_rows=padded_rows))


@settings(max_examples=40)
@given(
    rows=st.lists(
        st.lists(st.integers(1, 9) | st.integers(10, 500), min_size=1, max_size=6),
        min_size=1,
        max_size=3,
    ),
    block=st.sampled_from([8, 128]),
    multiple=st.sampled_from([1, 64]),
    padded_rows=st.booleans(),
)
def test_flex_block_mask_of_any_layout_equals_that_of_all_pairs(
    rows: list[list[int]], block: int, multiple: int, padded_rows: bool
) -> None:
    layout = build_layout(rows, padded_rows=padded_rows, multiple=multiple)
    assert_blocks_are_those_of_all_pairs(layout, block)


def assert_blocks_are_those_of_all_pairs(layout: SegmentLayout, block: int = 128) -> None:
    """Padding is a span of its own wherever it is, as in ``split`` and ``varlen``."""
    spans = torch.repeat_interleave(torch.tensor(layout.span_lengths))
    mask = segment_block_mask(layout, block)
    wanted = create_block_mask(
        lambda b, h, q, k: spans[q] == spans[k],
        None, None, layout.stream_length, layout.stream_length, CPU, BLOCK_SIZE=block,
    )  # fmt: skip
    assert mask.shape == wanted.shape
    assert torch.equal(mask.to_dense(), wanted.to_dense())
    for kind in ("kv", "full_kv", "q", "full_q"):
        counts, indices = (getattr(mask, f"{kind}_{part}") for part in ("num_blocks", "indices"))
        assert torch.equal(counts, getattr(wanted, f"{kind}_num_blocks"))
        listed = torch.arange(indices.shape[-1]) < counts[..., None]
        assert torch.equal(indices[listed], getattr(wanted, f"{kind}_indices")[listed])


def test_flex_compiles_one_kernel_for_fifty_layouts() -> None:
    torch.compiler.reset()
    counters.clear()
    backend = FlexAttention(torch.compile(flex_attention, dynamic=True, backend="eager"))
    random = np.random.default_rng(0)
    for _ in range(50):
        lengths = random.integers(1, 300, size=random.integers(1, 7)).tolist()
        layout = build_layout([lengths], multiple=int(random.choice([1, 128])))
        with torch.no_grad():
            backend(*draw_qkv(layout, torch.float32), layout, SCALE)
    assert 1 <= counters["stats"]["unique_graphs"] <= 2
    torch.compiler.reset()


def test_flex_leaves_a_stream_of_one_block_to_split() -> None:
    def compiled(*arguments: object, **options: object) -> Tensor:
        raise AssertionError("a stream of one block was compiled for")

    layout = build_layout([[100, 28]])
    qkv = draw_qkv(layout)
    out = FlexAttention(compiled)(*qkv, layout, SCALE)
    assert torch.equal(out, ATTENTION["split"](*qkv, layout, SCALE))
    with pytest.raises(AssertionError, match="one block"):
        FlexAttention(compiled)(*draw_qkv(build_layout([[129]])), build_layout([[129]]), SCALE)


def test_varlen_folds_the_scale_into_q_where_the_kernel_knows_none() -> None:
    def without_scale(q: Tensor, k: Tensor, v: Tensor, *places: Tensor | int) -> Tensor:
        return plain_varlen(q, k, v, *places)  # type: ignore[arg-type]

    layout = build_layout(ROWS)
    q, k, v = draw_qkv(layout)
    out = VarlenAttention(without_scale)(q, k, v, layout, SCALE)
    torch.testing.assert_close(out, ATTENTION["reference"](q, k, v, layout, SCALE))


@pytest.mark.parametrize("width", [7, 8, 48, 64, 80])
def test_varlen_leaves_q_alone_where_the_kernel_scales_as_wanted(width: int) -> None:
    seen: list[Tensor] = []

    def without_scale(q: Tensor, k: Tensor, v: Tensor, *places: Tensor | int) -> Tensor:
        seen.append(q)
        return v

    layout = build_layout(ROWS)
    q = torch.ones(layout.stream_length, HEADS, width)
    VarlenAttention(without_scale)(q, q, q, layout, float(width**-0.5))
    VarlenAttention(without_scale)(q, q, q, layout, 0.1)
    assert seen[0] is q and not torch.equal(seen[1], q)


@pytest.mark.parametrize("name", [*BACKENDS])
def test_filling_the_stream_up_changes_no_output(name: str) -> None:
    plain, filled = build_layout(ROWS), build_layout(ROWS, multiple=64)
    assert (
        filled.stream_length == 64 and plain.stream_length == filled.num_tokens == plain.num_tokens
    )
    qkv = draw_qkv(plain)
    stream = qkv.new_full((3, 64, HEADS, HEAD_WIDTH), 0.5)
    stream[:, filled.token_indices] = qkv
    torch.testing.assert_close(attend(name, stream, filled), attend(name, qkv, plain))


def test_a_backend_that_cannot_serve_says_why() -> None:
    with pytest.raises(UsageError, match="needs a CUDA device") as caught:
        VarlenAttention()(*draw_qkv(build_layout(ROWS)), build_layout(ROWS), SCALE)
    assert "auto" in caught.value.hint
    with pytest.raises(UsageError, match="cannot train on a CPU"):
        require_support("flex", AttentionInputs(CPU, torch.float32))


@pytest.fixture
def on_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[tuple[int, int], str], None]]:
    """Makes backends believe in a GPU of a capability, and in what is missing for triton."""

    def believe(capability: tuple[int, int] = (9, 0), missing: str = "") -> None:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        flex = "elastictool.models.attention.flex"
        monkeypatch.setattr(f"{flex}.missing_for_triton", lambda: missing)
        _reason.cache_clear()

    ATTENTION["flex"]  # imported before anything is patched
    yield believe
    _reason.cache_clear()


Believe = Callable[..., None]


@pytest.mark.parametrize(
    "capability, missing, dtype, training, chosen",
    [
        ((9, 0), "", torch.bfloat16, True, "varlen"),
        ((9, 0), "", torch.bfloat16, False, "varlen"),
        ((9, 0), "", torch.float32, True, "flex"),
        ((9, 0), "", torch.float32, False, "split"),
        ((9, 0), "no compiler", torch.float32, True, "split"),
        ((7, 5), "", torch.float16, True, "flex"),
        ((7, 5), "no triton", torch.bfloat16, True, "split"),
    ],
)
def test_auto_on_cuda_takes_the_first_of_varlen_flex_split_that_can(
    on_cuda: Believe,
    capability: tuple[int, int],
    missing: str,
    dtype: torch.dtype,
    training: bool,
    chosen: str,
) -> None:
    on_cuda(capability, missing)
    assert choose_attention("auto", "cuda", dtype, training) == chosen


@pytest.mark.parametrize(
    "width, half, full",
    [
        (4, "split", "split"),
        (8, "varlen", "split"),
        (12, "split", "split"),
        (16, "varlen", "flex"),
        (24, "varlen", "flex"),
        (100, "flex", "flex"),
        (256, "varlen", "flex"),
        (264, "flex", "flex"),
    ],
)
def test_auto_on_cuda_passes_over_what_cannot_serve_the_head_width(
    on_cuda: Believe, width: int, half: str, full: str
) -> None:
    on_cuda()
    assert choose_attention("auto", "cuda", torch.bfloat16, head_width=width) == half
    assert choose_attention("auto", "cuda", torch.float32, head_width=width) == full


@pytest.mark.parametrize(
    "name, dtype, width, why",
    [
        ("varlen", torch.bfloat16, 100, "multiples of 8 up to 256, not 100"),
        ("varlen", torch.float16, 264, "multiples of 8 up to 256, not 264"),
        ("flex", torch.float32, 8, "from 16, not 8"),
    ],
)
def test_a_backend_of_that_name_says_which_head_widths_it_takes(
    on_cuda: Believe, name: str, dtype: torch.dtype, width: int, why: str
) -> None:
    on_cuda()
    with pytest.raises(UsageError, match=why):
        require_support(name, AttentionInputs(torch.device("cuda"), dtype, head_width=width))
    require_support(name, AttentionInputs(torch.device("cuda"), dtype))


def test_auto_on_cuda_says_once_for_each_type_why_faster_backends_are_not_used(
    on_cuda: Believe, caplog: pytest.LogCaptureFixture
) -> None:
    on_cuda(missing="it needs triton")
    backend, layout, fakes = AutoAttention(), build_layout([[40, 60]]), FakeTensorMode()
    with fakes:
        there = map_tensors(layout, lambda x: torch.empty(x.shape, dtype=x.dtype, device="cuda"))
        for dtype in (torch.float32, torch.float32, torch.float64, torch.float32):
            qkv = torch.empty(3, layout.stream_length, HEADS, 64, dtype=dtype, device="cuda")
            assert backend(*qkv, there, SCALE).shape == qkv.shape[1:]
    lines = [record.getMessage() for record in caplog.records]
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert lines[0] == (
        "attention on cuda:0 in float32: split is used, not varlen: it takes bfloat16 and "
        "float16, not torch.float32 (use precision bf16); not flex: it needs triton"
    )
    assert "not flex: it takes float32, bfloat16 and float16" in lines[1]


def test_auto_says_nothing_where_the_fastest_is_used_or_on_a_cpu(
    on_cuda: Believe, caplog: pytest.LogCaptureFixture
) -> None:
    on_cuda()
    layout = build_layout(ROWS)
    AutoAttention()(*draw_qkv(layout), layout, SCALE)
    assert choose_attention("auto", "cuda", torch.bfloat16) == "varlen"
    assert not caplog.records


@pytest.mark.parametrize(
    "triton, named, there, missing",
    [
        (True, None, {"gcc"}, ""),
        (True, None, {"clang"}, ""),
        (True, None, set(), "C compiler"),
        (True, "my-cc", {"gcc"}, "'my-cc'"),
        (True, "my-cc", {"my-cc"}, ""),
        (False, None, {"gcc"}, "triton"),
    ],
)
def test_triton_needs_a_c_compiler(
    monkeypatch: pytest.MonkeyPatch, triton: bool, named: str | None, there: set[str], missing: str
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object() if triton else None)
    monkeypatch.setattr("shutil.which", lambda name: name if name in there else None)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.delenv("CC", raising=False)
    if named:
        monkeypatch.setenv("CC", named)
    found = missing_for_triton()
    assert missing in found and bool(found) == bool(missing)


def test_auto_takes_split_on_a_cpu() -> None:
    assert choose_attention("auto", "cpu", torch.float32) == "split"
    assert choose_attention("reference") == "reference"


def test_an_unknown_backend_is_a_usage_error_that_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="refrence") as caught:
        choose_attention("refrence")
    assert "'reference'" in caught.value.hint
