"""Fits position tables to a model with other patches or another grid.

A grid changes in two ways. Where patches have another size or stride, the same area is
covered by another number of them, and the table is stretched as a whole. Where the area itself
differs (an image's 14 bands against 8 bands of mel bins; clips of another length), an axis that
is too long is cut and one that is too short is stretched, or both are stretched.
"""

from __future__ import annotations

from torch import Tensor

from elastictool.config import GridFit, ModelConfig
from elastictool.models.resize import resize_position_grid
from elastictool.packing.grid import covered, patches_along

Size = tuple[int, int]
FREQUENCY, TIME, GRID = "pos_embed.frequency", "pos_embed.time", "pos_embed.grid"


def same_area_grid(source: ModelConfig, target: ModelConfig) -> Size:
    """Returns the grid of ``target``'s patches over the area that ``source``'s grid covers."""
    grid = list(source.grid)
    for axis in (0, 1):
        old = source.patch_size[axis], source.patch_stride[axis]
        new = target.patch_size[axis], target.patch_stride[axis]
        if old != new:
            grid[axis] = patches_along(covered(grid[axis], *old), *new, "pad")
    return grid[0], grid[1]


def fit_axis(
    table: Tensor, axis: int, area: Size, source: ModelConfig, target: ModelConfig, how: GridFit
) -> Tensor:
    """Fits one axis (0 frequency, 1 time) of (bands, columns, D) positions to ``target``.

    ``area`` is the grid of ``target``'s patches where ``source``'s grid is. An axis that is too
    long is cut: positions by index keep their first rows, grids their middle.

    Source: cut at the centre (old // 2 - new // 2) and stretched linearly without antialiasing, as
        AST; with antialiasing where the patches differ, as FlexiAST.
    """

    def stretched(size: int, antialias: bool) -> Tensor:
        bands, columns = table.shape[:2]
        return resize_position_grid(table, (bands, size) if axis else (size, columns), antialias)

    table = stretched(area[axis], antialias=True)
    old, new = table.shape[axis], target.grid[axis]
    if how == "crop" and old > new:
        table = table.narrow(axis, old // 2 - new // 2 if source.pos_embed == "grid" else 0, new)
    return stretched(new, antialias=False)


def fit_positions(
    tables: dict[str, Tensor],
    area: Size,
    source: ModelConfig,
    target: ModelConfig,
    how: GridFit,
    mean_twice: bool,
) -> dict[str, Tensor]:
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
