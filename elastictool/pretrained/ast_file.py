"""AST as its authors publish it (``.pth``): a distilled DeiT on overlapping patches.

Source: published AST code (Gong et al. 2021): eps 1e-6 in the encoder, torch's 1e-5 in the head's
LayerNorm, prefix tokens averaged, input (x - mean) / (2 std) padded with zeros before that.
"""

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
from elastictool.pretrained.formats import FORMATS, Described, Format, Tensors
from elastictool.pretrained.names import (
    DATA_PARALLEL,
    STALE_HEAD,
    conv_embedding,
    grid_positions,
    linear,
    timm_encoder,
)
from elastictool.pretrained.shapes import (
    AUDIOSET_CLASSES,
    AUDIOSET_STATISTICS,
    POSITION_AXES,
    Grid,
    audio_grid,
    classes,
    conv_patch,
    encoder,
    heads_note,
    need,
)
from elastictool.pretrained.source import Source

HEAD_EPS = 1e-5


def _describe(source: Source, tensors: Tensors, init: InitConfig) -> Described:
    patch = conv_patch(tensors, "v.patch_embed.proj.weight")
    table = need(tensors, "v.pos_embed", POSITION_AXES)
    prefix = 2 if "v.dist_token" in tensors else 1
    grid = audio_grid(table.shape[1] - prefix, patch, init.source_stride)
    model = ast_model(tensors, patch, grid, prefix, init)
    return spectrogram(model, init, grid.frames, AMBIGUOUS.format(format="ssast", pooled="prefix"))


AMBIGUOUS = (
    "a fine-tuned AST and a fine-tuned SSAST cannot be told from each other: {pooled} tokens are "
    "averaged, as this format has it (else --from {format})"
)


def ast_model(
    tensors: Tensors, patch: tuple[int, int], grid: Grid, prefix_tokens: int, init: InitConfig
) -> ModelConfig:
    """The model of an AST whose encoder is under ``v.`` and whose head is ``mlp_head``."""
    width = need(tensors, "v.cls_token", "1, 1, D").shape[-1]
    num_classes = classes(tensors, "mlp_head.1.weight")
    return ModelConfig(
        **encoder(tensors, r"v\.blocks\.(\d+)\.", "v.blocks.0.mlp.fc1.weight", width, init),
        preset="ast",
        patch_size=patch,
        patch_stride=grid.stride,
        pos_embed="grid",
        grid=grid.shape,
        prefix_tokens=prefix_tokens,
        pooling="prefix",
        norm_eps=1e-6,
        fc_norm=num_classes > 0,
        fc_norm_eps=HEAD_EPS,
        num_classes=num_classes,
    )


def spectrogram(
    model: ModelConfig, init: InitConfig, fixed_frames: int = 0, *notes: str
) -> Described:
    """An audio model of the AST family; AudioSet's statistics where it has AudioSet's classes."""
    data, train = DataConfig(), TrainConfig()
    said = [
        f"{model.grid[0]}x{model.grid[1]} patches of {model.patch_size[0]}x{model.patch_size[1]} "
        f"at stride {model.patch_stride[0]}x{model.patch_stride[1]}",
        *heads_note(model, init),
        *notes,
    ]
    if model.num_classes == AUDIOSET_CLASSES:
        mean, std = AUDIOSET_STATISTICS
        data, train = DataConfig(mean=mean, std=std), TrainConfig(loss="bce")
        said.append("527 classes are taken for AudioSet's: its published mean and std, BCE")
    length = LengthConfig(
        max_frames=fixed_frames or model.grid[1] * model.patch_size[1],
        fixed_frames=fixed_frames,
        edge="drop",
        padding="zero",
    )
    fbank = FbankConfig(num_mel_bins=model.num_mel_bins)
    config = RunConfig(data=data, fbank=fbank, length=length, model=model, train=train)
    return Described(config, notes=tuple(said))


FORMATS.register("ast")(
    Format(
        title="AST (.pth of its authors)",
        signature=(r"v\.cls_token$", r"v\.blocks\.\d+\.attn\.qkv\.", r"v\.pos_embed$"),
        foreign=(r"pos_embed\.pos_embed$", r"[cg]predlayer\.", r"p_input_[ft]dim$"),
        aliases=(DATA_PARALLEL,),
        keys=(
            *timm_encoder("v."),
            *grid_positions("v.pos_embed"),
            *conv_embedding("v.patch_embed.proj"),
            *linear("fc_norm", "mlp_head.0"),
            *linear("head", "mlp_head.1"),
        ),
        ignored=(STALE_HEAD,),
        describe=_describe,
    )
)
