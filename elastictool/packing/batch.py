"""Defines the batch that every model takes: patches of many clips, and their token positions."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from elastictool.packing.layout import SegmentLayout, build_layout, map_tensors


@dataclass(frozen=True)
class PatchGroup:
    """All patches of one size in a batch; usually there is one group.

    Attributes:
        patches: (N, P) float, each patch flattened frequency-major, then time, P = pf x pt.
        token_indices: (N,) int64, the position of each patch's token in the stream.
        coords: (N, 2) int64, (frequency, time) index of each patch in its clip's grid.
        positions: (N, 2) float32, (mel bin, seconds) of each patch's first corner.
        patch_size: (frequency, time).
        clips: The clips whose patches these are, ascending.
    """

    patches: Tensor
    token_indices: Tensor
    coords: Tensor
    positions: Tensor
    patch_size: tuple[int, int]
    clips: tuple[int, ...]


@dataclass(frozen=True)
class PackedBatch:
    """S clips packed into one stream of tokens.

    Attributes:
        patch_groups: The patches, one group per distinct patch size.
        layout: Which token belongs to which clip; counts prefix tokens.
        grid_shapes: (frequency, time) patches of each clip (S pairs), dropped ones included.
        targets: (S, C) float, 1 where a clip has a class, a share of it where clips are mixed;
            empty classes axis if unlabelled. ``pack`` also takes (S,) int64 class indices.
        clip_ids: The clips' ids (S).
        cut_frames: Frames of all clips that were cut off by length limits.
        teacher_batch: The same clips cut and packed for a second model (a distillation teacher).
    """

    patch_groups: tuple[PatchGroup, ...]
    layout: SegmentLayout
    grid_shapes: tuple[tuple[int, int], ...]
    targets: Tensor
    clip_ids: tuple[str, ...]
    cut_frames: int = 0
    teacher_batch: PackedBatch | None = None

    @property
    def num_clips(self) -> int:
        """S."""
        return self.layout.num_segments

    def broken_clips(self) -> Tensor:
        """(S,) bool: clips with a NaN, an infinity, or values whose squares overflow."""
        ids = self.layout.segment_ids
        broken = torch.zeros(self.num_clips, device=ids.device)
        for group in self.patch_groups:
            norms = torch.linalg.vector_norm(group.patches.detach(), dim=1)
            overflow = (~norms.isfinite()).to(broken.dtype)
            broken = broken.scatter_reduce(0, ids[group.token_indices], overflow, "amax")
        return broken > 0

    def with_prefix_tokens(self, count: int) -> PackedBatch:
        """Lays the batch out for ``count`` prefix tokens a clip, in a flat stream.

        Returns:
            The same batch where it is laid out so already.
        """
        old = self.layout
        added = count - old.prefix_tokens
        if not added:
            return self
        ids = old.segment_ids
        layout = build_layout([[length + added for length in old.lengths]], count).to(ids.device)
        # Each clip's tokens move by what is added before it and by the padding that goes.
        moved = torch.tensor(layout.starts) - torch.tensor(old.starts) + added
        moved = moved.to(ids.device)
        groups = tuple(
            replace(group, token_indices=group.token_indices + moved[ids[group.token_indices]])
            for group in self.patch_groups
        )
        return replace(self, patch_groups=groups, layout=layout)

    def group_shapes(self, group: PatchGroup) -> tuple[tuple[int, int], ...]:
        """Returns ``grid_shapes`` where clips of other groups get a shape of ``group``.

        Grids belong to patch sizes: position tables for one patch size must not be made for the
        shapes of another.
        """
        if len(self.patch_groups) == 1:
            return self.grid_shapes
        members = frozenset(group.clips)
        own = self.grid_shapes[group.clips[0]]
        return tuple(
            shape if clip in members else own for clip, shape in enumerate(self.grid_shapes)
        )

    def to(self, device: torch.device | str, non_blocking: bool = False) -> PackedBatch:
        """Moves all tensors to ``device``."""
        return map_tensors(self, lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> PackedBatch:
        """Copies to page-locked memory, for asynchronous copies to CUDA; the loader calls it."""
        return map_tensors(self, Tensor.pin_memory)

    def astype(self, dtype: torch.dtype) -> PackedBatch:
        """Converts patches and targets to ``dtype`` (float64 for exact tests)."""
        return replace(
            self,
            patch_groups=tuple(
                replace(group, patches=group.patches.to(dtype)) for group in self.patch_groups
            ),
            targets=self.targets.to(dtype) if self.targets.is_floating_point() else self.targets,
        )
