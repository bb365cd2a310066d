"""Resizes patch kernels and position tables to another patch size.

A kernel trained on 16x16 patches serves patches of another size once it is resized. Resizing it
like an image (``bl``) changes its products with the patches; ``pi_resize`` chooses the kernel whose
products change least. The map of patches from one size to another is bilinear and so
the same along each axis, and pinv(A x B) = pinv(A) x pinv(B) for Kronecker products: two small
matrix products are exact and need no p^2 by p^2 matrix.

Three meanings of "resize" are kept apart, as in the published FlexiAST code: PI-resize interpolates
without antialiasing, bilinear resizing of kernels with it (``bl-plain``: without), and positions
are resized bilinearly with it where the patch size changes.

Positions go through such matrices too, and not through an image: for an image of one column,
torch's antialiased interpolation gives every row the mean of all.

The matrices follow from two integers. They are computed in float64, kept per dtype and device,
and belong to no module, so checkpoints do not hold them.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from elastictool.config import Resize

Size = tuple[int, int]


def resample_patch_embed(kernel: Tensor, size: Size, how: Resize) -> Tensor:
    """Resizes a (..., pf, pt) kernel to (..., *size); leading axes (D, channels) are kept.

    Args:
        kernel: Patch kernels, floating point.
        size: (frequency, time) of the new patches.
        how: ``pi``, ``bl`` (bilinear with antialiasing) or ``bl-plain`` (without).

    Source: FlexiAST, Sections 2.3 (PI) and 3.4 (BL, antialiased as in the published code).
    """
    if tuple(kernel.shape[-2:]) == tuple(size):
        return kernel
    wide = torch.promote_types(kernel.dtype, torch.float32)
    frequency, time = (
        _axis_matrix(old, new, how, wide, kernel.device)
        for old, new in zip(kernel.shape[-2:], size, strict=True)
    )
    with _without_autocast(kernel.device.type):
        return (frequency @ kernel.to(wide) @ time.T).to(kernel.dtype)


def pi_resize(kernel: Tensor, size: Size) -> Tensor:
    """PI-resize (..., pf, pt) kernels: pinv(B^T) vec(w), B the bilinear map of the patches.

    Going up, the resized kernel's product with a resized patch is the original product. Going
    down, where a patch loses information, it is nearest in the mean over white patches.

    Args:
        kernel: Patch kernels; axes before the last two (D, channels) are kept.
        size: (frequency, time) of the new patches.

    Returns:
        (..., *size), in the kernel's dtype; gradients flow to ``kernel``.

    Source: FlexiAST, Section 2.3, Equations 1 to 3; bilinear, antialias off.
    """
    return resample_patch_embed(kernel, size, "pi")


def resize_position_grid(table: Tensor, shape: Size, antialias: bool = True) -> Tensor:
    """Resizes a (bands, columns, D) table bilinearly to (*shape, D).

    Args:
        table: Positions of a grid of patches.
        shape: (frequency, time) patches of the new grid.
        antialias: On where the patch size changes (published FlexiAST), off where the length
            does (AST).
    """
    if tuple(table.shape[:2]) == tuple(shape):
        return table
    bands, columns, width = table.shape
    wide = torch.promote_types(table.dtype, torch.float32)
    fitted = table.to(wide)
    how: Resize = "bl" if antialias else "bl-plain"
    with _without_autocast(table.device.type):
        if bands != shape[0]:
            fitted = _axis_matrix(bands, shape[0], how, wide, table.device) @ fitted.flatten(1)
            fitted = fitted.view(shape[0], columns, width)
        if columns != shape[1]:
            fitted = _axis_matrix(columns, shape[1], how, wide, table.device) @ fitted
    return fitted.to(table.dtype)


def resize_position_rows(table: Tensor, size: int, antialias: bool = True) -> Tensor:
    """Resizes a (rows, D) table linearly to (size, D)."""
    return resize_position_grid(table[None], (1, size), antialias)[0]


def interpolation_matrix(old: int, new: int, antialias: bool) -> Tensor:
    """Returns linear interpolation along one axis as a (new, old) float64 matrix."""
    if old == 1:
        return torch.ones(new, 1, dtype=torch.float64)  # one value is spread over all
    impulses = torch.eye(old, dtype=torch.float64)[None, :, None, :]
    responses = F.interpolate(impulses, (1, new), mode="bilinear", antialias=antialias)
    return responses[0, :, 0].T


def _without_autocast(device_type: str) -> AbstractContextManager[object]:
    """Disables autocast: entries of the pseudo-inverse cancel, for which bf16 is too coarse."""
    if not torch.amp.is_autocast_available(device_type):  # the meta device
        return nullcontext()
    return torch.autocast(device_type, enabled=False)


@lru_cache(maxsize=512)
def _axis_matrix(
    old: int, new: int, how: Resize, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Returns the (new, old) matrix that maps an axis of ``old`` values to ``new`` ones."""
    # A tensor made in inference mode could never serve a training step, and this one is kept.
    with torch.inference_mode(False), torch.device("cpu"):
        matrix = interpolation_matrix(old, new, antialias=how == "bl")
        if how == "pi":
            matrix = torch.linalg.pinv(matrix.T)
        return matrix.to(device=device, dtype=dtype).contiguous()
