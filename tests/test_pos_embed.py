"""Positions of clips shorter and longer than the trained table."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from elastictool.config import ModelConfig, PositionFit
from elastictool.models.pos_embed import (
    FactorisedPosEmbed,
    GridPosEmbed,
    build_pos_embed,
)
from elastictool.models.resize import resize_position_grid, resize_position_rows
from elastictool.utils.errors import UsageError

WIDTH, BANDS, COLUMNS = 6, 3, 8
FACTORISED = ModelConfig(width=WIDTH, heads=1, grid=(BANDS, COLUMNS))
M = TypeVar("M", bound=nn.Module)
GRID = ModelConfig(width=WIDTH, heads=1, grid=(BANDS, COLUMNS), pos_embed="grid")


def make_factorised(beyond: str = "interpolate") -> FactorisedPosEmbed:
    """Factorised positions with random tables in float64."""
    config = ModelConfig(
        width=WIDTH, heads=1, grid=(BANDS, COLUMNS),
        pos_embed_overflow="error" if beyond == "error" else "interpolate",
    )  # fmt: skip
    return fill(FactorisedPosEmbed(config))


def make_grid(pos_embed_fit: PositionFit = "interpolate") -> GridPosEmbed:
    """Grid positions with a random table in float64."""
    config = ModelConfig(
        width=WIDTH, heads=1, grid=(BANDS, COLUMNS), pos_embed="grid", pos_embed_fit=pos_embed_fit
    )
    return fill(GridPosEmbed(config))


def fill(module: M) -> M:
    """Random parameters in float64."""
    torch.manual_seed(0)
    for parameter in module.double().parameters():
        nn.init.normal_(parameter)
    return module


def look_up(
    module: nn.Module, shapes: list[tuple[int, int]], patch_size: tuple[int, int] = (16, 16)
) -> list[Tensor]:
    """Each clip's positions as (bands, columns, D)."""
    coords = [torch.cartesian_prod(torch.arange(f), torch.arange(t)) for f, t in shapes]
    clips = torch.arange(len(shapes)).repeat_interleave(torch.tensor([len(c) for c in coords]))
    found = module(torch.cat(coords), clips, shapes, patch_size)
    pieces = found.split([len(c) for c in coords])
    return [piece.view(*shape, -1) for piece, shape in zip(pieces, shapes, strict=True)]


def test_factorised_positions_are_frequency_plus_time() -> None:
    module = make_factorised()
    for (bands, columns), found in zip(
        shapes := [(3, 8), (3, 1), (3, 5)], look_up(module, shapes), strict=True
    ):
        expected = module.frequency[:bands, None] + module.time[None, :columns]
        assert torch.equal(found, expected)


def test_a_longer_clip_gets_interpolated_time_positions_and_others_stay() -> None:
    module = make_factorised()
    short, long, longer = look_up(module, [(3, 5), (3, 16), (3, 11)])
    assert torch.equal(short, module.frequency[:, None] + module.time[None, :5])
    for found, columns in ((long, 16), (longer, 11)):
        stretched = F.interpolate(module.time.T[None], columns, mode="linear", align_corners=False)[
            0
        ].T
        torch.testing.assert_close(found, module.frequency[:, None] + stretched[None])


def test_the_user_is_warned_of_longer_clips_once(caplog: pytest.LogCaptureFixture) -> None:
    module = make_factorised()
    with caplog.at_level(logging.WARNING):
        look_up(module, [(3, 8)])
        assert not caplog.records
        look_up(module, [(3, 9)])
        look_up(module, [(3, 12)])
    assert [record.getMessage() for record in caplog.records] == [
        "clips of up to 9 patches are longer than the 8 trained time positions, "
        "which are interpolated for them"
    ]


def test_longer_clips_are_an_error_on_request() -> None:
    module = make_factorised("error")
    look_up(module, [(3, 8)])
    with pytest.raises(UsageError, match="9 patches is longer than the 8") as caught:
        look_up(module, [(3, 2), (3, 9)])
    assert "pos_embed_overflow=interpolate" in caught.value.hint


@pytest.mark.parametrize("pos_embed_fit", ["interpolate", "slice"])
def test_the_trained_grid_is_used_as_it_is(pos_embed_fit: PositionFit) -> None:
    module = make_grid(pos_embed_fit)
    (found,) = look_up(module, [(BANDS, COLUMNS)])
    assert torch.equal(found.flatten(0, 1), module.grid)


def test_interpolate_stretches_the_grid_to_each_clip() -> None:
    module = make_grid("interpolate")
    image = module.grid.view(BANDS, COLUMNS, WIDTH).permute(2, 0, 1)[None]
    shapes = [(3, 5), (3, 8), (3, 20), (2, 8), (5, 1)]
    for shape, found in zip(shapes, look_up(module, shapes), strict=True):
        expected = F.interpolate(image, shape, mode="bilinear")[0].permute(1, 2, 0)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_slice_takes_the_first_columns_and_stretches_only_what_is_longer() -> None:
    module = make_grid("slice")
    table = module.grid.view(BANDS, COLUMNS, WIDTH)
    short, single, long, low = look_up(module, [(3, 5), (3, 1), (3, 12), (2, 5)])
    assert torch.equal(short, table[:, :5])
    assert torch.equal(single, table[:, :1])
    torch.testing.assert_close(long, resize_position_grid(table, (3, 12), antialias=False))
    torch.testing.assert_close(
        low, resize_position_grid(table, (2, COLUMNS), antialias=False)[:, :5]
    )


@pytest.mark.parametrize("make", [make_factorised, make_grid])
@settings(max_examples=20)
@given(shapes=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 12)), min_size=1, max_size=5))
def test_positions_of_a_clip_do_not_depend_on_other_clips_of_its_batch(
    make: Callable[[], nn.Module], shapes: list[tuple[int, int]]
) -> None:
    module = make()
    for shape, together in zip(shapes, look_up(module, shapes), strict=True):
        (alone,) = look_up(module, [shape])
        torch.testing.assert_close(together, alone, rtol=0, atol=0)


def test_interpolated_positions_pass_gradients_to_the_table() -> None:
    for module in (make_factorised(), make_grid()):
        total = torch.stack([x.sum() for x in look_up(module, [(3, 13), (3, 11)])]).sum()
        for grad in torch.autograd.grad(total, list(module.parameters())):
            assert grad.abs().min() > 0


def test_resizing_keeps_constant_and_linear_tables() -> None:
    constant = torch.full((4, 2), 3.0)
    assert torch.equal(resize_position_rows(constant, 9, antialias=False), torch.full((9, 2), 3.0))
    ramp = torch.arange(8.0)[:, None]
    inner = resize_position_rows(ramp, 16, antialias=False)[1:-1]
    torch.testing.assert_close(inner.diff(dim=0), torch.full((13, 1), 0.5))


def test_a_grid_that_is_not_set_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match=r"model\.grid is not set"):
        build_pos_embed(ModelConfig(grid=(8, 0)))
    assert isinstance(build_pos_embed(FACTORISED), FactorisedPosEmbed)
    assert isinstance(build_pos_embed(GRID), GridPosEmbed)
