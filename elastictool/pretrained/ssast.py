"""SSAST, the self-supervised AST: patch models as pretrained, or fine-tuned by its code.

Frame models (patches of 128 x 2) have no grid in frequency and are refused. Fine-tuned models
average the patch tokens, as the published scripts do, so ``pooling`` is ``mean``.

Source: published SSAST code (Gong et al. 2022).
"""

from __future__ import annotations

import dataclasses

from elastictool.config import InitConfig
from elastictool.pretrained.ast_file import AMBIGUOUS, ast_model, spectrogram
from elastictool.pretrained.formats import FORMATS, Described, Format, Ignored, Tensors
from elastictool.pretrained.names import (
    DATA_PARALLEL,
    STALE_HEAD,
    conv_embedding,
    grid_positions,
    linear,
    timm_encoder,
)
from elastictool.pretrained.shapes import (
    MEL_BINS,
    POSITION_AXES,
    Grid,
    audio_grid,
    conv_patch,
    need,
)
from elastictool.pretrained.source import Source
from elastictool.utils.errors import CheckpointError


def _describe(source: Source, tensors: Tensors, init: InitConfig) -> Described:
    patch = conv_patch(tensors, "v.patch_embed.proj.weight")
    if patch[0] == MEL_BINS:
        raise CheckpointError(
            f"{source.file} is a frame model (patches of {patch[0]}x{patch[1]}), "
            "which has no grid in frequency and cannot be used here",
            "take a patch model (16x16), such as SSAST-Base-Patch-400",
        )
    table = need(tensors, "v.pos_embed", POSITION_AXES)
    prefix = 2 if "v.dist_token" in tensors else 1
    positions = table.shape[1] - prefix
    grid = _pretraining_grid(tensors, patch, positions)
    grid = grid or audio_grid(positions, patch, init.source_stride)
    model = ast_model(tensors, patch, grid, prefix, init)
    model = dataclasses.replace(model, pooling="mean")
    told = any(key.startswith(_PRETRAINING) for key in tensors)
    notes = () if told else (AMBIGUOUS.format(format="ast", pooled="patch"),)
    return spectrogram(model, init, grid.frames, *notes)


_PRETRAINING = ("cpredlayer.", "gpredlayer.", "p_input_")
"""Beginnings of keys that no AST has."""


def _pretraining_grid(tensors: Tensors, patch: tuple[int, int], positions: int) -> Grid | None:
    """The grid from ``p_input_fdim`` and ``p_input_tdim``; pretraining patches do not overlap."""
    sizes = [tensors.get(key) for key in ("p_input_fdim", "p_input_tdim")]
    if any(size is None or size.numel() != 1 for size in sizes):
        return None
    bins, frames = (int(size) for size in sizes if size is not None)
    shape = (bins // patch[0], frames // patch[1])
    if bins != MEL_BINS or shape[0] * shape[1] != positions:
        return None
    return Grid(shape, patch, frames)


FORMATS.register("ssast")(
    Format(
        title="SSAST, patch models",
        signature=(r"v\.cls_token$", r"v\.blocks\.\d+\.attn\.qkv\.", r"v\.pos_embed$"),
        foreign=(r"pos_embed\.pos_embed$",),
        aliases=(DATA_PARALLEL,),
        keys=(
            *timm_encoder("v."),
            *grid_positions("v.pos_embed"),
            *conv_embedding("v.patch_embed.proj"),
            *linear("fc_norm", "mlp_head.0"),
            *linear("head", "mlp_head.1"),
        ),
        ignored=(
            STALE_HEAD,
            Ignored(r"[cg]predlayer\.", "predicts masked patches, in pretraining only"),
            Ignored(r"mask_embed$", "stands for masked patches, in pretraining only"),
            Ignored(r"p_input_[ft]dim$", "the input size of pretraining"),
        ),
        describe=_describe,
        official={"pos_embed": "interpolate"},
    )
)
