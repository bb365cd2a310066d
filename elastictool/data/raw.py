"""Batches whose features are computed where the model is: samples and integers travel, no frames.

Reading a clip and drawing random numbers for it stay with the loader, clip by clip, as they are on
the host (``ClipDataset.sound`` beside ``ClipDataset.load``). What the numbers mean for a clip is
put down as integers: which filterbank frames it needs, which of them, or blanks, make up the rows
of its spectrogram, where each patch begins. Cropping, padding, masks, rotation and edges so become
one gathering of rows for the whole batch, exact whatever the device; only the filterbank's
rounding can differ from the host's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from elastictool.audio.augment import Span, draw_masks, draw_noise, draw_roll, mask_fill
from elastictool.audio.framing import Framing, pooled_count
from elastictool.audio.streams import join_clips, stream_fbank
from elastictool.config import AugmentConfig, PoolKind
from elastictool.data.collate import PatchSpec, patch_coords
from elastictool.packing.batch import PackedBatch, PatchGroup
from elastictool.packing.grid import covered, grid_shape, patches_along
from elastictool.packing.layout import map_tensors

Integers = npt.NDArray[np.int64]

PADDING, BLANK, EDGE = -1, -2, -3
"""Rows of a spectrogram that show none of the clip's frames: padded, masked, and beyond its end,
where they complete a patch."""


@dataclass(frozen=True)
class Normalization:
    """How log-mel values become a model's input: (x - mean) / spread.

    ``padding`` and ``masked`` are such inputs: of padded frames, and of masked ones.
    """

    mean: float
    spread: float
    padding: float
    masked: float = 0.0


class RawExample(NamedTuple):
    """One view of one clip; for ``collate`` an ``Example`` whose patches hold nothing yet.

    Attributes:
        samples: (n,) the clip's samples, prepared by the front end.
        frame_starts: (M,) first sample of each filterbank frame that the view needs.
        pools: (T',) how many neighbouring frames become one.
        rows: (T,) which of the T' each row of the spectrogram shows, or ``PADDING``, ``BLANK``.
        bins: Masked mel bins.
        noise: (T, F) to be added to the rows, or None.
        scale: How values become input.
        framing: How waveforms become frames.
        targets: (C,) float.
        clip_id: The clip's id.
        cut_frames: Frames of the clip that the view leaves out against its native length.
        patch: How to cut it into patches.
        kept: (K,) int64, ascending: the patches that the model is to see; None is all of them.
    """

    samples: Tensor
    frame_starts: Integers
    pools: Integers
    rows: Integers
    bins: Span
    noise: Tensor | None
    scale: Normalization
    framing: Framing
    targets: Tensor
    clip_id: str
    cut_frames: int
    patch: PatchSpec
    kept: Tensor | None = None

    @property
    def shift_ms(self) -> float:
        """Time between frames."""
        return self.framing.shift_ms

    @property
    def grid(self) -> tuple[int, int]:
        """(frequency, time) patches, dropped ones included."""
        patch, bins = self.patch, self.framing.fbank.num_mel_bins
        return grid_shape(len(self.rows), bins, patch.size, patch.stride, patch.edge)

    def patches(self) -> tuple[Tensor, Tensor]:
        """(N, 0) patches to be filled, and (N, 2) coordinates; without the dropped ones."""
        coords = patch_coords(*self.grid)
        coords = coords if self.kept is None else coords[self.kept]
        return torch.empty(len(coords), 0), coords

    def changed(
        self, config: AugmentConfig, rng: Callable[[str], np.random.Generator]
    ) -> RawExample:
        """With the masks, noise and roll of training: the numbers that the host would draw."""
        fill = mask_fill(config, self.scale.mean, self.scale.spread)
        rows, num_bins = self.rows.copy(), self.framing.fbank.num_mel_bins
        bins, blank = draw_masks(len(rows), num_bins, config, rng("spec-augment"))
        rows[slice(*blank)] = BLANK
        noise = None
        if config.noise:
            noise = draw_noise((len(rows), num_bins), config.noise, rng("noise"))
        if config.roll:
            shift = draw_roll(config.roll, rng("roll"))
            rows = np.roll(rows, shift)
            noise = noise if noise is None else noise.roll(shift, 0)
        scale = replace(self.scale, masked=fill)
        return self._replace(rows=rows, bins=bins, noise=noise, scale=scale)


def needed_frames(
    framing: Framing, num_samples: int, first: int, count: int
) -> tuple[Integers, Integers]:
    """The filterbank frames behind ``count`` frames from ``first`` of a clip.

    Returns:
        (M,) first sample of each, and (count,) how many neighbours are pooled into one.
    """
    config = framing.fbank
    known = config.num_frames(num_samples)
    available = pooled_count(known, framing.pool)
    first, stop = min(first, available), min(first + count, available)
    size = min(framing.pool, known)
    # A front end may repeat a clip's last frame: it is computed as often.
    frames = np.minimum(np.arange(first * size, stop * size), config.own_frames(num_samples) - 1)
    # The operations of FbankConfig.frame_place, in its order, so that both round alike.
    places = np.floor(frames * config.shift_ms * 0.001 * config.sample_rate_hz + 0.5)
    return places.astype(np.int64), np.full(stop - first, size, dtype=np.int64)


@dataclass(frozen=True)
class PatchIndex:
    """How the patches of one group come from the frames of a batch.

    Attributes:
        rows: (R,) int64, the frame that each row of all spectrograms, end to end, shows.
        bins: (R, 2) int16, first and past-the-last masked bin of each row.
        noise: (R, F) to be added, or None.
        places: (N,) int64, the row in which each patch begins.
        stride: Bins between patches.
        padding: Value beyond the spectrograms' edges.
    """

    rows: Tensor
    bins: Tensor
    noise: Tensor | None
    places: Tensor
    stride: int
    padding: float

    def patches(self, frames: Tensor, group: PatchGroup, fill: float) -> Tensor:
        """(N, P) patches of ``group``, flattened frequency-major, from (T', F) frames.

        Masked bins become ``fill``.
        """
        shown = frames.index_select(0, self.rows)
        numbers = torch.arange(shown.shape[1], dtype=self.bins.dtype, device=shown.device)
        masked = (numbers >= self.bins[:, :1]) & (numbers < self.bins[:, 1:])
        shown.masked_fill_(masked, fill)
        if self.noise is not None:
            shown.add_(self.noise)
        return self._cut(shown, group)

    def _cut(self, rows: Tensor, group: PatchGroup) -> Tensor:
        bins, frames = group.patch_size
        bands = patches_along(rows.shape[1], bins, self.stride, "pad")
        beyond = covered(bands, bins, self.stride) - rows.shape[1]
        if beyond > 0:
            rows = F.pad(rows, (0, beyond), value=self.padding)
        windows = rows.unfold(1, bins, self.stride).unfold(0, frames, 1)
        return windows[self.places, group.coords[:, 0]].flatten(1)


@dataclass(frozen=True)
class RawBatch:
    """A packed batch and the samples from which its patches are to be made.

    Attributes:
        batch: Complete but for the values of its patches.
        samples: (n,) joined clips.
        frame_starts: (M,) int64 first sample of each filterbank frame.
        places: (M,) the same, for the host: they stay there.
        pools: (T',) int64, how many neighbouring frames become one; None where each stays.
        patch_indices: For each patch group of the batch, then of its companion.
        scale: How values become input.
        framing: How waveforms become frames, where that is the same for all clips.
    """

    batch: PackedBatch
    samples: Tensor
    frame_starts: Tensor
    places: Integers
    pools: Tensor | None
    patch_indices: tuple[PatchIndex, ...]
    scale: Normalization
    framing: Framing

    def pin_memory(self) -> RawBatch:
        """In memory that CUDA copies from while the host goes on; torch's loader calls it."""
        return map_tensors(self, Tensor.pin_memory)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> PackedBatch:
        """The whole batch on ``device``, its patches computed there in float32."""
        # What is made in inference mode could not be trained on.
        with torch.inference_mode(False), torch.no_grad():
            here = map_tensors(self, lambda x: x.to(device, non_blocking=non_blocking))
            return here._filled(here._frames())

    def _frames(self) -> Tensor:
        """(T', F) normalised frames of all clips, and behind them those that show none."""
        config, computed = self.framing.fbank, len(self.frame_starts)
        scale = self.scale
        special = [scale.padding, scale.masked, *(sheet.padding for sheet in self.patch_indices)]
        frames = self.samples.new_empty((computed + len(special), config.num_mel_bins))
        stream_fbank(self.samples, self.frame_starts, self.places, config, frames[:computed])
        if self.pools is not None:
            pooled = _pooled(frames[:computed], self.pools, self.framing.kind)
            frames = torch.cat((pooled, frames[computed:]))
        frames.sub_(scale.mean).div_(scale.spread)
        for row, value in zip(frames[-len(special) :], special, strict=True):
            row.fill_(value)
        return frames

    def _filled(self, frames: Tensor) -> PackedBatch:
        groups = zip(self.patch_indices, _owned_groups(self.batch), strict=True)
        fill = self.scale.masked
        filled = [
            replace(group, patches=sheet.patches(frames, group, fill))
            for sheet, (_, group) in groups
        ]
        own = len(self.batch.patch_groups)
        second = self.batch.teacher_batch
        return replace(
            self.batch,
            patch_groups=tuple(filled[:own]),
            teacher_batch=second and replace(second, patch_groups=tuple(filled[own:])),
        )


def _pooled(frames: Tensor, sizes: Tensor, kind: PoolKind) -> Tensor:
    """(T', F): neighbouring frames, so many each time, become one."""
    how = "mean" if kind == "average" else "max"
    # "unsafe" leaves out a check of the sizes that would wait for the device.
    pooled: Tensor = torch.segment_reduce(frames, how, lengths=sizes, axis=0, unsafe=True)
    return pooled


def collate_raw(
    sounds: Sequence[RawExample], batch: PackedBatch, second: PatchSpec | None = None
) -> RawBatch:
    """What the device needs to fill the patches of ``batch``.

    Args:
        sounds: The batch's clips, in the order of its segments.
        batch: Packed from them, and its companion likewise.
        second: How the companion's clips are cut into patches.
    """
    first = sounds[0]
    samples, starts = join_clips([sound.samples for sound in sounds])
    places = np.concatenate(
        [sound.frame_starts + start for sound, start in zip(sounds, starts, strict=True)]
    )
    pools = np.concatenate([sound.pools for sound in sounds])
    patch_indices: list[PatchIndex] = []
    for owner, group in _owned_groups(batch):
        spec = second if second and owner is not batch else sounds[group.clips[0]].patch
        patch_indices.append(_patch_index(sounds, owner, group, spec, number=len(patch_indices)))
    return RawBatch(
        batch=batch,
        samples=samples,
        frame_starts=torch.from_numpy(places),
        places=places,
        pools=torch.from_numpy(pools) if (pools != 1).any() else None,
        patch_indices=tuple(patch_indices),
        scale=first.scale,
        framing=first.framing,
    )


def _patch_index(
    sounds: Sequence[RawExample],
    owner: PackedBatch,
    group: PatchGroup,
    spec: PatchSpec,
    number: int,
) -> PatchIndex:
    """The sheet of one patch group, the ``number``-th of its batch."""
    lengths = [_covering(sound, spec) for sound in sounds]
    ends = torch.tensor(lengths).cumsum(0)
    clips = owner.layout.segment_ids[group.token_indices]
    return PatchIndex(
        rows=torch.from_numpy(_numbered_rows(sounds, lengths, number)),
        bins=_masked_bins(sounds, lengths),
        noise=_joined_noise(sounds, lengths),
        places=(ends - torch.tensor(lengths))[clips] + spec.stride[1] * group.coords[:, 1],
        stride=spec.stride[0],
        padding=spec.pad_value,
    )


def _covering(sound: RawExample, spec: PatchSpec) -> int:
    """Rows that a clip's patches reach over, its own rows at least."""
    columns = sound._replace(patch=spec).grid[1]
    return max(len(sound.rows), covered(columns, spec.size[1], spec.stride[1]))


def _numbered_rows(sounds: Sequence[RawExample], lengths: Sequence[int], sheet: int) -> Integers:
    """(R,) rows of all clips, with frames numbered through; see ``RawBatch._frames``."""
    total = sum(len(sound.pools) for sound in sounds)
    special = np.array([total + 2 + sheet, total + 1, total])  # EDGE, BLANK, PADDING
    parts, base = [], 0
    for sound, length in zip(sounds, lengths, strict=True):
        rows = np.full(length, EDGE, dtype=np.int64)
        rows[: len(sound.rows)] = sound.rows
        parts.append(np.where(rows >= 0, rows + base, special[np.minimum(rows, -1)]))
        base += len(sound.pools)
    return np.concatenate(parts)


def _masked_bins(sounds: Sequence[RawExample], lengths: Sequence[int]) -> Tensor:
    """(R, 2) int16; rows that only complete a patch are not masked."""
    bins = torch.zeros(sum(lengths), 2, dtype=torch.int16)
    row = 0
    for sound, length in zip(sounds, lengths, strict=True):
        bins[row : row + len(sound.rows)] = torch.tensor(sound.bins, dtype=torch.int16)
        row += length
    return bins


def _joined_noise(sounds: Sequence[RawExample], lengths: Sequence[int]) -> Tensor | None:
    """(R, F), nothing where no clip has any."""
    if all(sound.noise is None for sound in sounds):
        return None
    noise = torch.zeros(sum(lengths), sounds[0].framing.fbank.num_mel_bins)
    row = 0
    for sound, length in zip(sounds, lengths, strict=True):
        if sound.noise is not None:
            noise[row : row + len(sound.noise)] = sound.noise
        row += length
    return noise


def _owned_groups(batch: PackedBatch) -> list[tuple[PackedBatch, PatchGroup]]:
    """The patch groups of a batch and of its companion, each with the batch that it is of."""
    owners = (batch,) if batch.teacher_batch is None else (batch, batch.teacher_batch)
    return [(owner, group) for owner in owners for group in owner.patch_groups]
