"""ViT and DeiT, trained on ImageNet: as timm and the DeiT authors write them, or Hugging Face.

A spectrogram takes the place of a picture of the same size.
"""

from __future__ import annotations

from typing import Any

from elastictool.config import FbankConfig, InitConfig, LengthConfig, ModelConfig, RunConfig
from elastictool.pretrained import hf_json
from elastictool.pretrained.formats import FORMATS, Described, Format, Ignored, Tensors
from elastictool.pretrained.names import (
    DATA_PARALLEL,
    hf_aliases,
    hf_encoder,
    layers,
    patches_and_positions,
    timm_encoder,
)
from elastictool.pretrained.shapes import (
    POSITION_AXES,
    classes,
    conv_patch,
    encoder,
    heads_note,
    need,
    square_grid,
)
from elastictool.pretrained.source import Source


def _describe_timm(source: Source, tensors: Tensors, init: InitConfig) -> Described:
    width = need(tensors, "pos_embed", POSITION_AXES).shape[2]
    body = encoder(tensors, "blocks", width, init)
    names = ("patch_embed.proj", "pos_embed", "dist_token", "head")
    config = _picture(body | {"norm_eps": 1e-6}, tensors, *names)
    return Described(config, notes=heads_note(config.model, init))


def _describe_hf(source: Source, tensors: Tensors, init: InitConfig) -> Described:
    hf_json.need_config(source, "vit", "deit")
    names = ("patch_embeddings.projection", "position_embeddings", "distillation_token")
    conv, table, distillation = (f"embeddings.{name}" for name in names)
    body = hf_json.encoder(source)
    config = _picture(body, tensors, conv, table, distillation, "classifier")
    return Described(config, hf_json.label_names(source, config.model.num_classes))


def _picture(
    body: dict[str, Any], tensors: Tensors, conv: str, table: str, distillation: str, head: str
) -> RunConfig:
    """Returns an image model with the encoder ``body``; the names are those of its other parts."""
    patch = conv_patch(tensors, f"{conv}.weight")
    prefix = 2 if distillation in tensors else 1
    grid = square_grid(need(tensors, table, POSITION_AXES).shape[1] - prefix)
    bins, frames = grid[0] * patch[0], grid[1] * patch[1]
    model = ModelConfig(
        **body,
        preset="ast",
        num_mel_bins=bins,
        patch_size=patch,
        patch_stride=patch,
        pos_embed="grid",
        grid=grid,
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
        aliases=(DATA_PARALLEL,),
        keys=(
            *timm_encoder(),
            *patches_and_positions("patch_embed.proj", "pos_embed"),
            *layers({"head": "head"}),
        ),
        ignored=(Ignored(r"head(_dist)?\.", _TWO_HEADS),),
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
        aliases=hf_aliases("vit|deit"),
        keys=(*hf_encoder(), *layers({"head": "classifier"})),
        ignored=(
            Ignored(r"((cls|distillation)_)?classifier\.", _TWO_HEADS),
            Ignored(r"pooler\.", "the pooler, which the classifier does not use"),
            Ignored(r"embeddings\.mask_token$", "only for masked image modelling"),
        ),
        describe=_describe_hf,
        image=True,
    )
)
