"""FlexiAST as its authors publish it: an AST whose patch kernel and positions were moved out.

The embedding and the positions under ``v.`` are left over from the model it grew from; the live
ones are ``patch_embed`` and ``pos_embed`` beside it.

Source: published FlexiAST code (Feng et al. 2023).
"""

from __future__ import annotations

from elastictool.config import InitConfig
from elastictool.pretrained.ast_file import ast_model, spectrogram
from elastictool.pretrained.formats import FORMATS, Described, Format, Ignored, Tensors
from elastictool.pretrained.names import (
    DATA_PARALLEL,
    STALE_HEAD,
    conv_embedding,
    grid_positions,
    linear,
    timm_encoder,
)
from elastictool.pretrained.shapes import POSITION_AXES, Grid, audio_grid, conv_patch, need
from elastictool.pretrained.source import Source

_BASE_GRID, _FRAMES = (8, 64), 1_024
"""Grid of the published position tables, whatever the patch size, and their input length."""


def _describe(source: Source, tensors: Tensors, init: InitConfig) -> Described:
    patch = conv_patch(tensors, "patch_embed.proj.weight")
    prefix = 2 if "v.dist_token" in tensors else 1
    positions = need(tensors, "pos_embed.pos_embed", POSITION_AXES).shape[1] - prefix
    if positions == _BASE_GRID[0] * _BASE_GRID[1]:
        grid = Grid(_BASE_GRID, patch, _FRAMES)
    else:
        grid = audio_grid(positions, patch, patch)
    return spectrogram(ast_model(tensors, patch, grid, prefix, init), init, grid.frames)


_STALE = "left over from the AST it grew from; the live one is beside v."

FORMATS.register("flexiast")(
    Format(
        title="FlexiAST of its authors",
        signature=(r"v\.cls_token$", r"pos_embed\.pos_embed$", r"patch_embed\.proj\."),
        aliases=(DATA_PARALLEL,),
        keys=(
            *timm_encoder("v."),
            *grid_positions("pos_embed.pos_embed"),
            *conv_embedding("patch_embed.proj"),
            *linear("fc_norm", "mlp_head.0"),
            *linear("head", "mlp_head.1"),
        ),
        ignored=(STALE_HEAD, Ignored(r"v\.(patch_embed\.|pos_embed$)", _STALE)),
        describe=_describe,
    )
)
