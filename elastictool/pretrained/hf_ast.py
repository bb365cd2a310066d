"""``ASTForAudioClassification`` of Hugging Face, whose JSON has strides, eps and normalisation."""

from __future__ import annotations

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
from elastictool.pretrained import hf_json
from elastictool.pretrained.formats import FORMATS, Described, Format, Tensors
from elastictool.pretrained.names import hf_aliases, hf_encoder, layers
from elastictool.pretrained.shapes import AUDIOSET_CLASSES, classes
from elastictool.pretrained.source import Source


def _describe(source: Source, tensors: Tensors, init: InitConfig) -> Described:
    hf_json.need_config(source, "audio-spectrogram-transformer")
    size = hf_json.count(source, "patch_size")
    stride = hf_json.count(source, "frequency_stride"), hf_json.count(source, "time_stride")
    frames, bins = hf_json.count(source, "max_length"), hf_json.count(source, "num_mel_bins")
    num_classes = classes(tensors, "classifier.dense.weight")
    model = ModelConfig(
        **hf_json.encoder(source),
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
    several = source.config.get("problem_type") == "multi_label_classification"
    config = RunConfig(
        data=_statistics(source),
        fbank=FbankConfig(num_mel_bins=bins, sample_rate_hz=_rate(source)),
        length=LengthConfig(max_frames=frames, fixed_frames=frames, edge="drop", padding="zero"),
        model=model,
        train=TrainConfig(loss="bce" if several or num_classes == AUDIOSET_CLASSES else "ce"),
    )
    notes = () if source.preprocessor else ("no preprocessor_config.json: mean and std unknown",)
    return Described(config, hf_json.label_names(source, num_classes), notes)


def _statistics(source: Source) -> DataConfig:
    """Returns mean and std of the feature extractor, which also computes (x - mean) / (2 std)."""
    if not source.preprocessor:
        return DataConfig()
    if not source.preprocessor.get("do_normalize", True):
        return DataConfig(mean=0.0, std=0.5)
    mean, std = (hf_json.number(source, key, _EXTRACTOR) for key in ("mean", "std"))
    return DataConfig(mean=mean, std=std)


def _rate(source: Source) -> int:
    """Returns the feature extractor's sample rate, or its default."""
    if "sampling_rate" not in source.preprocessor:
        return FbankConfig().sample_rate_hz
    return hf_json.count(source, "sampling_rate", _EXTRACTOR)


_EXTRACTOR = "preprocessor_config.json"

FORMATS.register("hf-ast")(
    Format(
        title="Hugging Face ASTForAudioClassification",
        signature=(
            r"embeddings\.distillation_token$",
            r"encoder\.layer\.\d+\.attention\.attention\.query\.",
        ),
        foreign=(r"((cls|distillation)_)classifier\.", r"classifier\.weight"),
        aliases=hf_aliases("audio_spectrogram_transformer"),
        keys=(
            *hf_encoder(),
            *layers({"fc_norm": "classifier.layernorm", "head": "classifier.dense"}),
        ),
        describe=_describe,
    )
)
