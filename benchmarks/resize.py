"""Compute how well a 16x16 kernel serves other patch sizes: the table of ``docs/flexible.md``.

    python -m benchmarks.resize            write it
    python -m benchmarks.resize --check    fail if the committed table is not what this writes

Nothing is measured on data: all figures follow from the bilinear map B of a 16x16 patch to the
other size, in float64. With P the matrix that resizes the kernel (PI-resize or bilinear), B^T P
is the identity where no product with a patch changes; its distance from the identity, over the
norm of the identity, is the root mean square share of a white-noise kernel that is lost.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.pages import fill
from elastictool.models.resize import interpolation_matrix
from elastictool.reporting.tables import markdown_table
from elastictool.utils.io import write_text

PAGE = Path(__file__).resolve().parents[1] / "docs" / "flexible.md"
BASE = 16
SIZES = (4, 6, 8, 10, 12, 14, 16, 20, 24, 30, 32, 40, 48, 56, 64)
SMOOTH_WAVES = 4
"""A smooth kernel is made of this many cosines along each axis, of 0, 1, 2 and 3 half waves."""


def smooth_basis() -> Tensor:
    """Return (16, waves) orthonormal cosines along one axis."""
    positions = (torch.arange(BASE, dtype=torch.float64) + 0.5) / BASE
    waves = torch.arange(SMOOTH_WAVES, dtype=torch.float64)
    basis = torch.cos(torch.pi * positions[:, None] * waves)
    unit: Tensor = basis / basis.norm(dim=0)
    return unit


def lost(bilinear: Tensor, resize: Tensor, basis: Tensor) -> float:
    """Return the root mean square share of a kernel from ``basis`` that resizing loses.

    Args:
        bilinear: (new, 16) map of patches along one axis.
        resize: (new, 16) map of kernels along one axis.
        basis: (16, K) orthonormal kernels along one axis.
    """
    along = bilinear.T @ resize @ basis
    square = torch.kron(along, along) - torch.kron(basis, basis)
    return float(square.norm() / basis.shape[1])


def row(size: int) -> list[str]:
    """Return the line of one patch size."""
    bilinear = interpolation_matrix(BASE, size, antialias=False)
    pseudo_inverse = torch.linalg.pinv(bilinear.T)
    antialiased = interpolation_matrix(BASE, size, antialias=True)
    values = torch.linalg.svdvals(bilinear)
    condition = float(values[0] / values[values > 1e-10 * values[0]][-1]) ** 2
    white = torch.eye(BASE, dtype=torch.float64)
    shares = [
        lost(bilinear, resize, basis)
        for resize in (pseudo_inverse, antialiased)
        for basis in (white, smooth_basis())
    ]
    return [f"{size}", *(f"{max(0.0, share):.3f}" for share in shares), f"{condition:.1f}"]


def table() -> str:
    """Return the table of all sizes."""
    columns = ["patch size", "PI, white", "PI, smooth", "BL, white", "BL, smooth", "condition of B"]
    return markdown_table(columns, [row(size) for size in SIZES])


def main() -> None:
    """Write, or check."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    text = PAGE.read_text("utf-8")
    written = fill(text, "resize", table())
    if not check:
        write_text(PAGE, written)
    elif written != text:
        sys.exit(f"the table in {PAGE.name} is not what {Path(__file__).name} writes")


if __name__ == "__main__":
    main()
