"""Collates spectrograms into a ``PackedBatch``: cuts patches, lays out tokens. No model, no I/O."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from elastictool.config import Edge
from elastictool.data.spectrogram import Spectrogram
from elastictool.packing.batch import PackedBatch, PatchGroup
from elastictool.packing.grid import covered, grid_shape, scaled_stride
from elastictool.packing.layout import SegmentLayout, build_layout


@dataclass(frozen=True)
class PackSpec:
    """Describes how spectrograms become the tokens of a batch. Pairs are (frequency, time).

    Attributes:
        patch_size: Mel bins and frames of a patch.
        patch_stride: From patch to patch; smaller than ``patch_size`` where patches overlap.
        edge: What happens to an incomplete last patch.
        pad_value: Normalised value of the filterbank's floor, with which edges are padded.
        prefix_tokens: Prefix tokens that the model puts before each clip.
        padded_rows: Lay the stream out as padded rows (the dense-mask reference) instead of flat.
        pad_to_multiple_of: Pad a flat stream to a multiple of this many tokens.
    """

    patch_size: tuple[int, int]
    patch_stride: tuple[int, int]
    edge: Edge = "pad"
    pad_value: float = 0.0
    prefix_tokens: int = 0
    padded_rows: bool = False
    pad_to_multiple_of: int = 1

    def grid(self, num_frames: int, num_bins: int) -> tuple[int, int]:
        """Returns (frequency, time) patches of a (T, F) spectrogram, dropped ones included."""
        return grid_shape(num_frames, num_bins, self.patch_size, self.patch_stride, self.edge)

    def at_patch_size(self, patch_size: tuple[int, int]) -> PackSpec:
        """Returns the spec with patches of another size, overlapping by the same share."""
        stride = scaled_stride(self.patch_size, self.patch_stride, patch_size)
        return replace(self, patch_size=patch_size, patch_stride=stride)


class Example(NamedTuple):
    """One crop of one clip, ready to be packed.

    Attributes:
        fbank: (T, F) normalised log-mel frames; a ``Spectrogram`` where the device computes them.
        targets: (C,) float.
        clip_id: The clip's id.
        shift_ms: Time between frames.
        cut_frames: Frames of the clip that the length limits cut off.
        kept: (K,) int64, ascending: the patches that the model is to see; None is all of them.
    """

    fbank: Tensor | Spectrogram
    targets: Tensor
    clip_id: str
    shift_ms: float
    cut_frames: int = 0
    kept: Tensor | None = None


def patchify(
    fbank: Tensor, spec: PackSpec, grid: tuple[int, int] | None = None
) -> tuple[Tensor, Tensor]:
    """Cuts a (T, F) spectrogram into (N, P) patches with (N, 2) coordinates.

    Patches run frequency-major (all times of the lowest band first) and are flattened
    frequency-major, as in AST and the published ElasticAST; coordinates are (frequency, time).
    Incomplete patches are padded with ``spec.pad_value`` or dropped, by ``spec.edge``; a
    clip shorter than one patch is padded to one.

    Args:
        fbank: The spectrogram.
        spec: Size and stride of patches.
        grid: Its patches, where the caller knows them (of a length that is a symbol, in an export).
    """
    bands, columns = grid or spec.grid(*fbank.shape)
    short = covered(columns, spec.patch_size[1], spec.patch_stride[1]) - fbank.shape[0]
    if short > 0:
        fbank = F.pad(fbank, (0, 0, 0, short), value=spec.pad_value)
    windows = patch_windows(fbank, spec)[:: spec.patch_stride[1]]
    patches = windows[:columns, :bands].transpose(0, 1)
    return patches.reshape(bands * columns, math.prod(spec.patch_size)), patch_coords(
        bands, columns
    )


def patch_windows(rows: Tensor, spec: PackSpec) -> Tensor:
    """Returns a (R - frames + 1, bands, bins, frames) view: the patch at each row and band.

    Args:
        rows: (R, F) of one or more spectrograms, end to end.
        spec: Size and stride of patches; bins beyond the last one are padded.
    """
    bins, frames = spec.patch_size
    bands, _ = spec.grid(frames, rows.shape[1])
    short = covered(bands, bins, spec.patch_stride[0]) - rows.shape[1]
    if short > 0:
        rows = F.pad(rows, (0, short), value=spec.pad_value)
    return rows.unfold(1, bins, spec.patch_stride[0]).unfold(0, frames, 1)


def patch_coords(bands: int, columns: int) -> Tensor:
    """Returns (N, 2) int64 (frequency, time) of the patches of a grid, frequency-major."""
    return torch.cartesian_prod(torch.arange(bands), torch.arange(columns))


def collate(
    rows: Sequence[Sequence[Example]],
    spec: PackSpec | Sequence[PackSpec],
    teacher: PackSpec | None = None,
) -> PackedBatch:
    """Packs planned rows of examples into one batch.

    Patches of examples whose spectrograms the device computes are left empty.

    Args:
        rows: The examples of each row, as planned by the sampler.
        spec: How they are packed: all alike, or one for each example, in order. Only their patches
            may differ.
        teacher: How a second model wants the same clips, with all of their patches: it is not the
            one that learns from dropping.
    """
    examples = [example for row in rows for example in row]
    specs = [spec] * len(examples) if isinstance(spec, PackSpec) else list(spec)
    grids = [own.grid(*example.fbank.shape) for example, own in zip(examples, specs, strict=True)]
    cut = [_patches(*each) for each in zip(examples, specs, grids, strict=True)]
    counts = iter([len(coords) + specs[0].prefix_tokens for _, coords in cut])
    layout = build_layout(
        [[next(counts) for _ in row] for row in rows],
        specs[0].prefix_tokens,
        specs[0].padded_rows,
        specs[0].pad_to_multiple_of,
    )
    whole = [[example._replace(kept=None) for example in row] for row in rows]
    return PackedBatch(
        patch_groups=_patch_groups(examples, specs, cut, layout),
        layout=layout,
        grid_shapes=tuple(grids),
        targets=torch.stack([example.targets for example in examples]),
        clip_ids=tuple(example.clip_id for example in examples),
        cut_frames=sum(example.cut_frames for example in examples),
        teacher_batch=None if teacher is None else collate(whole, teacher),
    )


def _patches(example: Example, spec: PackSpec, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Returns (N, P) kept patches and (N, 2) coordinates; P is 0 until computed."""
    if isinstance(example.fbank, Tensor):
        patches, coords = patchify(example.fbank, spec)
    else:
        patches, coords = torch.empty(math.prod(grid), 0), patch_coords(*grid)
    kept = slice(None) if example.kept is None else example.kept
    return patches[kept], coords[kept]


def _patch_groups(
    examples: Sequence[Example],
    specs: Sequence[PackSpec],
    cut: Sequence[tuple[Tensor, Tensor]],
    layout: SegmentLayout,
) -> tuple[PatchGroup, ...]:
    """Joins the patches of all clips of one patch size."""
    members: dict[tuple[int, int], list[int]] = {}
    for index, spec in enumerate(specs):
        members.setdefault(spec.patch_size, []).append(index)
    groups = []
    for size, indices in members.items():
        token_indices, positions = [], []
        for index in indices:
            _, coords = cut[index]
            start = layout.starts[index] + layout.prefix_tokens
            token_indices.append(torch.arange(start, start + len(coords)))
            stride, shift_ms = specs[index].patch_stride, examples[index].shift_ms
            positions.append(coords * torch.tensor([stride[0], stride[1] * shift_ms * 0.001]))
        group = PatchGroup(
            patches=torch.cat([cut[index][0] for index in indices]),
            token_indices=torch.cat(token_indices),
            coords=torch.cat([cut[index][1] for index in indices]),
            positions=torch.cat(positions).float(),
            patch_size=size,
            clips=tuple(indices),
        )
        groups.append(group)
    return tuple(groups)
