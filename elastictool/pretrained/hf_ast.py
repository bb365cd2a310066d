"""``ASTForAudioClassification`` of Hugging Face: strides, eps and normalisation are in its JSON."""

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
from elastictool.errors import CheckpointError
from elastictool.packing.grid import grid_shape
from elastictool.pretrained import hf_json
from elastictool.pretrained.formats import FORMATS, Described, Format, Tensors
from elastictool.pretrained.names import hf_aliases, hf_encoder, linear
from elastictool.pretrained.shapes import AUDIOSET_CLASSES, classes
from elastictool.pretrained.source import Source


def _describe(source: Source, tensors: Tensors, init: InitConfig) -> Described:
    hf_json.need_config(source, "audio-spectrogram-transformer")
    size = hf_json.number(source, "patch_size")
    stride = (
        hf_json.number(source, "frequency_stride"),
        hf_json.number(source, "time_stride"),
    )
    frames, bins = hf_json.number(source, "max_length"), hf_json.number(source, "num_mel_bins")
    num_classes = classes(tensors, "classifier.dense.weight")
    model = ModelConfig(
        **hf_json.encoder(source),
        preset="ast",
        num_mel_bins=bins,
        patch_size=(size, size),
        patch_stride=stride,
        positions="grid",
        grid=grid_shape(frames, bins, (size, size), stride, "drop"),
        prefix_tokens=2,
        pooling="prefix",
        head_norm=num_classes > 0,
        num_classes=num_classes,
    )
    several = source.config.get("problem_type") == "multi_label_classification"
    config = RunConfig(
        data=_statistics(source),
        fbank=FbankConfig(
            num_mel_bins=bins, sample_rate_hz=int(source.preprocessor.get("sampling_rate", 16_000))
        ),
        length=LengthConfig(max_frames=frames, fixed_frames=frames, edge="drop", padding="zero"),
        model=model,
        train=TrainConfig(loss="bce" if several or num_classes == AUDIOSET_CLASSES else "ce"),
    )
    notes = () if source.preprocessor else ("no preprocessor_config.json: mean and std unknown",)
    return Described(config, hf_json.label_names(source, num_classes), notes)


def _statistics(source: Source) -> DataConfig:
    """Mean and std of the feature extractor, which normalises as we do: (x - mean) / (2 std)."""
    told = source.preprocessor
    if not told:
        return DataConfig()
    if not told.get("do_normalize", True):
        return DataConfig(mean=0.0, std=0.5)
    mean, std = told.get("mean"), told.get("std")
    if not isinstance(mean, (int, float)) or not isinstance(std, (int, float)):
        raise CheckpointError(
            f"{source.file.parent}/preprocessor_config.json has no mean and std "
            f"(found {mean!r} and {std!r})"
        )
    return DataConfig(mean=float(mean), std=float(std))


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
            *linear("head_norm", "classifier.layernorm"),
            *linear("head", "classifier.dense"),
        ),
        describe=_describe,
    )
)
