"""A standard AST of ours as a folder that Hugging Face's ``ASTForAudioClassification`` loads.

The inverse of the importer ``hf-ast``: weights under Hugging Face's names, ``config.json`` with
geometry and labels, ``preprocessor_config.json`` with the front end. What Hugging Face's model
cannot express is refused with the reason, never approximated.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from elastictool.config import ModelConfig, RunConfig
from elastictool.errors import UsageError
from elastictool.files import atomic_path, write_json
from elastictool.models.transformer import SpectrogramTransformer

ROOT = "audio_spectrogram_transformer"
_BLOCK = {
    "norm1": "layernorm_before",
    "attention.projection": "attention.output.dense",
    "norm2": "layernorm_after",
    "mlp.0": "intermediate.dense",
    "mlp.2": "output.dense",
}


def export_hf(
    folder: Path,
    model: SpectrogramTransformer,
    config: RunConfig,
    label_names: Sequence[str],
    multi_label: bool,
) -> None:
    """Write ``model.safetensors``, ``config.json`` and ``preprocessor_config.json``.

    Raises:
        UsageError: Hugging Face's model cannot compute what this one computes.
    """
    _check(config)
    write_json(folder / "config.json", _model_config(config, label_names, multi_label))
    write_json(folder / "preprocessor_config.json", _front_end(config))
    tensors = {name: value.detach().clone().contiguous() for name, value in _tensors(model)}
    with atomic_path(folder / "model.safetensors") as temporary:
        save_file(tensors, str(temporary), {"format": "pt"})


def _check(config: RunConfig) -> None:
    model = config.model
    needs = {
        "grid positions (model.positions=grid)": model.positions == "grid",
        "two prefix tokens, averaged (model.prefix_tokens=2, model.pooling=prefix)": (
            model.pooling == "prefix" and model.prefix_tokens == 2
        ),
        "a classifier behind a LayerNorm (model.head_norm)": model.head_norm
        and model.num_classes > 0,
        "one eps for all norms": model.norm_eps == model.head_norm_eps,
        "square patches": model.patch_size[0] == model.patch_size[1],
        "attention scaled by 1/sqrt(d)": model.attention_scale
        in (0.0, (model.width // model.heads) ** -0.5),
        "a fixed input length (length.fixed_frames)": config.length.fixed_frames > 0,
        "a length and bins that patches fill (no edge padding)": _filled(config),
        "Kaldi's filterbank at 10 ms": config.fbank.shift_ms == 10.0
        and config.fbank.frontend == "kaldi",
    }
    missing = [need for need, there in needs.items() if not there]
    if missing:
        raise UsageError(
            f"Hugging Face's AST needs {'; '.join(missing)}",
            "export to onnx or safetensors instead",
        )


def _filled(config: RunConfig) -> bool:
    """Whether dropping and padding the edge come to the same."""
    sizes = (config.fbank.num_mel_bins, config.length.fixed_frames)
    model = config.model
    pairs = zip(sizes, model.patch_size, model.patch_stride, strict=True)
    whole = all((size - patch) % stride == 0 for size, patch, stride in pairs)
    return whole or config.length.edge == "drop"


def _tensors(model: SpectrogramTransformer) -> list[tuple[str, Tensor]]:
    ours = model.state_dict()
    config = model.config
    cls, distillation = ours["prefix_tokens"]
    positions = torch.cat((ours["prefix_positions"], ours["positions.grid"]))
    kernel = ours["embedding.kernel.weight"].view(config.width, 1, *config.patch_size)
    named = [
        (f"{ROOT}.embeddings.cls_token", cls[None, None]),
        (f"{ROOT}.embeddings.distillation_token", distillation[None, None]),
        (f"{ROOT}.embeddings.position_embeddings", positions[None]),
        (f"{ROOT}.embeddings.patch_embeddings.projection.weight", kernel),
        (f"{ROOT}.embeddings.patch_embeddings.projection.bias", ours["embedding.kernel.bias"]),
    ]
    for number in range(config.depth):
        named += _block(ours, f"blocks.{number}", f"{ROOT}.encoder.layer.{number}")
    pairs = {"norm": f"{ROOT}.layernorm", "head_norm": "classifier.layernorm"}
    for source, target in {**pairs, "head": "classifier.dense"}.items():
        named += _linear(ours, source, target)
    return named


def _block(ours: dict[str, Tensor], source: str, target: str) -> list[tuple[str, Tensor]]:
    named = [
        pair
        for ours_name, theirs in _BLOCK.items()
        for pair in _linear(ours, f"{source}.{ours_name}", f"{target}.{theirs}")
    ]
    for part in ("weight", "bias"):
        thirds = ours[f"{source}.attention.qkv.{part}"].chunk(3)
        named += [
            (f"{target}.attention.attention.{name}.{part}", third)
            for name, third in zip(("query", "key", "value"), thirds, strict=True)
        ]
    return named


def _linear(ours: dict[str, Tensor], source: str, target: str) -> list[tuple[str, Tensor]]:
    return [(f"{target}.{part}", ours[f"{source}.{part}"]) for part in ("weight", "bias")]


def _model_config(
    config: RunConfig, label_names: Sequence[str], multi_label: bool
) -> dict[str, Any]:
    model: ModelConfig = config.model
    kind = "multi_label_classification" if multi_label else "single_label_classification"
    return {
        "architectures": ["ASTForAudioClassification"],
        "model_type": "audio-spectrogram-transformer",
        "hidden_size": model.width,
        "num_hidden_layers": model.depth,
        "num_attention_heads": model.heads,
        "intermediate_size": round(model.width * model.mlp_ratio),
        "hidden_act": "gelu",
        "qkv_bias": True,
        "layer_norm_eps": model.norm_eps,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "patch_size": model.patch_size[0],
        "frequency_stride": model.patch_stride[0],
        "time_stride": model.patch_stride[1],
        "max_length": config.length.fixed_frames,
        "num_mel_bins": model.num_mel_bins,
        "problem_type": kind,
        "id2label": {str(index): name for index, name in enumerate(label_names)},
        "label2id": {name: index for index, name in enumerate(label_names)},
    }


def _front_end(config: RunConfig) -> dict[str, Any]:
    return {
        "feature_extractor_type": "ASTFeatureExtractor",
        "do_normalize": True,
        "feature_size": 1,
        "max_length": config.length.fixed_frames,
        "mean": config.data.mean,
        "std": config.data.std,
        "num_mel_bins": config.fbank.num_mel_bins,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": False,
        "sampling_rate": config.fbank.sample_rate_hz,
    }
