"""Describes the spectrogram of a crop by integers: which frame each of its rows shows.

Cropping, padding, time masks and rotation become numbers of frames, whether the frames are computed
at once, on the host, or later, on the device, for a whole batch of clips. ``spectrogram_rows`` is
the only function that turns these integers into values, and it is exact on any device; only the
filterbank's rounding can differ from device to device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from elastictool.audio.augment import Span, draw_masks, draw_noise, draw_roll, mask_fill
from elastictool.audio.fbank import Integers
from elastictool.config import AugmentConfig, FbankConfig, PoolKind

PADDING, MASKED = -1, -2
"""Rows of a spectrogram that show none of the clip's frames."""
NUM_FILLED = 2
"""Rows after all frames that stand for masked and for padded frames."""


@dataclass(frozen=True)
class Normalization:
    """Normalises log-mel values to a model's input: (x - mean) / spread.

    ``padding`` and ``masked`` are such inputs: of padded frames, and of masked ones.
    """

    mean: float
    spread: float
    padding: float
    masked: float = 0.0


@dataclass(frozen=True)
class RawFrames:
    """Log-mel frames that are still to be computed.

    Attributes:
        samples: (n,) the clip's samples, prepared for the filterbank.
        frame_starts: (M,) first sample of each filterbank frame.
        pools: (T',) how many neighbouring frames become one.
        fbank: Window and mel bins.
        pool_kind: How neighbouring frames become one.
    """

    samples: Tensor
    frame_starts: Integers
    pools: Integers
    fbank: FbankConfig
    pool_kind: PoolKind

    def __len__(self) -> int:
        return len(self.pools)


@dataclass(frozen=True)
class Spectrogram:
    """The (T, F) spectrogram of a crop, not computed yet.

    Attributes:
        frames: (T', F) log-mel frames, or what they are to be computed from.
        rows: (T,) which of the T' frames each row shows, or ``PADDING``, ``MASKED``.
        num_bins: F.
        normalization: How values become input.
        bins: Masked mel bins.
        noise: (T, F) to be added to the rows, or None.
    """

    frames: Tensor | RawFrames
    rows: Integers
    num_bins: int
    normalization: Normalization
    bins: Span = (0, 0)
    noise: Tensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(T, F)."""
        return len(self.rows), self.num_bins

    def augmented(
        self, config: AugmentConfig, rng: Callable[[str], np.random.Generator]
    ) -> Spectrogram:
        """Returns the spectrogram with masks, noise and roll, in the published code's order."""
        rows = self.rows.copy()
        bins, masked = draw_masks(len(rows), self.num_bins, config, rng("spec-augment"))
        rows[slice(*masked)] = MASKED
        noise = draw_noise(self.shape, config.noise, rng("noise")) if config.noise else None
        if config.roll:
            shift = draw_roll(config.roll, rng("roll"))
            rows = np.roll(rows, shift)
            noise = noise if noise is None else noise.roll(shift, 0)
        scale = self.normalization
        normalization = replace(scale, masked=mask_fill(config, scale.mean, scale.spread))
        return replace(self, rows=rows, bins=bins, noise=noise, normalization=normalization)

    def computed(self) -> Tensor:
        """Computes the (T, F) values.

        Raises:
            TypeError: The frames are still to be computed.
        """
        if not isinstance(self.frames, Tensor):
            raise TypeError("frames of a batch are computed together, by RawBatch")
        rows = torch.from_numpy(self.rows % (len(self.frames) + NUM_FILLED))
        bins = torch.tensor([self.bins], dtype=torch.int16) if self.bins[1] else None
        return spectrogram_rows(self.frames, rows, bins, self.noise, self.normalization)


def spectrogram_rows(
    frames: Tensor,
    rows: Tensor,
    bins: Tensor | None,
    noise: Tensor | None,
    normalization: Normalization,
) -> Tensor:
    """Computes (R, F) rows of one or more spectrograms.

    Args:
        frames: (T', F) log-mel frames, not normalised.
        rows: (R,) int64 below T' + 2, the frame that each row shows; T' is a masked row, T' + 1
            padding.
        bins: (R, 2) int16, or (1, 2) for all rows: first and past-the-last masked bin; None masks
            none.
        noise: (R, F) to be added, or None.
        normalization: How values become input.
    """
    normal = (frames - normalization.mean).div_(normalization.spread)
    filled = [
        normal.new_full((1, normal.shape[1]), value)
        for value in (normalization.masked, normalization.padding)
    ]
    shown = torch.cat((normal, *filled)).index_select(0, rows)
    if bins is not None:
        numbers = torch.arange(shown.shape[1], dtype=bins.dtype, device=shown.device)
        shown.masked_fill_((numbers >= bins[:, :1]) & (numbers < bins[:, 1:]), normalization.masked)
    return shown if noise is None else shown.add_(noise)
