"""Infers a model's settings from tensor shapes, because published files hold no settings.

Width, depth and patch size follow from shapes, the number of heads from the width (64 values a
head, as in all published models but the largest image models; the report notes that this is
assumed), and the grid of patches from the number of positions. Grids are ambiguous: 600 positions
are 12 x 50 at stride 10 or 8 x 75 at stride 16. One is chosen only where exactly one belongs to an
input length of the published models; else the user must set the stride.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from elastictool.config import InitConfig, ModelConfig
from elastictool.packing.grid import covered
from elastictool.pretrained.formats import Tensors
from elastictool.utils.errors import CheckpointError

HEAD_WIDTH = 64
OTHER_HEADS = {1280: 16, 1408: 16, 1664: 16}
"""Heads of published ViTs whose heads do not have 64 values, by width: ViT-H, ViT-g and ViT-G."""
MEL_BINS = 128
"""Mel bins of every published AST, SSAST, FlexiAST and ElasticAST."""
PUBLISHED_FRAMES = (1_024, 512, 128)
"""Input lengths of published ASTs: AudioSet, ESC-50, Speech Commands."""
AUDIOSET_CLASSES = 527

Size = tuple[int, int]


class Grid(NamedTuple):
    """A grid of patches, their stride and the input length; sizes are (frequency, time)."""

    shape: Size
    stride: Size
    frames: int


def need(tensors: Tensors, key: str, axes: str) -> Tensor:
    """Returns the tensor ``key``, which has the axes that ``axes`` names: ``D, channels, pf, pt``.

    Raises:
        CheckpointError: There is none, or it has other axes.
    """
    if key not in tensors:
        raise CheckpointError(
            f"the file has no {key}, without which its model is not known",
            "it may be part of a model, or of another format than named with --from",
        )
    shape = tuple(tensors[key].shape)
    if len(shape) != len(axes.split(",")) or not all(shape):
        raise CheckpointError(
            f"{key} is {shape} and should be ({axes})",
            "the file may be damaged, or of another format than named with --from",
        )
    return tensors[key]


def number_of_blocks(keys: Iterable[str], pattern: str, file: object = "the file") -> int:
    """Counts the blocks in ``keys``; the first group of ``pattern`` is a block's number.

    Raises:
        CheckpointError: They are not numbered from 0 without a gap.
    """
    found = {match[1] for key in keys if (match := re.match(pattern, key))}
    if found != {str(number) for number in range(len(found))}:
        raise CheckpointError(
            f"the {len(found)} blocks of {file} are not numbered from 0 to {len(found) - 1}",
            "it may be part of a model, or damaged",
        )
    return len(found)


def conv_patch(tensors: Tensors, key: str) -> Size:
    """Returns (frequency, time) of the patches of a convolution (D, channels, pf, pt)."""
    _, _, frequency, time = need(tensors, key, "D, channels, pf, pt").shape
    return frequency, time


def encoder(tensors: Tensors, blocks: str, width: int, init: InitConfig) -> dict[str, Any]:
    """Returns width, depth, heads and MLP ratio for a ``ModelConfig``.

    Args:
        tensors: The file's, whose blocks are ``BLOCKS.0``, ``BLOCKS.1``, ...
        blocks: What stands for ``BLOCKS``.
        width: Features of a token.
        init: Its ``heads``, where set.

    Raises:
        CheckpointError: The number of heads cannot be inferred, or blocks are missing.
    """
    depth = number_of_blocks(tensors, rf"{re.escape(blocks)}\.(\d+)\.")
    if init.heads and width % init.heads:
        raise CheckpointError(
            f"init.heads = {init.heads} does not divide the width of the weights, {width}",
            "give the number of attention heads that they were trained with",
        )
    if not init.heads and width not in OTHER_HEADS and width % HEAD_WIDTH:
        raise CheckpointError(
            f"the model is {width} wide, which is no multiple of {HEAD_WIDTH}: "
            "its number of heads cannot be inferred",
            "set it: --set init.heads=…",
        )
    return {
        "width": width,
        "depth": depth,
        "heads": init.heads or OTHER_HEADS.get(width, width // HEAD_WIDTH),
        "mlp_ratio": need(tensors, f"{blocks}.0.mlp.fc1.weight", "4D, D").shape[0] / width,
    }


def heads_note(model: ModelConfig, init: InitConfig) -> tuple[str, ...]:
    """Returns the report's note on heads that were assumed."""
    if init.heads:
        return ()
    return (
        f"{model.heads} heads are assumed, of {model.width // model.heads} values as in published "
        "models; the file does not say (else --set init.heads=…)",
    )


def classes(tensors: Tensors, key: str) -> int:
    """Returns the rows of the classifier ``key``; 0 where the file has none."""
    return len(need(tensors, key, "C, D")) if key in tensors else 0


def audio_grid(positions: int, patch: Size, stride: Size = (0, 0), overlaps: bool = True) -> Grid:
    """Returns the grid of an AST with this number of positions of patches.

    Args:
        positions: Rows of the position table without those of the prefix tokens.
        patch: (frequency, time) of a patch.
        stride: The stride that the user or the format has set; (0, 0) infers it.
        overlaps: Whether the format has models of other strides than ``patch``.

    Raises:
        CheckpointError: No stride of a published model gives this number, or several do.
    """
    published = sorted({(step, step) for step in (10, 12, 14, 16) if step <= min(patch)} | {patch})
    fits = _fitting(positions, patch, [stride] if min(stride) else published)
    known = [grid for grid in fits if grid.frames in PUBLISHED_FRAMES]
    chosen = known if len(known) == 1 else fits
    if len(chosen) == 1:
        return chosen[0]
    found = ", ".join(f"{g.shape[0]}x{g.shape[1]} at stride {g.stride[0]}" for g in chosen)
    raise CheckpointError(
        f"the grid of {positions} positions cannot be inferred: it may be {found or 'none'} "
        f"of {MEL_BINS} mel bins",
        _stride_hint(positions, patch, chosen or _fitting(positions, patch, published), overlaps),
    )


def _stride_hint(positions: int, patch: Size, found: Sequence[Grid], overlaps: bool) -> str:
    """Names a stride that gives ``positions``: one of ``found``, else the largest without gaps."""
    every = [(step, step) for step in range(min(patch), 0, -1)] if overlaps else []
    fits = found or _fitting(positions, patch, every)
    if not fits:
        return (
            f"no stride of patches of {patch[0]}x{patch[1]} gives this number: the file may be "
            f"damaged, or have another number of mel bins than {MEL_BINS}"
        )
    stride = max(fits, key=lambda grid: grid.frames in PUBLISHED_FRAMES).stride
    text = f"{stride[0]}" if stride[0] == stride[1] else f"[{stride[0]},{stride[1]}]"
    return (
        "set the stride that the patches were trained with, such as "
        f"--set init.source_stride={text}"
    )


def _fitting(positions: int, patch: Size, strides: Iterable[Size]) -> list[Grid]:
    """Returns the grids of ``positions`` patches at those of ``strides`` that give this number."""
    fits = []
    for step in strides:
        columns, rest = divmod(positions, max(1, (MEL_BINS - patch[0]) // step[0] + 1))
        if columns and not rest and patch[0] <= MEL_BINS:
            least = covered(columns, patch[1], step[1])
            frames = [f for f in PUBLISHED_FRAMES if least <= f < least + step[1]]
            shape = (positions // columns, columns)
            fits.append(Grid(shape, step, frames[0] if frames else least))
    return fits
