"""Exports a standard AST as a folder that Hugging Face's ``ASTForAudioClassification`` loads.

The inverse of the importer ``hf-ast``: weights under Hugging Face's names, ``config.json`` with
geometry and labels, ``preprocessor_config.json`` with the filterbank. What Hugging Face's model
cannot express is refused with the reason, never approximated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from elastictool.config import FbankConfig, RunConfig
from elastictool.config.coerce import flat_settings, to_dict
from elastictool.models.transformer import SpectrogramTransformer
from elastictool.packing.grid import grid_shape
from elastictool.pretrained.formats import (
    FORMATS,
    kernel,
    patch_positions,
    prefix_positions,
    tokens,
)
from elastictool.utils.errors import UsageError
from elastictool.utils.io import atomic_path, write_json


def export_hf(
    folder: Path,
    model: SpectrogramTransformer,
    config: RunConfig,
    label_names: Sequence[str],
    multi_label: bool,
) -> None:
    """Writes ``model.safetensors``, ``config.json`` and ``preprocessor_config.json``.

    Raises:
        UsageError: Hugging Face's model cannot compute what this one computes.
    """
    _check(config)
    write_json(folder / "config.json", _model_config(config, label_names, multi_label))
    write_json(folder / "preprocessor_config.json", _feature_extractor(config))
    tensors = {name: value.detach().clone().contiguous() for name, value in _tensors(model).items()}
    with atomic_path(folder / "model.safetensors") as temporary:
        save_file(tensors, str(temporary), {"format": "pt"})


_NEEDED: Mapping[str, object] = {
    "model.pos_embed": "grid",
    "model.prefix_tokens": 2,
    "model.pooling": "prefix",
    "model.fc_norm": True,
    "length.padding": "zero",
    **{f"fbank.{key}": value for key, value in to_dict(FbankConfig()).items()},
}
"""Settings that Hugging Face's model has. ``ASTFeatureExtractor`` always computes Kaldi's defaults;
at other sample rates its result depends on whether torchaudio is installed."""
_HINT = (
    "export to onnx or safetensors instead; an AST that can be exported is trained with "
    "--set model.preset=ast --set model.prefix_tokens=2 --set model.fc_norm_eps=1e-6 "
    "--set length.fixed_frames=1024 --set length.padding=zero (and model.norm_eps = 1e-6, as it is)"
)


def _check(config: RunConfig) -> None:
    model, settings = config.model, flat_settings(config)
    frames, bins = config.length.fixed_frames, config.fbank.num_mel_bins
    scales = (0.0, (model.width // model.heads) ** -0.5)
    pairs = zip((bins, frames), model.patch_size, model.patch_stride, strict=True)
    filled = all((size - patch) % stride == 0 for size, patch, stride in pairs)
    grid = grid_shape(frames, bins, model.patch_size, model.patch_stride, "drop")
    needed = {**_NEEDED, "fbank.num_mel_bins": bins}
    wrong = {key: value for key, value in needed.items() if settings[key] != value}
    conditions: list[tuple[bool, str, object]] = [
        (model.num_classes > 0, "model.num_classes", "1 or more"),
        (model.norm_eps == model.fc_norm_eps, "model.fc_norm_eps",
         f"{model.norm_eps} (model.norm_eps)"),
        (len(set(model.patch_size)) == 1, "model.patch_size", "square"),
        (model.attention_scale in scales, "model.attention_scale", 0.0),
        (frames > 0, "length.fixed_frames", "a fixed length"),
        (filled or config.length.edge == "drop", "length.edge",
         "drop, or patches that fill the input"),
        (model.grid == grid, "model.grid", "the grid of its input"),
    ]  # fmt: skip
    wrong |= {key: wanted for holds, key, wanted in conditions if not holds}
    if wrong:
        listing = "; ".join(f"{key} = {wrong[key]} (here {settings[key]})" for key in wrong)
        raise UsageError(f"Hugging Face's AST needs {listing}", _HINT)


def _tensors(model: SpectrogramTransformer) -> dict[str, Tensor]:
    """Returns the tensors under Hugging Face's names: the importer's table, backwards."""
    state, config = model.state_dict(), model.config
    parts: dict[str, list[Tensor]] = {}
    for key in FORMATS["hf-ast"].numbered_keys(config.depth):
        value, sources = state[key.target], [name.removesuffix("?") for name in key.sources]
        split: Sequence[Tensor] = value.chunk(len(sources))  # rows
        if key.join is tokens:
            split = [token[None, None] for token in value]
        elif key.join is kernel:
            split = [value.view(config.width, 1, *config.patch_size)]
        elif key.join in (prefix_positions, patch_positions):  # of one table
            split = [value[None]]
        for name, part in zip(sources, split, strict=True):
            if not name.startswith("classifier."):
                name = f"audio_spectrogram_transformer.{name}"
            parts.setdefault(name, []).append(part)
    return {
        name: torch.cat(found, dim=1) if found[1:] else found[0] for name, found in parts.items()
    }


def _model_config(
    config: RunConfig, label_names: Sequence[str], multi_label: bool
) -> dict[str, Any]:
    model = config.model
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


def _feature_extractor(config: RunConfig) -> dict[str, Any]:
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
