"""ViT and DeiT as Hugging Face writes them: ImageNet models with a ``config.json``."""

from __future__ import annotations

from elastictool.config import InitConfig, ModelConfig
from elastictool.pretrained import hf_json
from elastictool.pretrained.formats import FORMATS, Described, Format, Ignored, Tensors
from elastictool.pretrained.names import TWO_HEADS, hf_aliases, hf_encoder, linear
from elastictool.pretrained.shapes import POSITION_AXES, classes, conv_patch, need, square_grid
from elastictool.pretrained.source import Source
from elastictool.pretrained.timm_vit import picture


def _describe(source: Source, tensors: Tensors, init: InitConfig) -> Described:
    hf_json.need_config(source, "vit", "deit")
    patch = conv_patch(tensors, "embeddings.patch_embeddings.projection.weight")
    distilled = "embeddings.distillation_token" in tensors
    prefix = 2 if distilled else 1
    positions = need(tensors, "embeddings.position_embeddings", POSITION_AXES)
    grid = square_grid(positions.shape[1] - prefix)
    num_classes = 0 if distilled else classes(tensors, "classifier.weight")
    model = ModelConfig(
        **hf_json.encoder(source),
        preset="ast",
        num_mel_bins=grid[0] * patch[0],
        patch_size=patch,
        patch_stride=patch,
        pos_embed="grid",
        grid=grid,
        prefix_tokens=prefix,
        pooling="prefix",
        fc_norm=False,
        num_classes=num_classes,
    )
    return picture(model, hf_json.label_names(source, num_classes))


FORMATS.register("hf-vit")(
    Format(
        title="Hugging Face ViT or DeiT (ImageNet)",
        signature=(
            r"embeddings\.cls_token$",
            r"encoder\.layer\.\d+\.attention\.attention\.query\.",
        ),
        foreign=(r"classifier\.dense\.",),
        aliases=hf_aliases("vit|deit"),
        keys=(*hf_encoder(), *linear("head", "classifier")),
        ignored=(
            Ignored(r"((cls|distillation)_)?classifier\.", TWO_HEADS),
            Ignored(r"pooler\.", "the pooler, which the classifier does not use"),
            Ignored(r"embeddings\.mask_token$", "only for masked image modelling"),
        ),
        describe=_describe,
        image=True,
    )
)
