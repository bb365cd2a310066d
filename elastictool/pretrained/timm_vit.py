"""ViT and DeiT as timm and the DeiT authors write them: ImageNet models, without configuration."""

from __future__ import annotations

from elastictool.config import FbankConfig, InitConfig, LengthConfig, ModelConfig, RunConfig
from elastictool.pretrained.formats import FORMATS, Described, Format, Ignored, Tensors
from elastictool.pretrained.names import (
    DATA_PARALLEL,
    TWO_HEADS,
    conv_embedding,
    grid_positions,
    linear,
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


def _describe(source: Source, tensors: Tensors, init: InitConfig) -> Described:
    patch = conv_patch(tensors, "patch_embed.proj.weight")
    distilled = "dist_token" in tensors
    prefix = 2 if distilled else 1
    positions = need(tensors, "pos_embed", POSITION_AXES)
    grid = square_grid(positions.shape[1] - prefix)
    model = ModelConfig(
        **encoder(tensors, r"blocks\.(\d+)\.", "blocks.0.mlp.fc1.weight", positions.shape[2], init),
        preset="ast",
        num_mel_bins=grid[0] * patch[0],
        patch_size=patch,
        patch_stride=patch,
        pos_embed="grid",
        grid=grid,
        prefix_tokens=prefix,
        pooling="prefix",
        norm_eps=1e-6,
        fc_norm=False,
        num_classes=0 if distilled else classes(tensors, "head.weight"),
    )
    return picture(model, notes=heads_note(model, init))


def picture(
    model: ModelConfig, label_names: tuple[str, ...] = (), notes: tuple[str, ...] = ()
) -> Described:
    """An image model: a spectrogram takes the place of a picture of the same size."""
    frames = model.grid[1] * model.patch_size[1]
    config = RunConfig(
        fbank=FbankConfig(num_mel_bins=model.num_mel_bins),
        length=LengthConfig(fixed_frames=frames, edge="drop"),
        model=model,
    )
    return Described(config, label_names, notes)


FORMATS.register("timm")(
    Format(
        title="timm ViT or DeiT (ImageNet)",
        signature=(r"cls_token$", r"blocks\.\d+\.attn\.qkv\.", r"patch_embed\.proj\."),
        foreign=(r"mlp_head\.",),
        aliases=(DATA_PARALLEL,),
        keys=(
            *timm_encoder(),
            *grid_positions("pos_embed"),
            *conv_embedding("patch_embed.proj"),
            *linear("head", "head"),
        ),
        ignored=(Ignored(r"head(_dist)?\.", TWO_HEADS),),
        describe=_describe,
        image=True,
    )
)
