"""Pooling: each clip's own tokens, all of them, and nothing else."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elastictool.config import ModelConfig
from elastictool.models.pooling import drop_padding, segment_softmax
from elastictool.models.transformer import SpectrogramTransformer
from elastictool.packing.layout import SegmentLayout, build_layout

WIDTH, HEADS, PREFIX = 12, 3, 2
ROWS = [[5, 3, 9], [4]]
SMALL = ModelConfig(width=WIDTH, heads=HEADS, depth=1, grid=(2, 2))
CONFIGS = {
    "attention": dataclasses.replace(SMALL, prefix_tokens=PREFIX),
    "mean": dataclasses.replace(SMALL, pooling="mean"),
    "prefix": dataclasses.replace(SMALL, pooling="prefix", prefix_tokens=PREFIX),
}
each_pooling = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
each_layout = pytest.mark.parametrize("padded_rows", [False, True], ids=["flat", "padded_rows"])


def make(
    config: ModelConfig, padded_rows: bool
) -> tuple[SpectrogramTransformer, Tensor, SegmentLayout, list[Tensor]]:
    """A model with random weights, a random stream, its layout and the clips' tokens."""
    torch.manual_seed(0)
    model = SpectrogramTransformer(config).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    layout = build_layout(ROWS, PREFIX, padded_rows)
    stream = torch.randn(layout.stream_length, WIDTH, dtype=torch.float64)
    clips = list(torch.split(stream[layout.token_indices], list(layout.lengths)))
    return model, stream, layout, clips


@each_layout
def test_attention_pooling_is_one_query_attending_to_each_clip(padded_rows: bool) -> None:
    model, stream, layout, clips = make(CONFIGS["attention"], padded_rows)
    attn_pool = model.attn_pool
    assert attn_pool is not None
    weight = torch.cat([attn_pool.q.weight, attn_pool.kv.weight])
    bias = torch.cat([attn_pool.q.bias, attn_pool.kv.bias])
    for pooled, clip in zip(model.pool(drop_padding(stream, layout), layout), clips, strict=True):
        expected, _ = F.multi_head_attention_forward(
            attn_pool.latent[None], clip, clip, WIDTH, HEADS, weight, bias, None, None, False, 0.0,
            attn_pool.proj.weight, attn_pool.proj.bias,
        )  # fmt: skip
        torch.testing.assert_close(pooled, expected[0], rtol=0, atol=1e-12)


@each_layout
def test_mean_pooling_averages_patch_tokens_only(padded_rows: bool) -> None:
    model, stream, layout, clips = make(CONFIGS["mean"], padded_rows)
    expected = torch.stack([clip[PREFIX:].mean(dim=0) for clip in clips])
    pooled = model.pool(drop_padding(stream, layout), layout)
    torch.testing.assert_close(pooled, expected, rtol=0, atol=1e-12)


@each_layout
def test_prefix_pooling_averages_the_prefix_tokens(padded_rows: bool) -> None:
    model, stream, layout, clips = make(CONFIGS["prefix"], padded_rows)
    expected = torch.stack([clip[:PREFIX].mean(dim=0) for clip in clips])
    pooled = model.pool(drop_padding(stream, layout), layout)
    torch.testing.assert_close(pooled, expected, rtol=0, atol=1e-12)


@each_pooling
@pytest.mark.parametrize("planted", [math.nan, math.inf, -math.inf, 1e200])
def test_padding_and_broken_clips_reach_no_other_clip(config: ModelConfig, planted: float) -> None:
    model, stream, layout, _ = make(config, padded_rows=True)
    others = torch.isin(layout.segment_ids, torch.tensor([0, 2, 3]))
    results = []
    for value in (0.0, planted):
        planted_stream = stream.masked_fill(~others[:, None], value).requires_grad_()
        pooled = model.pool(drop_padding(planted_stream, layout), layout)
        (grad,) = torch.autograd.grad(pooled.sum(), planted_stream)
        results.append((pooled[[0, 2, 3]].detach(), grad[others]))
    (pooled, grad), (planted_pooled, planted_grad) = results
    assert torch.equal(planted_pooled, pooled)
    assert torch.equal(planted_grad, grad)


def test_softmax_weights_of_each_segment_sum_to_one_whatever_the_scores() -> None:
    layout = build_layout(ROWS, padded_rows=True)
    scores = 1e4 * torch.randn(layout.num_tokens, HEADS, dtype=torch.float64)
    weights = segment_softmax(scores, layout)
    for part, own in zip(*(x.split(list(layout.lengths)) for x in (weights, scores)), strict=True):
        torch.testing.assert_close(part, own.softmax(dim=0))


def test_softmax_in_bfloat16_is_taken_in_float32() -> None:
    layout = build_layout([[3_000]])
    weights = segment_softmax(torch.zeros(3_000, 1, dtype=torch.bfloat16), layout)
    assert weights.dtype == torch.float32
    assert weights.sum().item() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("multiple", [1, 16])
@each_layout
def test_what_is_left_without_padding_are_the_tokens_of_each_segment(
    padded_rows: bool, multiple: int
) -> None:
    layout = build_layout(ROWS, padded_rows=padded_rows, multiple=multiple)
    kept = drop_padding(torch.arange(layout.stream_length), layout)
    assert torch.equal(kept, layout.token_indices)
