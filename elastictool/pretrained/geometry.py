"""Fits patch kernels and position tables to a model with other patches or another grid.

A grid changes in two ways. Where patches have another size or stride, the same area is
covered by another number of them, and the table is stretched as a whole. Where the area itself
differs (an image's 14 bands against 8 bands of mel bins; clips of another length), an axis that
is too long is cut and one that is too short is stretched, or both are stretched.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from elastictool.config import GridFit, ModelConfig
from elastictool.models.resize import pi_resize, resize_position_grid
from elastictool.packing.grid import covered, patches_along, scaled_stride

Size = tuple[int, int]
Positions = dict[str, Tensor]
FREQUENCY, TIME, GRID = "pos_embed.frequency", "pos_embed.time", "pos_embed.grid"


def fit_kernel(kernel: Tensor, old: Size, new: Size) -> Tensor:
    """Resizes a (D, P) kernel of ``old`` patches to (D, P') of ``new`` ones, by PI-resize."""
    return pi_resize(kernel.reshape(-1, *old), new).flatten(1)


def same_area_grid(source: ModelConfig, target: ModelConfig) -> Size:
    """Returns the grid of ``target``'s patches over the area that ``source``'s grid covers."""
    bands, columns = (
        _same_area(source.grid[i], source.patch_size[i], source.patch_stride[i],
                   target.patch_size[i], target.patch_stride[i])
        for i in (0, 1)
    )  # fmt: skip
    return bands, columns


def picture_grid(source: ModelConfig, target: ModelConfig) -> Size:
    """As ``same_area_grid``, for a picture's table, which ignores that patches overlap.

    Source: the published AST code takes a picture's rows as they are, whatever the stride.
    """
    stride = scaled_stride(source.patch_size, source.patch_stride, target.patch_size)
    return same_area_grid(source, dataclasses.replace(target, patch_stride=stride))


def _same_area(count: int, patch: int, stride: int, new_patch: int, new_stride: int) -> int:
    if (patch, stride) == (new_patch, new_stride):
        return count
    return patches_along(covered(count, patch, stride), new_patch, new_stride, "pad")


def fit_axis(
    table: Tensor, axis: int, area: Size, source: ModelConfig, target: ModelConfig, how: GridFit
) -> Tensor:
    """Fits one axis (0 frequency, 1 time) of (bands, columns, D) positions to ``target``.

    ``area`` is the grid of ``target``'s patches where ``source``'s grid is. Source: cut at the
    centre and stretched linearly without antialiasing, as AST; with antialiasing where the patches
    differ, as FlexiAST.
    """
    table = _stretch(table, axis, area[axis], antialias=True)
    if how == "crop":
        table = _cut(table, axis, target.grid[axis], centre=source.pos_embed == "grid")
    return _stretch(table, axis, target.grid[axis], antialias=False)


def _stretch(table: Tensor, axis: int, size: int, antialias: bool) -> Tensor:
    bands, columns = table.shape[:2]
    return resize_position_grid(table, (bands, size) if axis else (size, columns), antialias)


def _cut(table: Tensor, axis: int, size: int, centre: bool) -> Tensor:
    """Cuts an axis that is too long: positions by index keep their first rows, grids their middle.

    Source: the middle as in the AST code, old // 2 - new // 2.
    """
    old = table.shape[axis]
    if old <= size:
        return table
    return table.narrow(axis, old // 2 - size // 2 if centre else 0, size)


def fit_positions(
    tables: Positions,
    area: Size,
    source: ModelConfig,
    target: ModelConfig,
    how: GridFit,
    mean_twice: bool,
) -> Positions:
    """Converts position tables of ``source``, by our names, to tables of ``target``.

    ``area`` is as in ``fit_axis``. One grid becomes two factorised tables by marginal means; two
    factorised tables become the grid of their sums.
    """
    if source.pos_embed == "factorised":
        frequency = fit_axis(tables[FREQUENCY][:, None], 0, area, source, target, how)
        time = fit_axis(tables[TIME][None], 1, area, source, target, how)
        if target.pos_embed == "factorised":
            return {FREQUENCY: frequency.flatten(0, 1), TIME: time.flatten(0, 1)}
        return {GRID: (frequency + time).flatten(0, 1)}
    grid = tables[GRID].reshape(*source.grid, -1)
    for axis in (0, 1):
        grid = fit_axis(grid, axis, area, source, target, how)
    if target.pos_embed == "grid":
        return {GRID: grid.flatten(0, 1)}
    frequency, time = marginal_means(grid, mean_twice)
    return {FREQUENCY: frequency, TIME: time}


def marginal_means(table: Tensor, mean_twice: bool = False) -> tuple[Tensor, Tensor]:
    """Splits a (bands, columns, D) table into frequency (bands, D) and time (columns, D).

    The sum of both means holds the mean of the table twice; it is taken out of the time table
    unless ``mean_twice``, which leaves the sum off by a constant, as in the published code.
    Without it the sum is the least-squares fit of the table.
    """
    frequency, time = table.mean(dim=1), table.mean(dim=0)
    return frequency, time if mean_twice else time - table.mean(dim=(0, 1))


def mean_attention(state: dict[str, Tensor], depth: int, divisor: float) -> dict[str, Tensor]:
    """Makes attention pooling of the encoder's attention: the blocks' sum over ``divisor``."""
    start: dict[str, Tensor] = {}
    for part in ("weight", "bias"):
        blocks = [state[f"blocks.{n}.attn.qkv.{part}"] for n in range(depth)]
        joint = torch.stack(blocks).sum(0) / divisor
        width = len(joint) // 3
        start[f"attn_pool.q.{part}"], start[f"attn_pool.kv.{part}"] = (
            joint[:width].clone(), joint[width:].clone()
        )  # fmt: skip
        outs = [state[f"blocks.{n}.attn.proj.{part}"] for n in range(depth)]
        start[f"attn_pool.proj.{part}"] = torch.stack(outs).sum(0) / divisor
    return start
