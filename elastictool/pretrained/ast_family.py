"""Defines the formats of AST, SSAST and FlexiAST: a DeiT below ``v.``, ``mlp_head`` above.

AST (Gong et al. 2021) has a distilled DeiT on overlapping patches, eps 1e-6 in the encoder and
torch's 1e-5 in the head's LayerNorm; its input is (x - mean) / (2 std), padded with zeros before
that. SSAST (Gong et al. 2022) is the same model, pretrained without labels; fine-tuned SSASTs
average the patch tokens, so ``pooling`` is ``mean``. Its frame models (patches of 128 x 2) have no
grid in frequency and are refused. FlexiAST (Feng et al. 2023) moved patch kernel and positions out
of ``v.``; those below ``v.`` are left over.

Source: the published code of the three papers.
"""

from __future__ import annotations

from typing import Literal

from elastictool.audio.features import AUDIOSET_MEAN, AUDIOSET_STD
from elastictool.config import (
    DataConfig,
    FbankConfig,
    InitConfig,
    LengthConfig,
    ModelConfig,
    RunConfig,
    TrainConfig,
)
from elastictool.pretrained.formats import (
    FORMATS,
    Described,
    Format,
    Key,
    Tensors,
    layers,
    patches_and_positions,
    timm_encoder,
)
from elastictool.pretrained.shapes import (
    AUDIOSET_CLASSES,
    MEL_BINS,
    Grid,
    audio_grid,
    classes,
    conv_patch,
    encoder,
    heads_note,
    need,
)
from elastictool.pretrained.source import Source
from elastictool.utils.errors import CheckpointError

_AMBIGUOUS = (
    "a fine-tuned AST and a fine-tuned SSAST have the same keys: {pooled} tokens are averaged, as "
    "in this format (else --from {format})"
)


def _describe_ast(source: Source, tensors: Tensors, init: InitConfig) -> Described:
    patch, positions = _patches(tensors, "v.patch_embed.proj.weight", "v.pos_embed")
    grid = audio_grid(positions, patch, init.source_stride)
    note = _AMBIGUOUS.format(format="ssast", pooled="prefix")
    return _described(tensors, patch, grid, init, "prefix", note)


def _describe_ssast(source: Source, tensors: Tensors, init: InitConfig) -> Described:
    patch, positions = _patches(tensors, "v.patch_embed.proj.weight", "v.pos_embed")
    if patch[0] == MEL_BINS:
        raise CheckpointError(
            f"{source.file} is a frame model (patches of {patch[0]}x{patch[1]}), "
            "which has no grid in frequency and cannot be used here",
            "take a patch model (16x16), such as SSAST-Base-Patch-400",
        )
    grid = None
    sizes = [tensors[key] for key in ("p_input_fdim", "p_input_tdim") if key in tensors]
    if len(sizes) == 2 and all(size.numel() == 1 for size in sizes):
        # The size of pretraining, whose patches do not overlap.
        bins, frames = map(int, sizes)
        shape = (bins // patch[0], frames // patch[1])
        if bins == MEL_BINS and shape[0] * shape[1] == positions:
            grid = Grid(shape, patch, frames)
    grid = grid or audio_grid(positions, patch, init.source_stride)
    notes = [_AMBIGUOUS.format(format="ast", pooled="patch")]
    if any(key.startswith(("cpredlayer.", "gpredlayer.", "p_input_")) for key in tensors):
        notes = []  # no AST has such keys
    return _described(tensors, patch, grid, init, "mean", *notes)


def _describe_flexiast(source: Source, tensors: Tensors, init: InitConfig) -> Described:
    patch, positions = _patches(tensors, "patch_embed.proj.weight", "pos_embed.pos_embed")
    if positions == 8 * 64:  # the published tables, whatever the patch size
        grid = Grid((8, 64), patch, 1_024)
    else:
        grid = audio_grid(positions, patch, patch, overlaps=False)
    return _described(tensors, patch, grid, init, "prefix")


def _prefix_tokens(tensors: Tensors) -> int:
    return 2 if "v.dist_token" in tensors else 1


def _patches(tensors: Tensors, conv: str, table: str) -> tuple[tuple[int, int], int]:
    """Returns the patch size and the number of patch positions in ``table``."""
    patch = conv_patch(tensors, conv)
    return patch, need(tensors, table, "1, positions, D").shape[1] - _prefix_tokens(tensors)


def _described(
    tensors: Tensors,
    patch: tuple[int, int],
    grid: Grid,
    init: InitConfig,
    pooling: Literal["mean", "prefix"],
    *notes: str,
) -> Described:
    width = need(tensors, "v.cls_token", "1, 1, D").shape[-1]
    num_classes = classes(tensors, "mlp_head.1.weight")
    model = ModelConfig(
        **encoder(tensors, "v.blocks", width, init),
        preset="ast",
        patch_size=patch,
        patch_stride=grid.stride,
        pos_embed="grid",
        grid=grid.shape,
        prefix_tokens=_prefix_tokens(tensors),
        pooling=pooling,
        norm_eps=1e-6,
        fc_norm=num_classes > 0,
        fc_norm_eps=1e-5,
        num_classes=num_classes,
    )
    return spectrogram(model, init, grid.frames, *notes)


def spectrogram(
    model: ModelConfig, init: InitConfig, fixed_frames: int = 0, *notes: str
) -> Described:
    """Describes an audio model; AudioSet's statistics where it has AudioSet's classes."""
    data, train = DataConfig(), TrainConfig()
    found = [
        f"{model.grid[0]}x{model.grid[1]} patches of {model.patch_size[0]}x{model.patch_size[1]} "
        f"at stride {model.patch_stride[0]}x{model.patch_stride[1]}",
        *heads_note(model, init),
        *notes,
    ]
    if model.num_classes == AUDIOSET_CLASSES:
        data, train = DataConfig(mean=AUDIOSET_MEAN, std=AUDIOSET_STD), TrainConfig(loss="bce")
        found.append("527 classes are taken for AudioSet's: its published mean and std, BCE")
    length = LengthConfig(
        max_frames=fixed_frames or model.grid[1] * model.patch_size[1],
        fixed_frames=fixed_frames,
        edge="drop",
        padding="zero",
    )
    fbank = FbankConfig(num_mel_bins=model.num_mel_bins)
    config = RunConfig(data=data, fbank=fbank, length=length, model=model, train=train)
    return Described(config, notes=tuple(found))


def _keys(conv: str, table: str) -> tuple[Key, ...]:
    head = {"fc_norm": "mlp_head.0", "head": "mlp_head.1"}
    return (*timm_encoder("v."), *patches_and_positions(conv, table), *layers(head))


_STALE_HEAD = {r"v\.head(_dist)?\.": "the ImageNet classifier of the ViT it grew from, never used"}

FORMATS.register("ast")(
    Format(
        title="AST (.pth of its authors)",
        signature=(r"v\.cls_token$", r"v\.blocks\.\d+\.attn\.qkv\.", r"v\.pos_embed$"),
        foreign=(r"pos_embed\.pos_embed$", r"[cg]predlayer\.", r"p_input_[ft]dim$"),
        keys=_keys("v.patch_embed.proj", "v.pos_embed"),
        ignored=_STALE_HEAD,
        describe=_describe_ast,
    )
)
FORMATS.register("ssast")(
    Format(
        title="SSAST, patch models",
        signature=(r"v\.cls_token$", r"v\.blocks\.\d+\.attn\.qkv\.", r"v\.pos_embed$"),
        foreign=(r"pos_embed\.pos_embed$",),
        keys=_keys("v.patch_embed.proj", "v.pos_embed"),
        ignored=_STALE_HEAD
        | {
            r"[cg]predlayer\.": "predicts masked patches, in pretraining only",
            r"mask_embed$": "stands for masked patches, in pretraining only",
            r"p_input_[ft]dim$": "the input size of pretraining",
        },
        describe=_describe_ssast,
        official_fit="interpolate",
        official_fc_norm="encoder",
    )
)
FORMATS.register("flexiast")(
    Format(
        title="FlexiAST of its authors",
        signature=(r"v\.cls_token$", r"pos_embed\.pos_embed$", r"patch_embed\.proj\."),
        keys=_keys("patch_embed.proj", "pos_embed.pos_embed"),
        ignored=_STALE_HEAD
        | {
            r"v\.(patch_embed\.|pos_embed$)": "left over from the AST it grew from; the one in use "
            "is outside v."
        },
        describe=_describe_flexiast,
    )
)
