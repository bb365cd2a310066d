"""What must always hold of the model, for every attention backend and every way of pooling."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from elastictool.config import SIZES, ModelConfig
from elastictool.models.attention.base import ATTENTION
from elastictool.models.transformer import SpectrogramTransformer
from elastictool.utils.errors import UsageError
from tests.helpers.attention_backends import TRAINABLE, varlen_without_cuda  # noqa: F401
from tests.helpers.small_models import (
    MODELS,
    SMALL,
    make_batch,
    make_fbanks,
    make_model,
    make_rows,
)

BACKENDS = TRAINABLE
POISONED = 2
"""The clip into which the tests plant values."""

each_backend = pytest.mark.parametrize("backend", BACKENDS)
each_model = pytest.mark.parametrize("config", MODELS.values(), ids=MODELS.keys())


def parameter_grads(model: SpectrogramTransformer) -> dict[str, Tensor]:
    """The gradients by name; every parameter must have one."""
    grads = {}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        grads[name] = parameter.grad.clone()
    model.zero_grad()
    return grads


@each_backend
@each_model
def test_packed_output_equals_unpacked_output(config: ModelConfig, backend: str) -> None:
    model = make_model(config)
    model.attention = backend
    rows = make_rows()
    packed = model(make_batch(config, rows, backend))
    alone = [model(make_batch(config, [[clip]], backend)) for row in rows for clip in row]
    torch.testing.assert_close(packed, torch.cat(alone), rtol=0, atol=1e-12)
    assert packed.std(dim=0).min() > 1e-3


@each_backend
@each_model
def test_a_stream_filled_up_to_a_multiple_gives_the_same_logits_and_gradients(
    config: ModelConfig, backend: str
) -> None:
    model = make_model(config)
    model.attention = backend
    outcomes = []
    for multiple in (1, 64):
        batch = make_batch(config, make_rows(), backend, multiple)
        logits = model(batch)
        (logits * torch.arange(1.0, logits.shape[1] + 1)).sum().backward()
        outcomes.append({"logits": logits.detach(), **parameter_grads(model)})
    # Padded rows are as long as their longest: the multiple is for flat streams only.
    flat = not ATTENTION[backend].padded_rows
    assert (batch.layout.stream_length % 64 == 0) == flat
    torch.testing.assert_close(outcomes[1], outcomes[0], rtol=0, atol=1e-10)


@each_backend
@each_model
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_changing_one_clip_leaves_all_other_logits_bit_for_bit(
    config: ModelConfig, backend: str, dtype: torch.dtype
) -> None:
    model = make_model(config, dtype)
    model.attention = backend
    rows = make_rows()
    before = model(make_batch(config, rows, backend).astype(dtype))
    rows[0][POISONED] = 100 * rows[0][POISONED] + 7
    after = model(make_batch(config, rows, backend).astype(dtype))
    others = [clip for clip in range(6) if clip != POISONED]
    assert torch.equal(after[others], before[others])
    assert not torch.equal(after[POISONED], before[POISONED])


@each_backend
@each_model
def test_permuting_clips_permutes_logits(config: ModelConfig, backend: str) -> None:
    model = make_model(config)
    model.attention = backend
    clips = [clip for row in make_rows() for clip in row]
    order = [4, 0, 3, 5, 1, 2]
    logits = model(make_batch(config, [clips[:3], clips[3:]], backend))
    shuffled = [clips[index] for index in order]
    permuted = model(make_batch(config, [shuffled[:2], shuffled[2:]], backend))
    torch.testing.assert_close(permuted, logits[order], rtol=0, atol=1e-12)


@each_backend
@each_model
@pytest.mark.parametrize("planted", [math.nan, math.inf, 1e30, 1e200, 1e308])
def test_what_is_planted_in_one_clip_reaches_no_other_logits_or_gradients(
    config: ModelConfig, backend: str, planted: float
) -> None:
    model = make_model(config)
    model.attention = backend
    others = [clip for clip in range(6) if clip != POISONED]
    healthy = make_batch(config, make_rows(), backend)
    foreign = healthy.layout.segment_ids[healthy.patch_groups[0].token_indices] != POISONED
    results = []
    for poison in (False, True):
        batch = make_batch(config, make_rows(), backend)
        patches = batch.patch_groups[0].patches
        if poison:
            patches[~foreign] = planted
        patches.requires_grad_()
        logits = model(batch)
        logits[others].square().sum().backward()
        assert patches.grad is not None
        results.append((logits.detach(), patches.grad, parameter_grads(model)))
    (logits, grad, shared), (poisoned_logits, poisoned_grad, poisoned_shared) = results
    assert torch.equal(poisoned_logits[others], logits[others])
    assert torch.equal(poisoned_grad[foreign], grad[foreign])
    for name, expected in shared.items():
        torch.testing.assert_close(poisoned_shared[name], expected, rtol=1e-12, atol=1e-12)
    if planted != 1e30:
        assert poisoned_logits[POISONED].isnan().all()
    else:
        assert not torch.equal(poisoned_logits[POISONED], logits[POISONED])


@each_backend
@each_model
@pytest.mark.parametrize("planted", [math.nan, 1e10, 1e18, 1e19, 1e30, 3e38])
def test_float32_keeps_what_is_planted_in_its_clip(
    config: ModelConfig, backend: str, planted: float
) -> None:
    model = make_model(config, torch.float32)
    model.attention = backend
    batch = make_batch(config, make_rows(), backend).astype(torch.float32)
    others = [clip for clip in range(6) if clip != POISONED]
    logits = model(batch)[others]
    group = batch.patch_groups[0]
    group.patches[batch.layout.segment_ids[group.token_indices] == POISONED] = planted
    poisoned = model(batch)[others]
    poisoned.sum().backward()
    assert torch.equal(poisoned, logits)
    assert all(grad.isfinite().all() for grad in parameter_grads(model).values())


@each_backend
@each_model
def test_agrees_with_the_reference_for_logits_and_every_gradient(
    config: ModelConfig, backend: str
) -> None:
    model = make_model(config)
    results = []
    for name in ("reference", backend):
        model.attention = name
        logits = model(make_batch(config, make_rows(), name))
        logits.square().sum().backward()
        results.append((logits.detach(), parameter_grads(model)))
    (expected, expected_grads), (logits, grads) = results
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-9)
    for name, grad in grads.items():
        torch.testing.assert_close(grad, expected_grads[name], rtol=1e-9, atol=1e-9)


@each_backend
@each_model
def test_every_parameter_gets_a_gradient(config: ModelConfig, backend: str) -> None:
    model = make_model(config)
    model.attention = backend
    model(make_batch(config, make_rows(), backend)).square().sum().backward()
    for name, grad in parameter_grads(model).items():
        # A softmax does not change when all its keys move together.
        if not name.endswith("attn_pool.kv.bias"):
            assert grad.abs().max() > 1e-9, name


@each_backend
@each_model
def test_forward_asks_the_device_for_no_value(config: ModelConfig, backend: str) -> None:
    """On the meta device, which has no values to give, every size must come from the layout."""
    model = make_model(config).to("meta")
    model.attention = backend
    logits = model(make_batch(config, make_rows(), backend).to("meta"))
    assert logits.shape == (6, 5)


class Scattered(TorchDispatchMode):
    """Notes operations whose sums come in any order on CUDA, so that last bits change."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func.overloadpacket.__name__.rstrip("_")
        adds = name in ("index_add", "scatter_add", "index_put", "put", "bincount")
        if adds or (name == "scatter_reduce" and args[4] in ("sum", "mean", "prod")):
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


@each_model
def test_forward_adds_nothing_in_any_order(config: ModelConfig) -> None:
    """Otherwise a clip's outputs would change in their last bits from call to call on CUDA."""
    model = make_model(config)
    with Scattered() as scattered, torch.no_grad():
        model(make_batch(config, make_rows()))
    assert scattered.seen == []
    with scattered:
        torch.zeros(2).index_add(0, torch.tensor([0, 0]), torch.ones(2))
    assert scattered.seen == ["index_add"]


@each_backend
@each_model
def test_bfloat16_autocast_stays_close(config: ModelConfig, backend: str) -> None:
    model = make_model(config, torch.float32)
    model.attention = backend
    batch = make_batch(config, make_rows(), backend).astype(torch.float32)
    exact = model(batch)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(batch)
    logits.float().sum().backward()
    assert (logits.float() - exact).norm() < 0.03 * exact.norm()
    assert all(grad.isfinite().all() for grad in parameter_grads(model).values())


@each_backend
def test_standard_ast_equals_a_plain_vit(backend: str) -> None:
    config = dataclasses.replace(MODELS["ast"], grid=(3, 9))
    model = make_model(config)
    model.attention = backend
    fbanks = make_fbanks([28] * 4)
    logits = model(make_batch(config, [fbanks[:3], fbanks[3:]], backend))
    expected = plain_vit(model.state_dict(), config, torch.stack(fbanks).double())
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-12)


def plain_vit(weights: dict[str, Tensor], config: ModelConfig, fbanks: Tensor) -> Tensor:
    """AST as its paper draws it, on (B, T, F): strided convolution, cls and dist, ViT blocks."""
    kernel = weights["patch_embed.proj.weight"].view(config.width, 1, *config.patch_size)
    image = fbanks.transpose(1, 2)[:, None]
    x = F.conv2d(image, kernel, weights["patch_embed.proj.bias"], stride=config.patch_stride)
    x = x.flatten(2).transpose(1, 2) + weights["pos_embed.grid"]
    prefix = weights["prefix_tokens"] + weights["prefix_pos_embed"]
    x = torch.cat([prefix.expand(len(x), -1, -1), x], dim=1)

    def norm(x: Tensor, name: str, eps: float) -> Tensor:
        return F.layer_norm(
            x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], eps
        )

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    for index in range(config.depth):
        block = f"blocks.{index}"
        y = norm(x, f"{block}.norm1", config.norm_eps).transpose(0, 1)
        attended, _ = F.multi_head_attention_forward(
            y, y, y, config.width, config.heads,
            weights[f"{block}.attn.qkv.weight"], weights[f"{block}.attn.qkv.bias"],
            None, None, False, 0.0,
            weights[f"{block}.attn.proj.weight"],
            weights[f"{block}.attn.proj.bias"],
        )  # fmt: skip
        x = x + attended.transpose(0, 1)
        hidden = F.gelu(linear(norm(x, f"{block}.norm2", config.norm_eps), f"{block}.mlp.fc1"))
        x = x + linear(hidden, f"{block}.mlp.fc2")
    x = norm(x, "norm", config.norm_eps)
    pooled = (x[:, 0] + x[:, 1]) / 2
    return linear(norm(pooled, "fc_norm", config.fc_norm_eps), "head")


@pytest.mark.parametrize(
    "size, in_blocks", [("tiny", 5_338_368), ("small", 21_293_568), ("base", 85_054_464)]
)
def test_sizes_are_those_of_vit(size: str, in_blocks: int) -> None:
    width, heads = SIZES[size]
    config = ModelConfig(width=width, heads=heads, grid=(8, 64), num_classes=44)
    with torch.device("meta"):
        model = SpectrogramTransformer(config)
    assert sum(p.numel() for p in model.blocks.parameters()) == in_blocks
    embedding = 256 * width + width + (8 + 64) * width
    pooling = width + 4 * (width * width + width)
    norms = 4 * width  # after the encoder, and before the classifier
    rest = embedding + norms + pooling + 44 * width + 44
    assert sum(p.numel() for p in model.parameters()) == in_blocks + rest


def test_state_names_are_stable() -> None:
    names = set(SpectrogramTransformer(dataclasses.replace(SMALL, depth=1)).state_dict())
    linears = [
        "patch_embed.proj", "norm", "fc_norm", "head",
        "blocks.0.norm1", "blocks.0.attn.qkv", "blocks.0.attn.proj",
        "blocks.0.norm2", "blocks.0.mlp.fc1", "blocks.0.mlp.fc2",
        "attn_pool.q", "attn_pool.kv", "attn_pool.proj",
    ]  # fmt: skip
    expected = {f"{name}.{part}" for name in linears for part in ("weight", "bias")}
    assert names == expected | {"pos_embed.frequency", "pos_embed.time", "attn_pool.latent"}
    ast = set(SpectrogramTransformer(MODELS["ast"]).state_dict())
    added = {"prefix_tokens", "prefix_pos_embed", "pos_embed.grid"}
    assert added | {"fc_norm.weight", "fc_norm.bias"} <= ast


@each_backend
@each_model
def test_forward_is_head_of_features(config: ModelConfig, backend: str) -> None:
    model = make_model(config)
    model.attention = backend
    batch = make_batch(config, make_rows(), backend, multiple=16)
    tokens = model.forward_features(batch)
    assert tokens.shape == (sum(batch.layout.lengths), config.width)
    assert torch.equal(model.forward_head(tokens, batch), model(batch))
    pooled = model.forward_head(tokens, batch, pre_logits=True)
    assert pooled.shape == (6, config.width)
    assert torch.equal(model.head(model.fc_norm(pooled)), model(batch))
    headless = make_model(dataclasses.replace(config, num_classes=0, fc_norm=False))
    headless.attention = backend
    tokens = headless.forward_features(batch)
    assert torch.equal(headless(batch), headless.forward_head(tokens, batch, pre_logits=True))


@each_model
def test_features_of_a_clip_are_its_own_tokens_in_order(config: ModelConfig) -> None:
    model = make_model(config)
    rows = make_rows()
    together = model.forward_features(make_batch(config, rows, "reference"))
    clips = [clip for row in rows for clip in row]
    alone = torch.cat([model.forward_features(make_batch(config, [[clip]])) for clip in clips])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-10)


@each_model
def test_a_broken_clip_has_nan_tokens_and_leaves_the_gradients_of_others(
    config: ModelConfig,
) -> None:
    """Also where features and head are called one by one, as a training loop may do."""
    model = make_model(config)
    others = [clip for clip in range(6) if clip != POISONED]
    results = []
    for value in (0.0, math.nan):
        rows = make_rows()
        rows[0][POISONED][3, 3] = value
        batch = make_batch(config, rows)
        tokens = model.forward_features(batch)
        logits = model.forward_head(tokens, batch)
        model.zero_grad()
        logits[others].sum().backward()
        grads = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        results.append((tokens.split(list(batch.layout.lengths)), logits, grads))
    (sound, sound_logits, sound_grads), (tokens, logits, grads) = results
    assert tokens[POISONED].isnan().all() and logits[POISONED].isnan().all()
    assert all(torch.equal(tokens[clip], sound[clip]) for clip in others)
    assert torch.equal(logits[others], sound_logits[others])
    for found, expected in zip(grads, sound_grads, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("silenced", ["attn.proj", "mlp.fc2"])
def test_dropout_acts_on_both_branches_in_training_only(silenced: str) -> None:
    model = make_model(dataclasses.replace(SMALL, dropout=0.5))
    for block in model.blocks:
        block.get_submodule(silenced).requires_grad_(False).apply(_zero)
    batch = make_batch(SMALL, make_rows())
    assert not torch.equal(model(batch), model(batch))
    model.eval()
    assert torch.equal(model(batch), model(batch))
    undropped = make_model(SMALL)
    undropped.load_state_dict(model.state_dict())
    assert torch.equal(model(batch), undropped(batch))


def _zero(module: torch.nn.Module) -> None:
    for parameter in module.parameters():
        parameter.zero_()


@each_backend
def test_attention_scale_one_is_the_default_with_smaller_queries(backend: str) -> None:
    unscaled = make_model(dataclasses.replace(SMALL, attention_scale=1.0))
    model = make_model(SMALL)
    unscaled.attention = model.attention = backend
    batch = make_batch(SMALL, make_rows(), backend)
    assert not torch.allclose(unscaled(batch), model(batch), atol=1e-4)
    factor = (SMALL.width // SMALL.heads) ** -0.5
    with torch.no_grad():
        for name, parameter in unscaled.named_parameters():
            if ".qkv." in name:
                parameter[: SMALL.width].mul_(factor)
            elif name.startswith("attn_pool.q."):
                parameter.mul_(factor)
    torch.testing.assert_close(unscaled(batch), model(batch), rtol=0, atol=1e-12)


@pytest.mark.parametrize("initialization, expected", [("vit", 0.02), ("official", 1.0)])
def test_initialization_is_vit_or_official(
    initialization: Literal["vit", "official"], expected: float
) -> None:
    torch.manual_seed(0)
    config = dataclasses.replace(SMALL, width=384, grid=(8, 64), initialization=initialization)
    parameters = dict(SpectrogramTransformer(config).named_parameters())
    for name in ("pos_embed.time", "pos_embed.frequency", "attn_pool.latent"):
        assert parameters[name].std().item() == pytest.approx(expected, rel=0.2)
    assert parameters["blocks.0.mlp.fc1.weight"].std().item() == pytest.approx(0.02, rel=0.05)
    for name, parameter in parameters.items():
        if name.endswith("bias"):
            assert not parameter.any(), name
        elif "norm" in name:
            assert parameter.eq(1).all(), name


def test_a_model_without_a_grid_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match=r"model\.grid"):
        SpectrogramTransformer(dataclasses.replace(SMALL, grid=(0, 0)))


def test_a_batch_for_other_prefix_tokens_is_laid_out_anew() -> None:
    config = dataclasses.replace(MODELS["ast"], patch_stride=(8, 4))
    model = make_model(config)
    without, wanted = make_batch(SMALL, make_rows()), make_batch(config, make_rows())
    assert torch.equal(model(without), model(wanted))
