"""Collates raw batches: samples and integers from which the device computes features and patches.

Reading a clip and drawing random numbers for it stay with the loader, clip by clip, as they are on
the host. Which frame each row of the spectrograms shows, and in which row each patch begins, is
known as integers (``data/spectrogram.py``), so crops, padding, masks, rotation and edges become one
indexing of rows for the whole batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from elastictool.audio.fbank import Integers, fill_frames, join_clips, pool_groups
from elastictool.config import FbankConfig, PoolKind
from elastictool.data.collate import Example, PackSpec, collate, patch_windows
from elastictool.data.spectrogram import (
    NUM_FILLED,
    PADDING,
    Normalization,
    RawFrames,
    Spectrogram,
    spectrogram_rows,
)
from elastictool.packing.batch import PackedBatch
from elastictool.packing.grid import covered
from elastictool.packing.layout import map_tensors


@dataclass(frozen=True)
class PatchIndex:
    """Locates the patches of a batch in its rows: the row (N,) int64 in which each begins, and how
    patches are cut."""

    rows: Tensor
    spec: PackSpec

    def filled(self, batch: PackedBatch, rows: Tensor) -> PackedBatch:
        """Returns ``batch`` with the values of its patches, cut from (R, F) rows."""
        (group,) = batch.patch_groups
        windows = patch_windows(rows, self.spec)
        patches = windows[self.rows, group.coords[:, 0]].flatten(1)
        return replace(batch, patch_groups=(replace(group, patches=patches),))


@dataclass(frozen=True)
class RawBatch:
    """A packed batch and the samples from which its patches are to be made.

    Attributes:
        batch: Complete but for the values of its patches, and of its teacher's.
        samples: (n,) joined clips.
        frame_starts: (M,) int64 first sample of each filterbank frame.
        host_starts: (M,) the same, kept on the host.
        pools: (T',) int64, how many neighbouring frames become one; None where each stays.
        rows: (R,) int64, what each row of all spectrograms shows; see ``spectrogram_rows``.
        bins: (R, 2) int16, first and past-the-last masked bin of each row.
        noise: (R, F) to be added, or None.
        patch_indices: For the batch, then for its teacher's.
        normalization: How values become input.
        fbank: Window and mel bins, which are the same for all clips.
        pool_kind: How neighbouring frames become one.
    """

    batch: PackedBatch
    samples: Tensor
    frame_starts: Tensor
    host_starts: Integers
    pools: Tensor | None
    rows: Tensor
    bins: Tensor
    noise: Tensor | None
    patch_indices: tuple[PatchIndex, ...]
    normalization: Normalization
    fbank: FbankConfig
    pool_kind: PoolKind

    def pin_memory(self) -> RawBatch:
        """Returns the batch in pinned memory; torch's loader calls it."""
        return map_tensors(self, Tensor.pin_memory)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> RawBatch:
        """Returns the same batch with its tensors on ``device``."""
        return map_tensors(self, lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def compute_features(self) -> PackedBatch:
        """Returns the packed batch with its patches, computed in float32 where the tensors are."""
        # What is made in inference mode could not be trained on.
        with torch.inference_mode(False), torch.no_grad():
            frames = self.samples.new_empty((len(self.host_starts), self.fbank.num_mel_bins))
            fill_frames(self.samples, self.host_starts, self.fbank, frames, self.frame_starts)
            if self.pools is not None:
                frames = pool_groups(frames, self.pools, self.pool_kind)
            rows = spectrogram_rows(frames, self.rows, self.bins, self.noise, self.normalization)
            batch = self.patch_indices[0].filled(self.batch, rows)
            if batch.teacher_batch is None:
                return batch
            teacher_batch = self.patch_indices[1].filled(batch.teacher_batch, rows)
            return replace(batch, teacher_batch=teacher_batch)


def collate_raw(
    rows: Sequence[Sequence[Example]], spec: PackSpec, teacher: PackSpec | None = None
) -> RawBatch:
    """Packs examples whose spectrograms the device computes; arguments as for ``collate``."""
    batch = collate(rows, spec, teacher)
    specs = [spec] if teacher is None else [spec, teacher]
    batches = [batch] if batch.teacher_batch is None else [batch, batch.teacher_batch]
    clips, raws = zip(*[_raw(example) for row in rows for example in row], strict=True)
    lengths = np.array([max(_reach(clip, own) for own in specs) for clip in clips])
    first_rows = np.cumsum(lengths) - lengths
    samples, starts = join_clips([raw.samples for raw in raws])
    frame_starts = np.concatenate(
        [raw.frame_starts + at for raw, at in zip(raws, starts, strict=True)]
    )
    pools = np.concatenate([raw.pools for raw in raws])
    shown, bins, noise = _joined_rows(clips, first_rows, int(lengths.sum()))
    return RawBatch(
        batch=batch,
        samples=samples,
        frame_starts=torch.from_numpy(frame_starts),
        host_starts=frame_starts,
        pools=torch.from_numpy(pools) if (pools != 1).any() else None,
        rows=shown,
        bins=bins,
        noise=noise,
        patch_indices=tuple(
            _patch_index(packed, own, torch.from_numpy(first_rows))
            for packed, own in zip(batches, specs, strict=True)
        ),
        normalization=clips[0].normalization,
        fbank=raws[0].fbank,
        pool_kind=raws[0].pool_kind,
    )


def _raw(example: Example) -> tuple[Spectrogram, RawFrames]:
    spectrogram = example.fbank
    if isinstance(spectrogram, Tensor) or isinstance(spectrogram.frames, Tensor):
        raise TypeError(f"the frames of clip {example.clip_id} are computed already")
    return spectrogram, spectrogram.frames


def _reach(clip: Spectrogram, spec: PackSpec) -> int:
    """Counts the rows that a clip's patches reach over, its own rows at least."""
    columns = spec.grid(*clip.shape)[1]
    return max(len(clip.rows), covered(columns, spec.patch_size[1], spec.patch_stride[1]))


def _patch_index(batch: PackedBatch, spec: PackSpec, first_rows: Tensor) -> PatchIndex:
    (group,) = batch.patch_groups
    clips = batch.layout.segment_ids[group.token_indices]
    return PatchIndex(first_rows[clips] + spec.patch_stride[1] * group.coords[:, 1], spec)


def _joined_rows(
    clips: Sequence[Spectrogram], first_rows: Integers, total: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Joins rows, masked bins and noise of all clips; frames are numbered through.

    Rows that only complete a patch are padding, without mask or noise.
    """
    rows = np.full(total, PADDING, dtype=np.int64)
    bins = torch.zeros(total, 2, dtype=torch.int16)
    noisy = any(clip.noise is not None for clip in clips)
    noise = torch.zeros(total, clips[0].num_bins) if noisy else None
    frames = 0
    for clip, first in zip(clips, first_rows.tolist(), strict=True):
        own = slice(first, first + len(clip.rows))
        rows[own] = np.where(clip.rows >= 0, clip.rows + frames, clip.rows)
        bins[own] = torch.tensor(clip.bins, dtype=torch.int16)
        if noise is not None and clip.noise is not None:
            noise[own] = clip.noise
        frames += len(clip.frames)
    return torch.from_numpy(rows % (frames + NUM_FILLED)), bins, noise
