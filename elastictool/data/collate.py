"""From spectrograms to a ``PackedBatch``: patchify, place, pack. No model, no I/O."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from elastictool.config import Edge
from elastictool.packing.batch import PackedBatch, PatchGroup
from elastictool.packing.grid import covered, grid_shape
from elastictool.packing.layout import SegmentLayout, build_layout


@dataclass(frozen=True)
class PatchSpec:
    """How spectrograms become patches.

    Attributes:
        size: (frequency, time) of a patch.
        stride: (frequency, time) between patches; smaller than ``size`` where patches overlap.
        edge: What happens to an incomplete last patch.
        pad_value: Normalised value of the filterbank's floor, with which edges are padded.
    """

    size: tuple[int, int]
    stride: tuple[int, int]
    edge: Edge = "pad"
    pad_value: float = 0.0


class Packable(Protocol):
    """What can be packed: an ``Example``, or a ``RawExample`` whose patches are filled in later."""

    @property
    def targets(self) -> Tensor:
        """(C,) float."""
        ...

    @property
    def clip_id(self) -> str:
        """The clip's id."""
        ...

    @property
    def shift_ms(self) -> float:
        """Time between frames."""
        ...

    @property
    def cut_frames(self) -> int:
        """Frames of the clip that the view leaves out against its native length."""
        ...

    @property
    def patch(self) -> PatchSpec:
        """How to cut it into patches."""
        ...

    @property
    def grid(self) -> tuple[int, int]:
        """(frequency, time) patches, dropped ones included."""
        ...

    def patches(self) -> tuple[Tensor, Tensor]:
        """(N, P) patches and (N, 2) coordinates."""
        ...


class Example(NamedTuple):
    """One view of one clip, ready to be packed.

    Attributes:
        fbank: (T, F) normalised log-mel frames.
        targets: (C,) float.
        clip_id: The clip's id.
        shift_ms: Time between frames.
        cut_frames: Frames of the clip that the view leaves out against its native length.
        patch: How to cut it into patches.
        kept: (K,) int64, ascending: the patches that the model is to see; None is all of them.
    """

    fbank: Tensor
    targets: Tensor
    clip_id: str
    shift_ms: float
    cut_frames: int
    patch: PatchSpec
    kept: Tensor | None = None

    @property
    def grid(self) -> tuple[int, int]:
        """(frequency, time) patches, dropped ones included: positions are fitted to it."""
        frames, bins = self.fbank.shape
        return grid_shape(frames, bins, self.patch.size, self.patch.stride, self.patch.edge)

    def patches(self) -> tuple[Tensor, Tensor]:
        """(N, P) patches and (N, 2) coordinates, as ``patchify``; without the dropped ones."""
        patches, coords = patchify(self.fbank, self.patch)
        return (patches, coords) if self.kept is None else (patches[self.kept], coords[self.kept])


def patchify(fbank: Tensor, patch: PatchSpec) -> tuple[Tensor, Tensor]:
    """Cut a (T, F) spectrogram into (N, P) patches with (N, 2) coordinates.

    Patches run frequency-major (all times of the lowest band first) and are flattened
    frequency-major, as in AST and the published ElasticAST; coordinates are (frequency, time).
    Incomplete patches are padded with ``patch.pad_value`` or dropped, as ``patch.edge`` says; a
    clip shorter than one patch is padded to one.
    """
    frames, bins = fbank.shape
    bands, columns = grid_shape(frames, bins, patch.size, patch.stride, patch.edge)
    image = fbank.T
    short = (
        max(0, covered(bands, patch.size[0], patch.stride[0]) - image.shape[0]),
        max(0, covered(columns, patch.size[1], patch.stride[1]) - image.shape[1]),
    )
    if any(short):
        image = F.pad(image, (0, short[1], 0, short[0]), value=patch.pad_value)
    grid = image.unfold(0, patch.size[0], patch.stride[0]).unfold(1, patch.size[1], patch.stride[1])
    patches = grid[:bands, :columns].reshape(bands * columns, math.prod(patch.size))
    return patches, patch_coords(bands, columns)


def patch_coords(bands: int, columns: int) -> Tensor:
    """(N, 2) int64 (frequency, time) of the patches of a grid, frequency-major."""
    return torch.stack(
        (
            torch.arange(bands).repeat_interleave(columns),
            torch.arange(columns).repeat(bands),
        ),
        dim=1,
    )


def collate(
    rows: Sequence[Sequence[Packable]],
    prefix_tokens: int = 0,
    padded_rows: bool = False,
    multiple: int = 1,
) -> PackedBatch:
    """Pack planned rows of examples into one batch.

    Args:
        rows: The examples of each row, as planned by the sampler.
        prefix_tokens: Prefix tokens that the model puts before each clip.
        padded_rows: Lay the stream out as padded rows (the dense-mask reference) instead of flat.
        multiple: Pad a flat stream to a multiple of so many tokens.
    """
    examples = [example for row in rows for example in row]
    cut = [example.patches() for example in examples]
    counts = iter([len(patches) + prefix_tokens for patches, _ in cut])
    lengths = [[next(counts) for _ in row] for row in rows]
    layout = build_layout(lengths, prefix_tokens, padded_rows, multiple)
    return PackedBatch(
        patch_groups=_patch_groups(examples, cut, layout),
        layout=layout,
        grid_shapes=tuple(example.grid for example in examples),
        targets=torch.stack([example.targets for example in examples]),
        clip_ids=tuple(example.clip_id for example in examples),
        cut_frames=sum(example.cut_frames for example in examples),
    )


def _patch_groups(
    examples: Sequence[Packable],
    cut: Sequence[tuple[Tensor, Tensor]],
    layout: SegmentLayout,
) -> tuple[PatchGroup, ...]:
    members: dict[tuple[int, int], list[int]] = {}
    for index, example in enumerate(examples):
        members.setdefault(example.patch.size, []).append(index)
    return tuple(
        _patch_group(size, indices, examples, cut, layout) for size, indices in members.items()
    )


def _patch_group(
    size: tuple[int, int],
    indices: Sequence[int],
    examples: Sequence[Packable],
    cut: Sequence[tuple[Tensor, Tensor]],
    layout: SegmentLayout,
) -> PatchGroup:
    token_indices, positions = [], []
    for index in indices:
        _, coords = cut[index]
        start = layout.starts[index] + layout.prefix_tokens
        token_indices.append(torch.arange(start, start + len(coords)))
        stride, shift_ms = examples[index].patch.stride, examples[index].shift_ms
        positions.append(coords * torch.tensor([stride[0], stride[1] * shift_ms * 0.001]))
    return PatchGroup(
        patches=torch.cat([cut[index][0] for index in indices]),
        token_indices=torch.cat(token_indices),
        coords=torch.cat([cut[index][1] for index in indices]),
        positions=torch.cat(positions).float(),
        patch_size=size,
        clips=tuple(indices),
    )
