"""Count the tokens that a model computes on, the padding among them, and the tokens cut away.

Source: ElasticAST Section 3.6, Table 1 left. Padding is the share of processed tokens that are
padding, cut the share of native tokens (after the cap on length) that the model never sees. An
incomplete patch counts as a token wherever the edge rule keeps it. Millions of clips take
seconds, because plans are arrays (``packing/stream.py``); a test compares them with the plain
planners.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from elastictool.config import Edge, PackingConfig
from elastictool.evaluation.durations import Durations, frames_of
from elastictool.packing.grid import patches_along
from elastictool.packing.planners import Counts
from elastictool.packing.stream import known_planners, plan_stream
from elastictool.utils.errors import UsageError
from elastictool.utils.registry import nearest_hint

FLAT = "flat"
"""The flat stream without rows: every processed token belongs to a clip."""


@dataclass(frozen=True)
class TokenRule:
    """The rule from frames to tokens: cap in frames, patch side, treatment of the last patch."""

    max_frames: int = 3_072
    patch: int = 16
    edge: Edge = "pad"
    num_mel_bins: int = 128

    @property
    def bands(self) -> int:
        """Patches along frequency."""
        return patches_along(self.num_mel_bins, self.patch, self.patch, self.edge)

    def tokens(self, num_frames: Counts) -> Counts:
        """Returns the tokens of clips of ``num_frames`` (n,) after the cap."""
        frames = np.minimum(num_frames, self.max_frames)
        incomplete = self.patch - 1 if self.edge == "pad" else 0
        columns: Counts = np.maximum((frames + incomplete) // self.patch, 1)
        return columns * self.bands


@dataclass(frozen=True)
class TokenUse:
    """Tokens of one model on all clips.

    Attributes:
        model: ``AST-<frames>`` or ``ElasticAST``.
        planner: Packing planner, ``flat``, or empty for a standard AST.
        batch_clips: Clips of a batch; 0 where it makes no difference.
        rows: Rows of all batches (a standard AST has one per clip); None without rows.
        excess_rows: Rows beyond the lower bound (each batch's sum over the capacity, rounded
            up); None where rows are no plan.
        processed_tokens: Tokens that the model computes on, padding included.
        padding_tokens: Processed tokens that belong to no clip.
        cut_tokens: Native tokens that are not processed.
        native_tokens: Tokens of all clips after the cap.
    """

    model: str
    planner: str
    batch_clips: int
    rows: int | None
    excess_rows: int | None
    processed_tokens: int
    padding_tokens: int
    cut_tokens: int
    native_tokens: int

    @property
    def padding_percent(self) -> float:
        """Padding tokens per 100 processed tokens."""
        return 100 * self.padding_tokens / self.processed_tokens

    @property
    def cut_percent(self) -> float:
        """Cut tokens per 100 native tokens."""
        return 100 * self.cut_tokens / self.native_tokens


def table_planners() -> list[str]:
    """Returns the planners of the token table: all registered ones, then ``flat``."""
    return [*known_planners(), FLAT]


@dataclass(frozen=True)
class TokenSettings:
    """The models, planners and batches that a token table compares.

    Attributes:
        batch_sizes: Clips of a batch.
        planners: Names of packing planners, or ``flat``; empty takes all.
        fixed_frames: Input lengths of standard ASTs.
        capacity: Tokens of a row (L').
        window: Clips among which window planners choose.
        rule: How frames become tokens.
        shift_ms: Time between frames; None is that of the durations' own filterbank.
        seed: Seed of the order of the clips, shuffled as in training.
    """

    batch_sizes: Sequence[int] = (12, 24, 48)
    planners: Sequence[str] = ()
    fixed_frames: Sequence[int] = (1_024,)
    capacity: int = 2_048
    window: int = PackingConfig.window
    rule: TokenRule = TokenRule()
    shift_ms: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in self.planners:
            if name not in table_planners():
                hint = nearest_hint(name, table_planners())
                raise UsageError(f"unknown packing planner {name!r}", hint)


@dataclass(frozen=True)
class TimeShares:
    """A standard AST's padding and cut in percent of time instead of tokens.

    The stand-in for VoxCeleb is fitted to the published shares of time.
    """

    model: str
    padding_percent: float
    cut_percent: float


@dataclass(frozen=True)
class TokenReport:
    """A token table with all that it depends on.

    Attributes:
        source: Name of the counted clips.
        source_kind: ``prepared``, ``file`` or ``stand-in``.
        clips: Clips of one epoch.
        too_short: Clips that make no frame and are not counted.
        longer_than_row: Clips of more tokens than a row has; each takes a longer row alone.
        shift_ms: Time between frames.
        beyond_cap_percent: Frames beyond the cap, per 100 frames; they count nowhere else.
        settings: What was compared.
        uses: Rows of the table.
        times: The standard ASTs by time.
    """

    source: str
    source_kind: str
    clips: int
    too_short: int
    longer_than_row: int
    shift_ms: float
    beyond_cap_percent: float
    settings: TokenSettings
    uses: tuple[TokenUse, ...]
    times: tuple[TimeShares, ...]


def count_tokens(durations: Durations, settings: TokenSettings) -> TokenReport:
    """Counts Table 1 left: standard ASTs, then each planner at each batch size, over one epoch.

    Raises:
        UsageError: The frame shift is not above 0, or no clip makes a frame.
    """
    durations = durations.shuffled(settings.seed)
    if settings.shift_ms is not None:
        durations = replace(durations, fbank=replace(durations.fbank, shift_ms=settings.shift_ms))
    num_frames = frames_of(durations)
    counted = num_frames > 0
    if not counted.any():
        raise UsageError(
            f"{durations.label}: no clip is long enough for one frame",
            "durations are in seconds",
        )
    seconds, num_frames = durations.seconds[counted], num_frames[counted]
    rule, shift_ms = settings.rule, durations.fbank.shift_ms
    native = rule.tokens(num_frames)
    capped = np.minimum(seconds, rule.max_frames * shift_ms * 0.001)
    uses, times = [], []
    for frames in settings.fixed_frames:
        uses.append(fixed_use(native, frames, rule))
        fixed_s = frames * shift_ms * 0.001
        padding = np.maximum(fixed_s - capped, 0).sum() / (fixed_s * len(capped))
        cut = np.maximum(capped - fixed_s, 0).sum() / capped.sum()
        times.append(TimeShares(uses[-1].model, 100 * float(padding), 100 * float(cut)))
    for planner in settings.planners or table_planners():
        for clips in settings.batch_sizes if planner != FLAT else (0,):
            uses.append(packed_use(native, planner, clips, settings.capacity, settings.window))
    beyond = int(np.maximum(num_frames - rule.max_frames, 0).sum())
    return TokenReport(
        source=durations.label,
        source_kind=durations.kind,
        clips=len(native),
        too_short=int((~counted).sum()),
        longer_than_row=int((native > settings.capacity).sum()),
        shift_ms=shift_ms,
        beyond_cap_percent=100 * beyond / max(1, int(num_frames.sum())),
        settings=settings,
        uses=tuple(uses),
        times=tuple(times),
    )


def fixed_use(native: Counts, fixed_frames: int, rule: TokenRule) -> TokenUse:
    """Counts the tokens of a standard AST: every clip is trimmed and padded to ``fixed_frames``.

    Args:
        native: (n,) native tokens of each clip, after the cap.
        fixed_frames: Input length of the AST; the cap does not apply to it.
        rule: How frames become tokens.
    """
    fixed = rule.bands * patches_along(fixed_frames, rule.patch, rule.patch, rule.edge)
    return TokenUse(
        model=f"AST-{fixed_frames}",
        planner="",
        batch_clips=0,
        rows=len(native),
        excess_rows=None,
        processed_tokens=fixed * len(native),
        padding_tokens=int(np.maximum(fixed - native, 0).sum()),
        cut_tokens=int(np.maximum(native - fixed, 0).sum()),
        native_tokens=int(native.sum()),
    )


def packed_use(
    native: Counts,
    planner: str,
    batch_clips: int,
    capacity: int,
    window: int = PackingConfig.window,
) -> TokenUse:
    """Counts the tokens of ElasticAST: shuffled clips in packed batches, nothing cut.

    Args:
        native: (n,) native tokens of each clip in arrival order, after the cap.
        planner: Name of a packing planner, or ``flat``.
        batch_clips: Clips of a batch; makes no difference to ``flat``.
        capacity: Tokens of a row (L').
        window: Clips among which window planners choose.

    Raises:
        UsageError: There is no such planner.
    """
    rows = excess = None
    total = processed = int(native.sum())
    if planner != FLAT:
        config = PackingConfig(planner, capacity, batch_clips, window=window)
        plan = plan_stream(native, config)
        rows, processed = len(plan.batch_of_rows), plan.processed_tokens(native)
        excess = rows - plan.fewest_rows(native, capacity)
    return TokenUse(
        model="ElasticAST",
        planner=planner,
        batch_clips=batch_clips,
        rows=rows,
        excess_rows=excess,
        processed_tokens=processed,
        padding_tokens=processed - total,
        cut_tokens=0,
        native_tokens=total,
    )
