"""Defines the formats of ImageNet's ViT and DeiT: of timm, of the DeiT authors, of Hugging Face.

The model sees a spectrogram instead of an image of the same size.
"""

from __future__ import annotations

import math
from typing import Any

from elastictool.config import FbankConfig, InitConfig, LengthConfig, ModelConfig, RunConfig
from elastictool.pretrained.formats import (
    FORMATS,
    Described,
    Format,
    Tensors,
    layers,
    patches_and_positions,
    timm_encoder,
)
from elastictool.pretrained.hf_ast import HF_KEYS, HF_NEWER, hf_encoder, label_names, need_config
from elastictool.pretrained.shapes import classes, conv_patch, encoder, heads_note, need
from elastictool.pretrained.source import Source
from elastictool.utils.errors import CheckpointError


def _describe_timm(source: Source, tensors: Tensors, init: InitConfig) -> Described:
    width = need(tensors, "pos_embed", "1, positions, D").shape[2]
    body = encoder(tensors, "blocks", width, init) | {"norm_eps": 1e-6}
    config = _picture(body, tensors, "patch_embed.proj", "pos_embed", "dist_token", "head")
    return Described(config, notes=heads_note(config.model, init))


def _describe_hf(source: Source, tensors: Tensors, init: InitConfig) -> Described:
    need_config(source, "vit", "deit")
    names = ("patch_embeddings.projection", "position_embeddings", "distillation_token")
    conv, table, distillation = (f"embeddings.{name}" for name in names)
    config = _picture(hf_encoder(source), tensors, conv, table, distillation, "classifier")
    return Described(config, label_names(source, config.model.num_classes))


def _picture(
    body: dict[str, Any], tensors: Tensors, conv: str, table: str, distillation: str, head: str
) -> RunConfig:
    """Returns an image model with the encoder ``body``; the names are those of its other parts."""
    patch = conv_patch(tensors, f"{conv}.weight")
    prefix = 2 if distillation in tensors else 1
    positions = need(tensors, table, "1, positions, D").shape[1] - prefix
    side = math.isqrt(max(positions, 0))
    if side == 0 or side * side != positions:
        raise CheckpointError(
            f"{positions} positions of patches are no square: the grid cannot be inferred",
            "is it an audio model? name its format with --from",
        )
    bins, frames = side * patch[0], side * patch[1]
    model = ModelConfig(
        **body,
        preset="ast",
        num_mel_bins=bins,
        patch_size=patch,
        patch_stride=patch,
        pos_embed="grid",
        grid=(side, side),
        prefix_tokens=prefix,
        pooling="prefix",
        fc_norm=False,
        num_classes=0 if prefix == 2 else classes(tensors, f"{head}.weight"),
    )
    length = LengthConfig(fixed_frames=frames, edge="drop")
    return RunConfig(fbank=FbankConfig(num_mel_bins=bins), length=length, model=model)


_TWO_HEADS = "its two classifiers read one prefix token each, this model their average"

FORMATS.register("timm")(
    Format(
        title="timm ViT or DeiT (ImageNet)",
        signature=(r"cls_token$", r"blocks\.\d+\.attn\.qkv\.", r"patch_embed\.proj\."),
        foreign=(r"mlp_head\.",),
        keys=(
            *timm_encoder(),
            *patches_and_positions("patch_embed.proj", "pos_embed"),
            *layers({"head": "head"}),
        ),
        ignored={r"head(_dist)?\.": _TWO_HEADS},
        describe=_describe_timm,
        image=True,
    )
)
FORMATS.register("hf-vit")(
    Format(
        title="Hugging Face ViT or DeiT (ImageNet)",
        signature=(
            r"embeddings\.cls_token$",
            r"encoder\.layer\.\d+\.attention\.attention\.query\.",
        ),
        foreign=(r"classifier\.dense\.",),
        aliases=((r"^(vit|deit)\.", ""), *HF_NEWER),
        keys=(*HF_KEYS, *layers({"head": "classifier"})),
        ignored={
            r"((cls|distillation)_)?classifier\.": _TWO_HEADS,
            r"pooler\.": "the pooler, which the classifier does not use",
            r"embeddings\.mask_token$": "only for masked image modelling",
        },
        describe=_describe_hf,
        image=True,
    )
)
