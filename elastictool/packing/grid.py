"""Count the patches of a spectrogram: integers in, integers out.

Everything that counts tokens (samplers, planners, token tables, FLOPs) uses these functions, so
that plan and model always agree.
"""

from __future__ import annotations

import math

from elastictool.config import Edge, PatchAxes


def patches_along(size: int, patch: int, stride: int, edge: Edge) -> int:
    """Counts patches along an axis of ``size`` bins or frames; at least one (the axis is padded).

    ``pad`` keeps an incomplete last patch, ``drop`` leaves it out (published code: up to 15
    frames).
    """
    beyond_first = size - patch
    if beyond_first <= 0:
        return 1
    whole, rest = divmod(beyond_first, stride)
    return 1 + whole + (1 if rest and edge == "pad" else 0)


def covered(patches: int, patch: int, stride: int) -> int:
    """Counts the bins or frames that ``patches`` patches cover along one axis."""
    return (patches - 1) * stride + patch


def kept_patches(patches: int, dropout: float) -> int:
    """Counts the patches that are left after dropping the share ``dropout``: at least one.

    Source: published ElasticAST, rounded down. The small number keeps products that are whole but
        for the last bit (0.8 of 10 dropped leaves 2).
    """
    return max(1, math.floor(patches * (1 - dropout) + 1e-9)) if dropout else patches


def grid_shape(
    num_frames: int,
    num_mel_bins: int,
    patch_size: tuple[int, int],
    stride: tuple[int, int],
    edge: Edge,
) -> tuple[int, int]:
    """Counts the (frequency, time) patches of a (T, F) spectrogram; sizes are (frequency, time)."""
    return (
        patches_along(num_mel_bins, patch_size[0], stride[0], edge),
        patches_along(num_frames, patch_size[1], stride[1], edge),
    )


def scaled_stride(
    patch_size: tuple[int, int], stride: tuple[int, int], wanted: tuple[int, int]
) -> tuple[int, int]:
    """Scales the stride to patches of the ``wanted`` size: they overlap by the same share."""
    frequency, time = (
        max(1, round(step * new / old))
        for old, step, new in zip(patch_size, stride, wanted, strict=True)
    )
    return frequency, time


def patch_size_along(axes: PatchAxes, size: int, own: tuple[int, int]) -> tuple[int, int]:
    """Returns (frequency, time): ``size`` along ``axes``, the ``own`` size along the other axis."""
    return (own[0] if axes == "time" else size, own[1] if axes == "frequency" else size)
