"""The public names: light to import, and what they promise to those who write their own loops."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import elastictool
from elastictool import AST, ElasticAST, FbankConfig, FlexiAST, fbank, pack
from elastictool.audio.fbank import fbank as log_mel
from elastictool.data.collate import Example, PackSpec, collate
from elastictool.utils.errors import UsageError

TINY: dict[str, Any] = {"num_classes": 5, "depth": 2, "width": 32, "heads": 2}
MODELS = (AST, ElasticAST, FlexiAST)
FRAMES = (70, 16, 200)


def clips(frames: tuple[int, ...] = FRAMES) -> list[Tensor]:
    """Random (T, 128) spectrograms."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(count, 128, generator=generator) for count in frames]


def made(kind: Any, **settings: Any) -> Any:
    """A small model with weights large enough for positions and attention to matter."""
    torch.manual_seed(0)
    model = kind(**TINY, **settings)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def test_the_package_is_imported_without_torch() -> None:
    code = "import sys, elastictool; print('torch' in sys.modules, 'numpy' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "False"]


def test_all_public_names_are_there_and_documented() -> None:
    for name in elastictool.__all__:
        found = getattr(elastictool, name)
        assert name == "__version__" or found.__doc__
    with pytest.raises(AttributeError, match="no attribute 'ast'"):
        elastictool.ast  # noqa: B018


@pytest.mark.parametrize("kind", MODELS)
def test_models_take_any_batch_and_give_logits_tokens_and_embeddings(kind: Any) -> None:
    model = made(kind)
    batch = pack(clips(), [0, 1, 2])
    assert isinstance(model, elastictool.SpectrogramTransformer)
    assert model(batch).shape == (3, 5)
    tokens = model.forward_features(batch)
    assert torch.equal(model.forward_head(tokens, batch), model(batch))
    assert model.forward_head(tokens, batch, pre_logits=True).shape == (3, 32)
    torch.nn.functional.cross_entropy(model(batch), batch.targets).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("patch_size", [8, 16, 32, (128, 2), [16, (8, 4), 32]])
@pytest.mark.parametrize("kind", MODELS)
def test_packed_clips_are_what_each_is_alone(kind: Any, patch_size: Any) -> None:
    model = made(kind)
    together = model(pack(clips(), patch_size=patch_size))
    sizes = patch_size if isinstance(patch_size, list) else [patch_size] * 3
    alone = [model(pack([clip], patch_size=s)) for clip, s in zip(clips(), sizes, strict=True)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("padded_rows", "multiple"), [(False, 1), (False, 32), (True, 1)])
@pytest.mark.parametrize(("old", "new"), [(0, 1), (2, 0), (1, 2), (1, 1)])
def test_a_batch_can_be_laid_out_for_other_prefix_tokens(
    padded_rows: bool, multiple: int, old: int, new: int
) -> None:
    def spec(prefix_tokens: int, *layout: Any) -> PackSpec:
        return PackSpec((16, 16), (16, 16), "pad", 0.0, prefix_tokens, *layout)

    first, second, third = (Example(clip, torch.zeros(5), "", 10.0) for clip in clips())
    batch = collate([[first, second], [third]], spec(old, padded_rows, multiple))
    changed = batch.with_prefix_tokens(new)
    assert (changed is batch) == (old == new)
    wanted = collate([[first, second, third]], spec(new))
    assert changed.layout.lengths == wanted.layout.lengths
    if changed is not batch:
        group, expected = changed.patch_groups[0], wanted.patch_groups[0]
        assert torch.equal(group.token_indices, expected.token_indices)
    model = made(AST, prefix_tokens=max(new, 1))
    torch.testing.assert_close(model(changed), model(wanted), rtol=0, atol=1e-5)


def test_each_clip_has_its_own_tokens_in_order() -> None:
    for kind in MODELS:
        model = made(kind)
        batch = pack(clips(), prefix_tokens=model.config.prefix_tokens)
        parts = model.forward_features(batch).split(list(batch.layout.lengths))
        for part, clip in zip(parts, clips(), strict=True):
            alone = model.forward_features(pack([clip]))
            torch.testing.assert_close(part, alone, rtol=0, atol=1e-5)


def test_targets_are_class_indices_or_one_column_a_class() -> None:
    several = [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
    assert pack(clips(), [2, 0, 1]).targets.dtype == torch.int64
    assert pack(clips(), np.array([2, 0, 1])).targets.tolist() == [2, 0, 1]
    for given in (several, torch.tensor(several), [torch.tensor(row) for row in several]):
        found = pack(clips(), given).targets
        assert found.dtype == torch.float32 and found.tolist() == several
    assert pack(clips()).targets.shape == (3, 0)
    assert pack(clips(), [2, 0, 1]).astype(torch.float64).targets.dtype == torch.int64


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"features": []}, "nothing to pack"),
        ({"features": [torch.zeros(128)]}, r"features\[0\] is \(128,\)"),
        ({"features": [torch.zeros(0, 128)]}, r"features\[0\] is \(0, 128\)"),
        ({"features": [torch.zeros(9, 128), torch.zeros(9, 128).long()]}, r"features\[1\]"),
        ({"features": [torch.zeros(9, 128), torch.zeros(9, 64)]}, "mel bins: 64, 128"),
        ({"targets": [1, 2]}, "for 3 clips"),
        ({"targets": [0.5, 1.0, 0.0]}, "for 3 clips"),
        ({"patch_size": 0}, "patch_size = 0"),
        ({"patch_size": 16.0}, "patch_size = 16.0"),
        ({"patch_size": (16, 16, 16)}, "patch_size"),
        ({"patch_size": [16, 16]}, "3 clips, but 2 patch sizes"),
        ({"stride": (0, 1)}, "stride"),
        ({"clip_ids": ["a"]}, "3 clips, but 1 clip_ids"),
    ],
)
def test_what_cannot_be_packed_is_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        pack(**({"features": clips()} | arguments))


def test_gradients_flow_back_to_features() -> None:
    features = [clip.requires_grad_() for clip in clips()]
    made(ElasticAST)(pack(features))[1].sum().backward()
    assert features[1].grad is not None and features[1].grad.abs().sum() > 0
    assert features[0].grad is not None and not features[0].grad.any()


def test_fbank_is_the_filterbank_normalised_as_in_ast() -> None:
    waveform = 0.1 * torch.randn(16_000, generator=torch.Generator().manual_seed(0))
    raw = log_mel(waveform, FbankConfig())
    torch.testing.assert_close(fbank(waveform, 16_000, mean=0, std=0.5), raw)
    expected = (raw + 4.2677393) / (2 * 4.5689974)
    for given in (waveform, waveform.numpy(), waveform.double()):
        found = fbank(given, 16_000)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000.0])
def test_fbank_resamples_to_the_rate_of_the_configuration(rate: float) -> None:
    def tone(rate_hz: float) -> Tensor:
        return 0.3 * torch.sin(2 * math.pi * 440 * torch.arange(int(rate_hz)) / rate_hz)

    found, wanted = fbank(tone(rate), rate), fbank(tone(16_000), 16_000)
    assert found.shape == wanted.shape
    assert torch.equal(found.argmax(1), wanted.argmax(1))


@pytest.mark.parametrize(
    ("waveform", "rate", "said"),
    [
        (torch.zeros(2, 16_000), 16_000, "one channel"),
        (torch.zeros(16_000, dtype=torch.int16), 16_000, "floating-point samples"),
        (torch.full((16_000,), math.nan), 16_000, "NaN or infinities"),
        (np.full(16_000, np.inf), 16_000, "NaN or infinities"),
        (torch.zeros(100), 16_000, "shorter than one frame of 25 ms"),
        (torch.zeros(0), 16_000, "shorter than one frame"),
        (torch.zeros(16_000), 0, "no rate"),
        (torch.zeros(16_000), math.nan, "no rate"),
    ],
)
def test_fbank_refuses_what_is_no_waveform(waveform: Any, rate: float, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        fbank(waveform, rate)


def test_sizes_and_settings_shape_the_models() -> None:
    with torch.device("meta"):
        small, wide = ElasticAST("small", max_frames=1_024), AST(width=64, heads=4, depth=3)
        overlapping = AST("tiny", patch_stride=10)
        narrow = ElasticAST("tiny", num_mel_bins=64, patch_size=8)
    assert (small.config.width, small.config.heads, small.config.depth) == (384, 6, 12)
    assert small.config.grid == (8, 64) and small.config.num_classes == 0
    assert (wide.config.width, len(wide.blocks), wide.config.prefix_tokens) == (64, 3, 1)
    assert overlapping.config.grid == (13, 102)
    assert (narrow.config.grid, narrow.config.patch_stride) == ((8, 384), (8, 8))


@pytest.mark.parametrize(
    ("settings", "message", "hint"),
    [
        ({"dpth": 3}, "model.dpth", "model.depth"),
        ({"size": "tny"}, "tny", "tiny"),
        ({"width": 100}, r"must divide model\.width", ""),
        ({"attention": "splt"}, "splt", "split"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], message: str, hint: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        ElasticAST(**settings)
    assert hint in caught.value.hint


def test_a_clip_longer_than_an_elastic_ast_was_made_for_is_served() -> None:
    model = made(ElasticAST, max_frames=64)
    assert model(pack(clips((300,)))).isfinite().all()


def test_an_ast_serves_other_lengths_by_stretched_or_sliced_positions() -> None:
    short = pack(clips((512,)))
    stretched, sliced = made(AST), made(AST, pos_embed_fit="slice")
    assert not torch.allclose(stretched(short), sliced(short))
    whole = pack(clips((1_024,)))
    assert torch.equal(stretched(whole), sliced(whole))
