"""Defines Hugging Face's ``ASTForAudioClassification`` format; ViT and DeiT share parts of it.

``config.json`` next to the weights has strides, eps and labels, ``preprocessor_config.json`` has
the normalisation. Only the JSON fields that change what the model computes are read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from elastictool.config import (
    DataConfig,
    FbankConfig,
    InitConfig,
    LengthConfig,
    ModelConfig,
    RunConfig,
    TrainConfig,
)
from elastictool.packing.grid import grid_shape
from elastictool.pretrained.formats import (
    FORMATS,
    Described,
    Format,
    Key,
    Tensors,
    layers,
    patches_and_positions,
    tokens,
)
from elastictool.pretrained.shapes import AUDIOSET_CLASSES, classes
from elastictool.pretrained.source import Source
from elastictool.utils.errors import CheckpointError

HF_KEYS = (
    Key("prefix_tokens", ("embeddings.cls_token", "embeddings.distillation_token?"), tokens),
    *patches_and_positions(
        "embeddings.patch_embeddings.projection", "embeddings.position_embeddings"
    ),
    *layers(
        {
            "blocks.{n}.norm1": "encoder.layer.{n}.layernorm_before",
            "blocks.{n}.attn.qkv": (
                "encoder.layer.{n}.attention.attention.query",
                "encoder.layer.{n}.attention.attention.key",
                "encoder.layer.{n}.attention.attention.value",
            ),
            "blocks.{n}.attn.proj": "encoder.layer.{n}.attention.output.dense",
            "blocks.{n}.norm2": "encoder.layer.{n}.layernorm_after",
            "blocks.{n}.mlp.fc1": "encoder.layer.{n}.intermediate.dense",
            "blocks.{n}.mlp.fc2": "encoder.layer.{n}.output.dense",
            "norm": "layernorm",
        }
    ),
)
"""Embedding, blocks and final norm as Hugging Face's ViT, DeiT and AST share them."""
HF_NEWER = (
    (r"^layers\.", "encoder.layer."),
    (r"\.attention\.q_proj\.", ".attention.attention.query."),
    (r"\.attention\.k_proj\.", ".attention.attention.key."),
    (r"\.attention\.v_proj\.", ".attention.attention.value."),
    (r"\.attention\.o_proj\.", ".attention.output.dense."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
)
"""Aliases from newer spellings of transformers (``layers.N``, ``q_proj``) to the older ones."""


def need_config(source: Source, *model_types: str) -> None:
    """Checks that a ``config.json`` of one of ``model_types`` lies next to the weights.

    Raises:
        CheckpointError: There is none, it is of another model, or of one that computes
            something that our model cannot.
    """
    if not source.config:
        raise CheckpointError(
            f"there is no config.json next to {source.file}: strides, eps and labels are in it",
            "copy it from where the weights came, into the same folder",
        )
    kind = source.config.get("model_type")
    if kind not in model_types:
        raise CheckpointError(
            f"{source.file.parent}/config.json is of a {kind!r}, not of {' or '.join(model_types)}",
            "name the right format with --from",
        )
    for key, value in (("hidden_act", "gelu"), ("qkv_bias", True)):
        if source.config.get(key, value) != value:
            raise CheckpointError(
                f"{source.file.parent}/config.json has {key} = {source.config[key]!r}; "
                f"only {value!r} is supported"
            )


def _count(source: Source, key: str, document: str = "config.json") -> int:
    """Returns a whole number above 0 of one of the JSON files."""
    return int(_value(source, key, document, int, 1))


def _number(source: Source, key: str, document: str = "config.json") -> float:
    """Returns a finite number of one of the JSON files."""
    return float(_value(source, key, document, (int, float), 1 - _LIMIT))


_LIMIT = 2**31
"""Above every size, rate and length; JSON also knows NaN, which is not below it."""


def _value(source: Source, key: str, document: str, kinds: Any, least: int) -> Any:
    value: Any = (source.config if document == "config.json" else source.preprocessor).get(key)
    if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value < _LIMIT:
        found = f"{value!r}"[:40]
        raise CheckpointError(
            f"{source.file.parent}/{document} has no usable {key} (found {found})"
        )
    return value


def hf_encoder(source: Source) -> dict[str, Any]:
    """Returns width, depth, heads, MLP ratio and eps for a ``ModelConfig``."""
    width, eps = _count(source, "hidden_size"), _number(source, "layer_norm_eps")
    return {
        "width": width,
        "depth": _count(source, "num_hidden_layers"),
        "heads": _count(source, "num_attention_heads"),
        "mlp_ratio": _count(source, "intermediate_size") / width,
        "norm_eps": eps,
        "fc_norm_eps": eps,
    }


def label_names(source: Source, num_classes: int) -> tuple[str, ...]:
    """Returns class names in order; empty where they are missing or placeholders (``LABEL_0``)."""
    table = source.config.get("id2label")
    if not isinstance(table, Mapping):
        return ()
    names = tuple(str(table.get(str(index), "")) for index in range(num_classes))
    if not all(names) or all(re.fullmatch(r"LABEL_\d+", name) for name in names):
        return ()
    return names


def _describe(source: Source, tensors: Tensors, init: InitConfig) -> Described:
    need_config(source, "audio-spectrogram-transformer")
    size = _count(source, "patch_size")
    stride = _count(source, "frequency_stride"), _count(source, "time_stride")
    frames, bins = _count(source, "max_length"), _count(source, "num_mel_bins")
    num_classes = classes(tensors, "classifier.dense.weight")
    model = ModelConfig(
        **hf_encoder(source),
        preset="ast",
        num_mel_bins=bins,
        patch_size=(size, size),
        patch_stride=stride,
        pos_embed="grid",
        grid=grid_shape(frames, bins, (size, size), stride, "drop"),
        prefix_tokens=2,
        pooling="prefix",
        fc_norm=num_classes > 0,
        num_classes=num_classes,
    )
    data, fbank = _input(source, bins)
    several = source.config.get("problem_type") == "multi_label_classification"
    config = RunConfig(
        data=data,
        fbank=fbank,
        length=LengthConfig(max_frames=frames, fixed_frames=frames, edge="drop", padding="zero"),
        model=model,
        train=TrainConfig(loss="bce" if several or num_classes == AUDIOSET_CLASSES else "ce"),
    )
    notes = () if source.preprocessor else ("no preprocessor_config.json: mean and std unknown",)
    return Described(config, label_names(source, num_classes), notes)


def _input(source: Source, bins: int) -> tuple[DataConfig, FbankConfig]:
    """Returns normalisation, also (x - mean) / (2 std) there, and filterbank of the extractor."""
    given, document = source.preprocessor, "preprocessor_config.json"
    data, fbank = DataConfig(), FbankConfig(num_mel_bins=bins)
    if given and not given.get("do_normalize", True):
        data = DataConfig(mean=0.0, std=0.5)
    elif given:
        data = DataConfig(
            mean=_number(source, "mean", document), std=_number(source, "std", document)
        )
    if "sampling_rate" in given:
        rate = _count(source, "sampling_rate", document)
        fbank = FbankConfig(num_mel_bins=bins, sample_rate_hz=rate)
    return data, fbank


FORMATS.register("hf-ast")(
    Format(
        title="Hugging Face ASTForAudioClassification",
        signature=(
            r"embeddings\.distillation_token$",
            r"encoder\.layer\.\d+\.attention\.attention\.query\.",
        ),
        foreign=(r"((cls|distillation)_)classifier\.", r"classifier\.weight"),
        aliases=((r"^audio_spectrogram_transformer\.", ""), *HF_NEWER),
        keys=(*HF_KEYS, *layers({"fc_norm": "classifier.layernorm", "head": "classifier.dense"})),
        describe=_describe,
    )
)
