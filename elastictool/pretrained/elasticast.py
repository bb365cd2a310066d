"""Defines the checkpoint format of the published ElasticAST code.

Its attention has no 1/sqrt(d), in the blocks and in the pooling, so the model keeps
``attention_scale`` 1. Patches run frequency-major and positions are looked up by index, as in our
model; incomplete patches are dropped, as its loader cuts clips to whole ones.

Source: published ElasticAST code (Feng et al. 2024).
"""

from __future__ import annotations

import dataclasses
import math

from elastictool.config import DataConfig, InitConfig, ModelConfig
from elastictool.config.loader import frontend_config
from elastictool.pretrained.ast_family import spectrogram
from elastictool.pretrained.formats import FORMATS, Described, Format, Key, Tensors, layers
from elastictool.pretrained.shapes import classes, encoder, need
from elastictool.pretrained.source import Source
from elastictool.utils.errors import CheckpointError


def _describe(source: Source, tensors: Tensors, init: InitConfig) -> Described:
    frequency, time = (need(tensors, f"pos_embed_{axis}", "rows, D") for axis in ("freq", "time"))
    width, values = need(tensors, "patch_embed.0.weight", "D, P").shape
    side = math.isqrt(values)
    if side * side != values:
        raise CheckpointError(
            f"patches of {values} values are not square: their size cannot be inferred",
            "published ElasticASTs have 16x16 patches, 256 values",
        )
    model = ModelConfig(
        **encoder(tensors, "blocks.modules_list", width, init),
        preset="elasticast",
        num_mel_bins=len(frequency) * side,
        patch_size=(side, side),
        patch_stride=(side, side),
        pos_embed="factorised",
        grid=(len(frequency), len(time)),
        pooling="attention",
        norm_eps=1e-6,
        fc_norm_eps=1e-6,
        attention_scale=1.0,
        num_classes=classes(tensors, "head.weight"),
    )
    described = spectrogram(model, init)
    if model.num_classes != 44:
        return described
    # EPIC-SOUNDS: librosa's STFT at 24 kHz, not normalised.
    config = dataclasses.replace(
        described.config,
        fbank=frontend_config("epic-librosa"),
        data=DataConfig(mean=0.0, std=0.5),  # (x - 0) / (2 x 0.5) = x
    )
    note = "44 classes are taken for EPIC-SOUNDS': feature extractor epic-librosa, not normalised"
    return dataclasses.replace(described, config=config, notes=(*described.notes, note))


FORMATS.register("elasticast")(
    Format(
        title="ElasticAST of its authors",
        signature=(r"attn_pool_queries$", r"pos_embed_freq$", r"pos_embed_time$"),
        keys=(
            Key("pos_embed.frequency", ("pos_embed_freq",)),
            Key("pos_embed.time", ("pos_embed_time",)),
            Key("attn_pool.latent", ("attn_pool_queries",)),
            *layers(
                {
                    "patch_embed.proj": "patch_embed.0",
                    "blocks.{n}.norm1": "blocks.modules_list.{n}.norm1",
                    "blocks.{n}.attn.qkv": (
                        "blocks.modules_list.{n}.attn.to_q",
                        "blocks.modules_list.{n}.attn.to_kv",
                    ),
                    "blocks.{n}.attn.proj": "blocks.modules_list.{n}.attn.proj",
                    "blocks.{n}.norm2": "blocks.modules_list.{n}.norm2",
                    "blocks.{n}.mlp.fc1": "blocks.modules_list.{n}.mlp.fc1",
                    "blocks.{n}.mlp.fc2": "blocks.modules_list.{n}.mlp.fc2",
                    "norm": "norm",
                    "attn_pool.q": "attn_pool.to_q",
                    "attn_pool.kv": "attn_pool.to_kv",
                    "attn_pool.proj": "attn_pool.proj",
                    "fc_norm": "mlp_norm",
                    "head": "head",
                }
            ),
        ),
        describe=_describe,
    )
)
