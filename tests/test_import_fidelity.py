"""Imported models compute what the models of their files compute, and a mistake would show.

Hugging Face's models are run by transformers itself; the published ones are stated again here,
plainly and in float64. Each comparison is then made with one thing wrong (scale, eps, order of
positions, prefix), and must fail.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from elastictool.checkpoint.weights import feature_extractor_of, import_weights
from elastictool.config import InitConfig, ModelConfig, RunConfig
from elastictool.data.collate import Example, PackSpec, collate
from elastictool.data.feature_extractor import Crop
from elastictool.models.transformer import SpectrogramTransformer
from elastictool.pretrained.importer import Imported
from tests.helpers import foreign_weights
from tests.helpers.foreign_weights import RESIDUAL, Sample, drawn

TOLERANCE = 1e-4


def load(name: str, path: Path, **how: Any) -> Imported:
    return import_weights(InitConfig(source=name, path=str(path), **how))


def run_model(model: SpectrogramTransformer, fbanks: list[Tensor]) -> Tensor:
    """(S, C) logits of (T, F) spectrograms packed together, in the model's dtype."""
    config = model.config
    spec = PackSpec(
        config.patch_size, config.patch_stride, "drop", prefix_tokens=config.prefix_tokens
    )
    rows = [[Example(fbank.float(), torch.zeros(1), "", 10.0) for fbank in fbanks]]
    batch = collate(rows, spec).astype(model.norm.weight.dtype)
    with torch.no_grad():
        logits: Tensor = model(batch)
    return logits


def altered(weights: Imported, state: Mapping[str, Tensor] | None = None, **model: Any) -> Imported:
    """The same import with settings or tensors changed."""
    config = dataclasses.replace(weights.config.model, **model)
    return dataclasses.replace(
        weights,
        config=dataclasses.replace(weights.config, model=config),
        state={**weights.state, **(state or {})},
    )


# Hugging Face, by transformers itself --------------------------------------------------------


def transformers() -> Any:
    return pytest.importorskip("transformers")


def redraw(model: Any, seed: int = 0) -> None:
    """New values for all parameters: norms, positions and tokens too."""
    generator = torch.Generator().manual_seed(seed)
    names = {"attention.o_proj": "attention.output.dense", "layers.": "encoder.layer."}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            for newer, older in names.items():
                name = name.replace(newer, older)
            parameter.copy_(drawn(name, tuple(parameter.shape), generator))


def hf_model(kind: str, folder: Path, **config: Any) -> Any:
    """A transformers model with random weights, saved by itself."""
    library = transformers()
    settings = getattr(library, f"{kind}Config")(**config)
    suffix = {"AST": "ForAudioClassification", "ViT": "ForImageClassification", "DeiT": "Model"}
    with torch.device("meta"):
        model = getattr(library, kind + suffix[kind])(settings)
    model = model.to_empty(device="cpu").eval()
    redraw(model)
    model.save_pretrained(folder)
    return model


SMALL = {
    "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 320,
}  # fmt: skip


@dataclasses.dataclass
class Compared:
    """An import, an input, and what transformers' model makes of it."""

    weights: Imported
    fbanks: list[Tensor]
    expected: Tensor

    def difference(self, weights: Imported | None = None) -> float:
        found = run_model((weights or self.weights).model(), self.fbanks)
        return float((found - self.expected).abs().max())


@pytest.fixture(scope="module")
def small_ast(tmp_path_factory: pytest.TempPathFactory) -> Compared:
    folder = tmp_path_factory.mktemp("ast")
    model = hf_model("AST", folder, **SMALL, max_length=128, num_labels=16)
    return compare_ast(model, folder, clips=3)


def compare_ast(model: Any, folder: Path, clips: int) -> Compared:
    frames = model.config.max_length
    values = torch.randn(clips, frames, 128, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        expected = model(values).logits
    assert expected.std() >= 1
    return Compared(load("hf-ast", folder), list(values), expected)


def test_a_small_hugging_face_ast_gives_the_same_logits(small_ast: Compared) -> None:
    assert small_ast.difference() < TOLERANCE


def _transposed(table: Tensor) -> Tensor:
    side = math.isqrt(len(table))
    return table.view(side, side, -1).transpose(0, 1).flatten(0, 1)


WRONG: dict[str, Callable[[Imported], Imported]] = {
    "scale": lambda w: altered(w, attention_scale=1.0),
    "eps": lambda w: altered(w, norm_eps=1e-6),
    "eps of the head": lambda w: altered(w, fc_norm_eps=1e-5),
    "order of positions": lambda w: altered(
        w, {"pos_embed.grid": _transposed(w.state["pos_embed.grid"])}
    ),
    "positions one row on": lambda w: altered(
        w, {"pos_embed.grid": w.state["pos_embed.grid"].roll(1, 0)}
    ),
    "prefix tokens swapped": lambda w: altered(
        w, {"prefix_tokens": w.state["prefix_tokens"].flip(0)}
    ),
    "prefix without positions": lambda w: altered(
        w, {"prefix_pos_embed": torch.zeros_like(w.state["prefix_pos_embed"])}
    ),
    "only the first prefix token": lambda w: altered(
        w,
        {name: w.state[name][:1] for name in ("prefix_tokens", "prefix_pos_embed")},
        prefix_tokens=1,
    ),
    "kernel transposed": lambda w: altered(
        w, {"patch_embed.proj.weight": w.state["patch_embed.proj.weight"]
            .unflatten(1, (16, 16)).transpose(1, 2).flatten(1)}
    ),
    "mean of the patches": lambda w: altered(w, pooling="mean"),
    "q and k swapped": lambda w: altered(
        w, {"blocks.0.attn.qkv.weight": w.state["blocks.0.attn.qkv.weight"]
            .view(3, -1, 128)[[1, 0, 2]].flatten(0, 1)}
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", WRONG)
def test_a_mistake_in_the_import_would_show(small_ast: Compared, mistake: str) -> None:
    assert small_ast.difference(WRONG[mistake](small_ast.weights)) > 10 * TOLERANCE


@pytest.fixture(scope="module")
def base_ast(tmp_path_factory: pytest.TempPathFactory) -> Compared:
    """The published configuration: 12 blocks of 768, 12 x 101 patches, 527 classes."""
    folder = tmp_path_factory.mktemp("base")
    model = hf_model("AST", folder, num_labels=527)
    return compare_ast(model, folder, clips=1)


def test_the_full_base_ast_gives_the_same_logits(base_ast: Compared) -> None:
    model = base_ast.weights.config.model
    assert (model.width, model.depth, model.grid) == (768, 12, (12, 101))
    assert base_ast.difference() < TOLERANCE


def test_features_of_a_hugging_face_ast_are_those_of_its_feature_extractor(tmp_path: Path) -> None:
    library = transformers()
    extractor = library.ASTFeatureExtractor(mean=-3.5, std=4.25, max_length=128)
    hf_model("AST", tmp_path, **SMALL, max_length=128, num_labels=4)
    extractor.save_pretrained(tmp_path)
    config = load("hf-ast", tmp_path).config
    feature_extractor = feature_extractor_of(config)
    for seconds in (0.7, 1.9):  # padded, and cut
        waveform = np.random.default_rng(1).standard_normal(int(16_000 * seconds)) * 0.1
        expected = extractor(waveform, sampling_rate=16_000, return_tensors="pt").input_values[0]
        frames = feature_extractor.frames(waveform.astype(np.float32))
        view: Crop = feature_extractor.crop(0, len(frames))
        found = feature_extractor.spectrogram(frames[: view.num_frames], view).computed()
        assert found.shape == expected.shape
        assert torch.allclose(found, expected, atol=2e-3)


@pytest.mark.parametrize("rgb", ["sum", "mean"])
def test_a_hugging_face_vit_gives_the_same_logits(tmp_path: Path, rgb: str) -> None:
    model = hf_model("ViT", tmp_path, **SMALL, num_labels=16)
    weights = load("hf-vit", tmp_path, rgb=rgb)
    grey = torch.randn(2, 224, 224)
    colours = grey[:, None].expand(-1, 3, -1, -1) / (1 if rgb == "sum" else 3)
    with torch.no_grad():
        expected = model(colours).logits
    assert expected.std() >= 1
    # A spectrogram is (T, F); the picture's rows are frequency.
    found = run_model(weights.model(), [picture.T for picture in grey])
    assert (found - expected).abs().max() < TOLERANCE
    wrong = run_model(altered(weights, attention_scale=1.0).model(), [p.T for p in grey])
    assert (wrong - expected).abs().max() > TOLERANCE


def test_a_hugging_face_deit_gives_the_same_prefix_tokens(tmp_path: Path) -> None:
    model = hf_model("DeiT", tmp_path, **SMALL)
    weights = load("hf-vit", tmp_path)
    grey = torch.randn(2, 224, 224)
    with torch.no_grad():
        expected = model(grey[:, None].expand(-1, 3, -1, -1)).last_hidden_state[:, :2].mean(1)
    expected = expected / RESIDUAL if expected.std() < 0.1 else expected
    found = run_model(weights.model(), [picture.T for picture in grey])
    found = found / RESIDUAL if found.std() < 0.1 else found
    assert expected.std() > 0.1 and (found - expected).abs().max() < TOLERANCE


# The published code, stated again ------------------------------------------------------------


def norm(x: Tensor, w: Mapping[str, Tensor], name: str, eps: float) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    scaled = (x - mean) / (variance + eps).sqrt()
    return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]


def linear(x: Tensor, w: Mapping[str, Tensor], name: str) -> Tensor:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, scale: float) -> Tensor:
    out = []
    for part in range(heads):
        d = q.shape[-1] // heads
        columns = slice(part * d, part * d + d)
        weights = (scale * q[:, columns] @ k[:, columns].T).softmax(-1)
        out.append(weights @ v[:, columns])
    return torch.cat(out, -1)


def gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def plain_vit(
    w: Mapping[str, Tensor], v: str, patches: Tensor, positions: Tensor, prefix: list[str]
) -> Tensor:
    """(N + prefix, D) tokens of timm's ViT: eps 1e-6, attention scaled."""
    tokens = torch.cat([*[w[f"{v}{name}"][0] for name in prefix], patches]) + positions[0]
    for n in range(2):
        block = f"{v}blocks.{n}"
        qkv = linear(norm(tokens, w, f"{block}.norm1", 1e-6), w, f"{block}.attn.qkv")
        attention = attend(*qkv.chunk(3, -1), heads=2, scale=1 / 8)
        tokens = tokens + linear(attention, w, f"{block}.attn.proj")
        hidden = gelu(linear(norm(tokens, w, f"{block}.norm2", 1e-6), w, f"{block}.mlp.fc1"))
        tokens = tokens + linear(hidden, w, f"{block}.mlp.fc2")
    return norm(tokens, w, f"{v}norm", 1e-6)


def convolved(fbank: Tensor, w: Mapping[str, Tensor], name: str, stride: int) -> Tensor:
    """(N, D) patch tokens, frequency first, of a (T, F) spectrogram seen as an (F, T) picture."""
    kernel = w[f"{name}.weight"]
    picture = fbank.T[None, None].expand(1, kernel.shape[1], -1, -1)
    return F.conv2d(picture, kernel, w[f"{name}.bias"], stride=stride)[0].flatten(1).T


def doubled(sample: Sample) -> dict[str, Tensor]:
    return {name.removeprefix("module."): value.double() for name, value in sample.tensors.items()}


def plain_ast(w: Mapping[str, Tensor], fbank: Tensor) -> Tensor:
    patches = convolved(fbank, w, "v.patch_embed.proj", stride=10)
    tokens = plain_vit(w, "v.", patches, w["v.pos_embed"], ["cls_token", "dist_token"])
    pooled = (tokens[0] + tokens[1]) / 2
    return linear(norm(pooled, w, "mlp_head.0", 1e-5), w, "mlp_head.1")


def plain_ssast(w: Mapping[str, Tensor], fbank: Tensor) -> Tensor:
    patches = convolved(fbank, w, "v.patch_embed.proj", stride=16)
    tokens = plain_vit(w, "v.", patches, w["v.pos_embed"], ["cls_token", "dist_token"])
    return tokens[2:].mean(0)


def plain_flexiast(w: Mapping[str, Tensor], fbank: Tensor) -> Tensor:
    patches = convolved(fbank, w, "patch_embed.proj", stride=16)
    tokens = plain_vit(w, "v.", patches, w["pos_embed.pos_embed"], ["cls_token"])
    return linear(norm(tokens[0], w, "mlp_head.0", 1e-5), w, "mlp_head.1")


def plain_timm(w: Mapping[str, Tensor], fbank: Tensor) -> Tensor:
    patches = convolved(fbank, w, "patch_embed.proj", stride=16)
    tokens = plain_vit(w, "", patches, w["pos_embed"], ["cls_token"])
    return linear(tokens[0], w, "head")


def plain_elasticast(w: Mapping[str, Tensor], fbank: Tensor) -> Tensor:
    """Attention without scale, eps 1e-6, positions by index, one learned query."""
    tokens = []
    for band in range(8):
        for column in range(len(fbank) // 16):
            frames = fbank[16 * column : 16 * column + 16, 16 * band : 16 * band + 16]
            token = linear(frames.T.flatten(), w, "patch_embed.0")
            tokens.append(token + w["pos_embed_freq"][band] + w["pos_embed_time"][column])
    x = torch.stack(tokens)
    for n in range(2):
        block = f"blocks.modules_list.{n}"
        normed = norm(x, w, f"{block}.norm1", 1e-6)
        k, v = linear(normed, w, f"{block}.attn.to_kv").chunk(2, -1)
        attention = attend(linear(normed, w, f"{block}.attn.to_q"), k, v, heads=2, scale=1.0)
        x = x + linear(attention, w, f"{block}.attn.proj")
        hidden = gelu(linear(norm(x, w, f"{block}.norm2", 1e-6), w, f"{block}.mlp.fc1"))
        x = x + linear(hidden, w, f"{block}.mlp.fc2")
    x = norm(x, w, "norm", 1e-6)
    query = linear(w["attn_pool_queries"][None], w, "attn_pool.to_q")
    k, v = linear(x, w, "attn_pool.to_kv").chunk(2, -1)
    pooled = linear(attend(query, k, v, heads=2, scale=1.0), w, "attn_pool.proj")[0]
    return linear(norm(pooled, w, "mlp_norm", 1e-6), w, "head")


PUBLISHED: dict[str, tuple[Callable[..., Tensor], tuple[int, int], list[int]]] = {
    "ast": (plain_ast, (128, 128), [128]),
    "ssast": (plain_ssast, (1024, 128), [1024]),
    "flexiast": (plain_flexiast, (1024, 128), [1024]),
    "timm": (plain_timm, (224, 224), [224]),
    "elasticast": (plain_elasticast, (0, 128), [208, 47, 1024]),
}
"""The plain model, the spectrogram's bins, and the frames of the clips that are compared."""


def published(name: str, folder: Path) -> tuple[Compared, float]:
    plain, (_, bins), lengths = PUBLISHED[name]
    sample = foreign_weights.SAMPLES[name]()
    generator = torch.Generator().manual_seed(4)
    fbanks = [torch.randn(frames, bins, generator=generator) for frames in lengths]
    w = doubled(sample)
    expected = torch.stack([plain(w, fbank.double()) for fbank in fbanks])
    return Compared(load(name, sample.write(folder)), fbanks, expected), float(expected.std())


def double_difference(compared: Compared, weights: Imported) -> float:
    found = run_model(weights.model().double(), compared.fbanks)
    return float((found - compared.expected).abs().max() / compared.expected.std())


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_model_is_the_plain_restatement(name: str, tmp_path: Path) -> None:
    compared, std = published(name, tmp_path)
    assert std >= (1 if compared.weights.config.model.num_classes else RESIDUAL / 10)
    # The sum of the three colours is a float32.
    tolerance = 1e-6 if name == "timm" else 1e-9
    assert double_difference(compared, compared.weights) < tolerance


@pytest.mark.parametrize(
    ("name", "mistake"),
    [
        *(("ast", mistake) for mistake in ("scale", "order of positions", "prefix tokens swapped")),
        ("flexiast", "prefix without positions"),
        ("ssast", "prefix without positions"),
        ("timm", "scale"),
    ],
)
def test_a_mistake_in_a_published_model_would_show(name: str, mistake: str, tmp_path: Path) -> None:
    compared, _ = published(name, tmp_path)
    assert double_difference(compared, WRONG[mistake](compared.weights)) > TOLERANCE


@pytest.mark.parametrize(
    "wrong",
    [
        {"attention_scale": 0.125},
        {"norm_eps": 1e-5},
        {"fc_norm_eps": 1e-5},
        {"state": "pos_embed.time"},
        {"state": "pos_embed.frequency"},
        {"state": "attn_pool.latent"},
        {"pooling": "mean"},
    ],
    ids=str,
)
def test_a_mistake_in_an_elasticast_would_show(tmp_path: Path, wrong: dict[str, Any]) -> None:
    compared, _ = published("elasticast", tmp_path)
    weights = compared.weights
    name = wrong.get("state")
    if name:
        mistaken = altered(weights, {name: weights.state[name].roll(1, 0)})
    elif "pooling" in wrong:
        kept = {
            key: value for key, value in weights.state.items() if not key.startswith("attn_pool.")
        }
        mistaken = dataclasses.replace(altered(weights, **wrong), state=kept)
    else:
        mistaken = altered(weights, **wrong)
    assert double_difference(compared, mistaken) > TOLERANCE


def test_the_eps_of_the_authors_are_not_those_of_hugging_face(tmp_path: Path) -> None:
    """Hugging Face's copy of an AST has eps 1e-12 throughout, the authors' 1e-6 and 1e-5."""
    compared, _ = published("ast", tmp_path)
    for wrong in ({"norm_eps": 1e-12}, {"fc_norm_eps": 1e-12}):
        assert double_difference(compared, altered(compared.weights, **wrong)) > TOLERANCE


def test_the_unused_tensors_of_flexiast_change_nothing(tmp_path: Path) -> None:
    compared, _ = published("flexiast", tmp_path)
    sample = foreign_weights.flexiast()
    for key in ("module.v.pos_embed", "module.v.patch_embed.proj.weight"):
        sample.tensors[key].zero_()
    weights = load("flexiast", sample.write(tmp_path / "again"))
    assert double_difference(compared, weights) < 1e-9


def test_our_own_file_gives_our_own_model(tmp_path: Path) -> None:
    sample = foreign_weights.run()
    assert sample.metadata is not None
    values = json.loads(sample.metadata["config"])
    model = SpectrogramTransformer(ModelConfig(**{**values["model"], **_tuples(values["model"])}))
    model.load_state_dict(sample.tensors)
    weights = load("run", sample.write(tmp_path))
    fbanks = [torch.randn(64, 128), torch.randn(33, 128)]
    expected, found = run_model(model.eval(), fbanks), run_model(weights.model(), fbanks)
    assert torch.allclose(expected, found, atol=TOLERANCE)
    assert weights.label_names[0] == "sound 0" and isinstance(weights.config, RunConfig)


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) for key, value in values.items() if isinstance(value, list)}


def test_a_safetensors_file_equals_its_pickle(tmp_path: Path) -> None:
    sample = foreign_weights.ast()
    save_file(sample.tensors, tmp_path / "a.safetensors")
    pickled = load("ast", sample.write(tmp_path / "pickled")).state
    safe = load("ast", tmp_path / "a.safetensors").state
    assert all(torch.equal(pickled[name], safe[name]) for name in pickled)
