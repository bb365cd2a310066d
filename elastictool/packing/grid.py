"""How many patches a spectrogram has: integers in, integers out.

Everything that counts tokens (samplers, planners, token tables, compute cost) asks here, so the
plan and the model never disagree.
"""

from __future__ import annotations

import math

from elastictool.config import Edge, PatchAxes


def patches_along(size: int, patch: int, stride: int, edge: Edge) -> int:
    """Patches along one axis of ``size`` bins or frames; at least one (the axis is padded to it).

    ``pad`` keeps an incomplete last patch, ``drop`` loses it (published code: up to 15 frames).
    """
    beyond_first = size - patch
    if beyond_first <= 0:
        return 1
    whole, rest = divmod(beyond_first, stride)
    return 1 + whole + (1 if rest and edge == "pad" else 0)


def covered(patches: int, patch: int, stride: int) -> int:
    """Bins or frames that ``patches`` patches cover along one axis."""
    return (patches - 1) * stride + patch


def kept_patches(patches: int, dropout: float) -> int:
    """Patches of ``patches`` left after dropping the share ``dropout``: rounded down, at least one.

    Source: published ElasticAST. The small number keeps products that are whole but for the last
        bit (0.8 of 10 dropped leaves 2).
    """
    return max(1, math.floor(patches * (1 - dropout) + 1e-9)) if dropout else patches


def grid_shape(
    num_frames: int,
    num_mel_bins: int,
    patch_size: tuple[int, int],
    stride: tuple[int, int],
    edge: Edge,
) -> tuple[int, int]:
    """(frequency, time) patches of a (T, F) spectrogram; sizes are (frequency, time)."""
    return (
        patches_along(num_mel_bins, patch_size[0], stride[0], edge),
        patches_along(num_frames, patch_size[1], stride[1], edge),
    )


def scaled_stride(
    patch_size: tuple[int, int], stride: tuple[int, int], wanted: tuple[int, int]
) -> tuple[int, int]:
    """The stride of patches of the ``wanted`` size: patches overlap by the same share as before."""
    frequency, time = (
        max(1, round(step * new / old))
        for old, step, new in zip(patch_size, stride, wanted, strict=True)
    )
    return frequency, time


def patch_size_along(axes: PatchAxes, size: int, own: tuple[int, int]) -> tuple[int, int]:
    """(frequency, time) of patches of ``size`` along ``axes`` and of their ``own`` size beside."""
    return (own[0] if axes == "time" else size, own[1] if axes == "frequency" else size)
