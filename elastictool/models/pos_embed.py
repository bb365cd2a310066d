"""Defines learned position embeddings of patches, for clips of any length.

ElasticAST adds a frequency table and a time table, and a clip shorter than the table uses its
first rows; a standard AST has one table over its fixed grid, which is fitted to a clip of another
length. Patches of another size make another grid of the same clip, to which the tables are
resized. Tables for clips that need fitting are appended to the trained one, so that a batch of
mixed lengths remains one look-up.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elastictool.config import ModelConfig
from elastictool.models.resize import resize_position_grid, resize_position_rows
from elastictool.packing.grid import covered, patches_along, scaled_stride
from elastictool.utils.errors import UsageError

_LOG = logging.getLogger(__name__)

GridShape = tuple[int, int]
K = TypeVar("K", bound=Hashable)


class _PosEmbed(nn.Module):
    """Base class: the trained patch size and stride, and the grid at another patch size."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.patch_size, self.patch_stride = config.patch_size, config.patch_stride

    def _columns(self, trained: int, patch_size: GridShape) -> int:
        """Counts the columns of ``patch_size`` over the time that ``trained`` columns cover."""
        if patch_size == self.patch_size:
            return trained
        stride = scaled_stride(self.patch_size, self.patch_stride, patch_size)
        frames = covered(trained, self.patch_size[1], self.patch_stride[1])
        return patches_along(frames, patch_size[1], stride[1], "pad")

    def _antialias(self, patch_size: GridShape) -> bool:
        """Returns whether to antialias a resized table: for other patch sizes, not other lengths.

        Source: FlexiAST's code antialiases where the patch size changes; AST's code does not.
        """
        return patch_size != self.patch_size


class FactorisedPosEmbed(_PosEmbed):
    """A frequency table and a time table, added. Source: ElasticAST, Section 3.2.

    Args:
        config: ``grid`` sizes the tables; ``pos_embed_overflow`` sets what a clip gets that is
            longer than the time table: the table interpolated to its width, or an error.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.beyond = config.pos_embed_overflow
        self.frequency = nn.Parameter(torch.zeros(config.grid[0], config.width))
        self.time = nn.Parameter(torch.zeros(config.grid[1], config.width))
        self._warned = False

    def forward(
        self, coords: Tensor, clips: Tensor, shapes: Sequence[GridShape], patch_size: GridShape
    ) -> Tensor:
        """Looks up the position embeddings of patches.

        Args:
            coords: (N, 2) int64, (frequency, time) of each patch.
            clips: (N,) int64, the clip of each patch.
            shapes: (frequency, time) patches of each clip.
            patch_size: (frequency, time) of the patches.

        Returns:
            (N, D).

        Raises:
            UsageError: A clip is longer than the table and the configuration wants an error.
        """
        trained, antialias = self._columns(len(self.time), patch_size), self._antialias(patch_size)
        longest = max(columns for _, columns in shapes)
        if longest > trained and self.beyond == "error":
            raise UsageError(
                f"a clip of {longest} patches is longer than the {trained} trained time positions",
                "set model.pos_embed_overflow=interpolate, or lower length.max_frames",
            )
        if longest > trained and not self._warned:
            self._warned = True
            _LOG.warning(
                "clips of up to %d patches are longer than the %d trained time positions, "
                "which are interpolated for them",
                longest,
                trained,
            )
        heights = [bands for bands, _ in shapes]
        widths = [max(columns, trained) for _, columns in shapes]
        frequency, first_band = _stack(
            lambda size: resize_position_rows(self.frequency, size, antialias), heights
        )
        time, first_column = _stack(
            lambda size: resize_position_rows(self.time, size, antialias), widths
        )
        bands = coords[:, 0] + _of_patches(first_band, clips)
        columns = coords[:, 1] + _of_patches(first_column, clips)
        return F.embedding(bands, frequency) + F.embedding(columns, time)


class GridPosEmbed(_PosEmbed):
    """One table over the whole (frequency, time) grid, as in ViT and AST.

    Args:
        config: ``grid`` is the trained grid; ``pos_embed_fit`` sets how it serves another one:
            ``interpolate`` stretches it, ``slice`` takes its first columns.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.trained = config.grid
        self.pos_embed_fit = config.pos_embed_fit
        self.grid = nn.Parameter(torch.zeros(config.grid[0] * config.grid[1], config.width))

    def forward(
        self, coords: Tensor, clips: Tensor, shapes: Sequence[GridShape], patch_size: GridShape
    ) -> Tensor:
        """Looks up the position embeddings of patches; see ``FactorisedPosEmbed.forward``."""
        table, firsts = _stack(lambda shape: self.fitted(shape, patch_size), shapes)
        widths = [columns for _, columns in shapes]
        index = coords[:, 0] * _of_patches(widths, clips) + coords[:, 1]
        return F.embedding(index + _of_patches(firsts, clips), table)

    def fitted(self, shape: GridShape, patch_size: GridShape) -> Tensor:
        """Returns the table for a grid of ``shape`` at ``patch_size``: (frequency x time, D)."""
        bands, whole = shape
        if self.pos_embed_fit == "slice":
            # Beyond its end a table cannot be sliced.
            whole = max(whole, self._columns(self.trained[1], patch_size))
        table = self.grid.view(*self.trained, -1)
        table = resize_position_grid(table, (bands, whole), self._antialias(patch_size))
        return table[:, : shape[1]].flatten(0, 1)


def build_pos_embed(config: ModelConfig) -> FactorisedPosEmbed | GridPosEmbed:
    """Builds the position embeddings that ``config.pos_embed`` names.

    Raises:
        UsageError: ``config.grid`` is not set yet.
    """
    if min(config.grid) == 0:
        raise UsageError(
            "model.grid is not set, so the size of the position table is unknown",
            "set model.grid=[bands,columns], the largest grid of patches in the data",
        )
    return (FactorisedPosEmbed if config.pos_embed == "factorised" else GridPosEmbed)(config)


def _stack(fit: Callable[[K], Tensor], keys: Sequence[K]) -> tuple[Tensor, list[int]]:
    """Stacks ``fit(key)`` for each distinct key; also return each clip's first row in the stack."""
    firsts: dict[K, int] = {}
    tables: list[Tensor] = []
    for key in keys:
        if key not in firsts:
            firsts[key] = sum(len(table) for table in tables)
            tables.append(fit(key))
    return (tables[0] if len(tables) == 1 else torch.cat(tables)), [firsts[key] for key in keys]


def _of_patches(per_clip: Sequence[int], clips: Tensor) -> Tensor | int:
    """Returns the integer of each patch's clip; one integer where all clips agree."""
    if len(set(per_clip)) == 1:
        return per_clip[0]
    return torch.tensor(per_clip).to(clips.device, non_blocking=True)[clips]
