"""Read durations of clips and count their frames, for token accounting.

Token accounting needs no audio, only how long each clip is: from a prepared dataset, from a CSV
file, or from a stand-in for VoxCeleb where there is neither. Every source carries a label, so
that a table never hides what it was counted on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from elastictool.config import FbankConfig
from elastictool.config.coerce import from_dict
from elastictool.corpora.tables import Columns, Table, clock_seconds
from elastictool.utils.errors import UsageError
from elastictool.utils.text import counted

if TYPE_CHECKING:
    from elastictool.data.store import PreparedStore

VOXCELEB_TRAIN_CLIPS = 138_361
"""Number of clips in VoxCeleb1's identification training list."""

_COLUMNS = Columns((), ("seconds", "start_timestamp", "stop_timestamp"))

AST_SECONDS = 10.24
"""1,024 frames of 10 ms, the usual input of a standard AST."""


@dataclass(frozen=True)
class Durations:
    """The durations of clips, and their source.

    Attributes:
        seconds: (n,) float64, in arrival order.
        kind: Kind of the source.
        label: The source in words, for tables and figures.
        fbank: The filterbank whose frames are counted.
    """

    seconds: npt.NDArray[np.float64]
    kind: Literal["prepared", "file", "stand-in"]
    label: str
    fbank: FbankConfig = field(default_factory=FbankConfig)

    def shuffled(self, seed: int) -> Durations:
        """Returns the same clips in a seeded random order, as in training."""
        order = np.random.default_rng(seed).permutation(len(self.seconds))
        return replace(self, seconds=self.seconds[order])


def stand_in(num_clips: int = VOXCELEB_TRAIN_CLIPS) -> Durations:
    """Returns evenly spaced quantiles of 4 s + lognormal, capped at 30 s: a stand-in for VoxCeleb.

    Quantiles instead of draws, so that any number of clips has the distribution's own shares.
    The two parameters are fitted to the two shares of Table 1 (31.1 % of the standard AST's time
    is padding, 15.2 % of the audio is cut). Two numbers do not fix the shape of a distribution:
    no other counts on it hold for VoxCeleb.
    """
    quantiles = (np.arange(num_clips) + 0.5) / num_clips
    seconds = np.minimum(4.0 + np.exp(0.9063 + 1.1134 * ndtri(quantiles)), 30.0)
    return Durations(seconds, "stand-in", f"stand-in for VoxCeleb, {counted(num_clips, 'clip')}")


def prepared_durations(store: PreparedStore, split: str = "") -> Durations:
    """Returns the durations of a prepared dataset, of one split or of all clips.

    Raises:
        UsageError: No clip in that split.
    """
    splits = np.asarray(store.splits)
    chosen = splits == split if split else np.ones(len(store), dtype=bool)
    if not chosen.any():
        known = ", ".join(sorted({str(name) for name in splits}))
        raise UsageError(
            f"{store.path} has no clip in split {split!r}" if split else f"{store.path} is empty",
            f"its splits are: {known}" if known else "prepare it again",
        )
    which = f"split {split}" if split else "all splits"
    label = f"prepared data {store.info.name}, {which}, {counted(int(chosen.sum()), 'clip')}"
    seconds = store.num_samples[chosen] / store.info.sample_rate_hz
    return Durations(seconds, "prepared", label, from_dict(FbankConfig, store.info.fbank_config))


def read_durations(path: Path) -> Durations:
    """Reads durations from a CSV file with a header.

    The file has a column ``seconds``, or ``start_timestamp`` and ``stop_timestamp``
    (HH:MM:SS.sss) as in EPIC-SOUNDS annotations.

    Raises:
        UsageError: The file cannot be read, lacks the columns, holds no clip, or a duration is
            no number above 0 (the message names its line).
    """
    seconds = np.fromiter(_rows(Table(path, _COLUMNS)), dtype=np.float64)
    if len(seconds) == 0:
        raise UsageError(f"{path} holds no durations", "give at least one row below the header")
    return Durations(seconds, "file", f"{path.name}, {counted(len(seconds), 'clip')}")


def histogram(seconds: npt.NDArray[np.float64]) -> dict[str, Any]:
    """Returns counts of clips in 48 logarithmic bins, and shares below and above 10.24 s."""
    low, high = float(seconds.min()), float(seconds.max())
    edges = np.geomspace(low * 0.98, max(high, low * 1.05) * 1.02, 49)
    shares = (0, 10, 50, 90, 99, 100)
    return {
        "clips": len(seconds),
        "hours": float(seconds.sum()) / 3600,
        "edges": [round(float(edge), 4) for edge in edges],
        "counts": np.histogram(seconds, edges)[0].tolist(),
        "percentiles": {str(share): float(np.percentile(seconds, share)) for share in shares},
        "shorter_than_ast": float(np.mean(seconds < AST_SECONDS)),
        "longer_than_ast": float(np.mean(seconds > AST_SECONDS)),
    }


def frames_of(durations: Durations) -> npt.NDArray[np.int64]:
    """Returns (n,) frames of each clip; 0 where it is too short for one."""
    samples = np.rint(durations.seconds * durations.fbank.sample_rate_hz).astype(np.int64)
    return durations.fbank.num_frames(samples)


def _rows(table: Table) -> Iterator[float]:
    names = set(table.names)
    if "seconds" not in names and not {"start_timestamp", "stop_timestamp"} <= names:
        raise UsageError(
            f"{table.path} has no column 'seconds', nor 'start_timestamp' and 'stop_timestamp'",
            f"its columns are: {', '.join(filter(None, table.names))}",
        )
    for row in table:
        try:
            if "seconds" in names:
                seconds = float(row.cells["seconds"])
            else:
                start, stop = (row.cells[f"{end}_timestamp"] for end in ("start", "stop"))
                seconds = clock_seconds(stop) - clock_seconds(start)
        except ValueError:
            seconds = math.nan
        if not 0 < seconds < math.inf:
            cells = ", ".join(row.cells.values())
            raise row.error(f"{cells!r} gives no duration above 0 seconds", "mend or remove it")
        yield seconds
