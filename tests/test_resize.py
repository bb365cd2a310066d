"""Resizing kernels and positions: the theory of FlexiAST's Section 2.3, and its dense form."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from elastictool.models.resize import (
    _axis_matrix,
    interpolation_matrix,
    pi_resize,
    resample_patch_embed,
    resize_position_grid,
    resize_position_rows,
)

SIZES = [(8, 8), (10, 10), (12, 20), (16, 48), (20, 16), (24, 4), (40, 40), (48, 48), (1, 5)]
UP = [(16, 16), (17, 16), (20, 20), (24, 48), (30, 30), (40, 16), (48, 48), (64, 64)]


def random(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """The same values for every dtype."""
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def bilinear_resize(kernel: Tensor, size: tuple[int, int]) -> Tensor:
    """Kernels resized like an image, antialiased."""
    return resample_patch_embed(kernel, size, "bl")


def resized_patches(patches: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, pf, pt) patches as FlexiAST resizes them: bilinear, no antialiasing."""
    return F.interpolate(patches[None], size, mode="bilinear", antialias=False)[0]


def dense_bilinear(old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """(new values, old values): Equation 1's B, from the image of each unit patch."""
    count = old[0] * old[1]
    units = torch.eye(count, dtype=torch.float64).view(count, *old)
    return resized_patches(units, new).flatten(1).T


@pytest.mark.parametrize("size", UP)
@pytest.mark.parametrize("dtype, least", [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_upsampled_kernel_on_upsampled_patch_is_the_original_product(
    size: tuple[int, int], dtype: torch.dtype, least: float
) -> None:
    kernel, patches = random(6, 16, 16, dtype=dtype), random(50, 16, 16, dtype=dtype)
    expected = patches.flatten(1) @ kernel.flatten(1).T
    found = resized_patches(patches, size).flatten(1) @ pi_resize(kernel, size).flatten(1).T
    assert (found - expected).abs().max() <= least * expected.abs().max()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("base", [(16, 16), (8, 4), (32, 8)])
def test_separable_equals_the_dense_pseudo_inverse(
    base: tuple[int, int], size: tuple[int, int]
) -> None:
    kernel = random(5, *base)
    dense = torch.linalg.pinv(dense_bilinear(base, size).T)
    expected = (kernel.flatten(1) @ dense.T).view(5, *size)
    torch.testing.assert_close(pi_resize(kernel, size), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("size", [(8, 8), (10, 12), (12, 24)])
def test_going_down_no_other_kernel_is_nearer_over_white_patches(size: tuple[int, int]) -> None:
    kernel, bilinear = random(1, 16, 16), dense_bilinear((16, 16), size)
    best = pi_resize(kernel, size).flatten()

    def distance(candidate: Tensor) -> Tensor:
        return (kernel.flatten() - bilinear.T @ candidate).norm()

    gradient = bilinear @ (kernel.flatten() - bilinear.T @ best)
    assert gradient.abs().max() < 1e-10
    assert distance(best) < distance(best + 0.01 * random(best.numel()))
    assert distance(best) < distance(resample_patch_embed(kernel, size, "bl").flatten())


def test_leading_axes_are_kept_and_treated_alike() -> None:
    kernel = random(4, 3, 16, 16)
    resized = pi_resize(kernel, (10, 24))
    assert resized.shape == (4, 3, 10, 24)
    torch.testing.assert_close(resized[2, 1], pi_resize(kernel[2, 1], (10, 24)))


@pytest.mark.parametrize("resize", [pi_resize, bilinear_resize])
def test_the_same_size_returns_the_kernel_itself(resize: object) -> None:
    kernel = random(4, 16, 12)
    assert resize(kernel, (16, 12)) is kernel  # type: ignore[operator]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("antialias", [True, False])
def test_bilinear_is_torchs_own(size: tuple[int, int], antialias: bool) -> None:
    kernel = random(5, 16, 16)
    expected = F.interpolate(kernel[None], size, mode="bilinear", antialias=antialias)[0]
    torch.testing.assert_close(
        resample_patch_embed(kernel, size, "bl" if antialias else "bl-plain"),
        expected,
        rtol=1e-12,
        atol=1e-12,
    )


@pytest.mark.parametrize("old, new", [(16, 48), (16, 10), (1, 7), (7, 1), (5, 5), (64, 3)])
@pytest.mark.parametrize("antialias", [True, False])
def test_interpolation_weights_of_each_value_add_up_to_one(
    old: int, new: int, antialias: bool
) -> None:
    matrix = interpolation_matrix(old, new, antialias)
    assert matrix.shape == (new, old)
    torch.testing.assert_close(matrix.sum(1), torch.ones(new, dtype=torch.float64))
    assert matrix.min() >= 0


@pytest.mark.parametrize("rows, shape", [(8, (4, 1)), (8, (16, 1)), (1, (5, 1))])
@pytest.mark.parametrize("width", [1, 3])
def test_a_table_of_one_column_is_not_resized_to_zeros(
    rows: int, shape: tuple[int, int], width: int
) -> None:
    table = torch.full((rows, 1, width), 3.0)
    expected = torch.full((*shape, width), 3.0)
    torch.testing.assert_close(resize_position_grid(table, shape), expected)


@pytest.mark.parametrize("bands", [3, 5, 8, 16])
@pytest.mark.parametrize("antialias", [True, False])
def test_bands_keep_their_positions_in_a_grid_of_one_column(bands: int, antialias: bool) -> None:
    by_band = torch.arange(8.0)[:, None, None].expand(8, 3, 4)
    one = resize_position_grid(by_band, (bands, 1), antialias)
    two = resize_position_grid(by_band, (bands, 2), antialias)
    torch.testing.assert_close(one, two[:, :1])
    assert (one[1:] > one[:-1]).all()


@pytest.mark.parametrize("shape", [(3, 22), (16, 128), (8, 30), (1, 64)])
def test_positions_are_resized_with_antialiasing_unless_asked(shape: tuple[int, int]) -> None:
    table = random(8, 64, 6)
    for antialias in (True, False):
        frequency, time = (
            interpolation_matrix(old, new, antialias)
            for old, new in zip((8, 64), shape, strict=True)
        )
        expected = torch.einsum("ab,bcd,ec->aed", frequency, table, time)
        found = resize_position_grid(table, shape, antialias)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(resize_position_grid(table, shape), resize_position_grid(table, shape, True))
    rows = resize_position_rows(table[0], 21)
    torch.testing.assert_close(rows, resize_position_grid(table[:1], (1, 21))[0])


@pytest.mark.parametrize("size", [(5, 7), (3, 9), (6, 4)])
@pytest.mark.parametrize("resize", [pi_resize, bilinear_resize, resize_position_grid])
def test_gradients_flow(resize: object, size: tuple[int, int]) -> None:
    shape = (6, 4, 2) if resize is resize_position_grid else (2, 6, 4)
    values = random(*shape).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: resize(x, size), (values,))  # type: ignore[operator]


def test_a_matrix_first_used_in_inference_serves_training_too() -> None:
    _axis_matrix.cache_clear()
    kernel = torch.randn(4, 16, 16, requires_grad=True)
    with torch.inference_mode():
        pi_resize(kernel, (9, 9))
    pi_resize(kernel, (9, 9)).sum().backward()
    assert kernel.grad is not None and kernel.grad.abs().max() > 0


def test_each_size_dtype_and_device_is_computed_once() -> None:
    _axis_matrix.cache_clear()
    for dtype in (torch.float32, torch.float64):
        for _ in range(3):
            pi_resize(random(2, 16, 16, dtype=dtype), (12, 12))
    assert _axis_matrix.cache_info().misses == 2


def test_bfloat16_autocast_leaves_the_resized_kernel_exact() -> None:
    kernel = random(4, 16, 16, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        resized = pi_resize(kernel, (8, 24))
    assert torch.equal(resized, pi_resize(kernel, (8, 24)))


def test_half_precision_kernels_are_resized_in_float32() -> None:
    kernel = random(4, 16, 16, dtype=torch.bfloat16)
    resized = pi_resize(kernel, (24, 24))
    assert resized.dtype == torch.bfloat16
    expected = pi_resize(kernel.float(), (24, 24)).bfloat16()
    assert torch.equal(resized, expected)


def test_the_table_in_the_docs_is_what_its_command_writes() -> None:
    from benchmarks.pages import fill
    from benchmarks.resize import PAGE, table

    text = PAGE.read_text("utf-8")
    assert fill(text, "resize", table()) == text
