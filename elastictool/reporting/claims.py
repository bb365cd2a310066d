"""Judge by thresholds whether measured curves have the shape that a paper claims.

A recipe names its claims with thresholds before anything is run, and a curve that violates one
prints "does not hold".
All thresholds are in percentage points; columns are lengths, patch sizes or compressions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from elastictool.utils.errors import UsageError
from elastictool.utils.text import counted

Curves = Mapping[str, Mapping[float, float]]
"""Name of a curve -> its score (0 to 1) by column."""

OWN = ", own"
"""Ends the name of a curve of one column: the score at a model's own setting."""
ClaimKind = Literal["flat", "collapse", "above"]


@dataclass(frozen=True)
class Claim:
    """One claim about a figure or table.

    Attributes:
        kind: ``flat``: best and worst column differ by at most ``points``. ``collapse``: from
            column ``at`` to the worst other column the score falls by at least ``points``.
            ``above``: at every shared column but ``at`` the score is at least that of ``other``
            plus ``points`` (negative ``points`` allow it to be that much below).
        curve: Name of the curve that the claim is about.
        points: Threshold in percentage points.
        other: For ``above``: the curve that it is compared with.
        at: The model's own column: where it starts to fall, or what is not compared.
        start: First column that counts.
        stop: Last column that counts.
        source: Where it is claimed: paper and section, or "ours".
        description: Replaces the sentence that is made from kind and threshold.
    """

    kind: ClaimKind
    curve: str
    points: float
    other: str = ""
    at: float | None = None
    start: float = float("-inf")
    stop: float = float("inf")
    source: str = ""
    description: str = ""

    def __post_init__(self) -> None:
        """Rejects a claim without what it compares.

        Raises:
            UsageError: The kind is unknown, or it lacks what it compares with.
        """
        if self.kind not in ("flat", "collapse", "above"):
            raise UsageError(f"unknown claim {self.kind!r}", "use flat, collapse or above")
        if self.kind == "above" and not self.other:
            raise UsageError(f"the claim about {self.curve!r} compares with nothing", "set other")
        if self.kind == "collapse" and self.at is None:
            raise UsageError(f"the claim about {self.curve!r} starts nowhere", "set at")


@dataclass(frozen=True)
class Verdict:
    """Verdict on a claim.

    Attributes:
        claim: The claim.
        holds: Whether the thresholds are kept; None where a curve was not run.
        words: A sentence for people, with the figures that decided.
    """

    claim: Claim
    holds: bool | None
    words: str


def judge(claim: Claim, curves: Curves) -> Verdict:
    """Judges a claim on measured curves.

    Args:
        claim: The claim.
        curves: Measured scores from 0 to 1.

    Returns:
        The verdict; ``holds`` is None where a curve, or all its columns that count, are missing.
    """
    wanted = [claim.curve, *([claim.other] if claim.kind == "above" else [])]
    missing = [name for name in wanted if not curves.get(name)]
    if missing:
        return Verdict(claim, None, f"{statement(claim)}: not run ({', '.join(missing)})")
    found = DECIDE[claim.kind](claim, *(_percent(claim, curves[name]) for name in wanted))
    if found is None:
        return Verdict(claim, None, f"{statement(claim)}: not run at these columns")
    holds, figures = found
    outcome = "holds" if holds else "does not hold"
    return Verdict(claim, holds, f"{statement(claim)}: {outcome} ({figures})")


def statement(claim: Claim) -> str:
    """Returns the claim as a sentence."""
    if claim.description:
        return claim.description
    curve, other, points = claim.curve, claim.other, counted(abs(claim.points), "point")
    if claim.kind == "collapse":
        return f"{curve} falls by {points} or more away from {claim.at:g}"
    first, last = claim.start > float("-inf"), claim.stop < float("inf")
    span = f" from {claim.start:g}" if first else ""
    span += f" {'to' if first else 'up to'} {claim.stop:g}" if last else " on" * first
    if claim.kind == "flat":
        return f"{curve} is flat within {points}{span}"
    elsewhere = "" if claim.at is None else f" other than {claim.at:g}"
    where = f" at all columns{elsewhere}{span}"
    if curve.endswith(OWN):
        where = ""
    elif claim.start == claim.stop:
        where = f" at {claim.start:g}"
    if claim.points == 0:
        return f"{curve} is above or level with {other}{where}"
    margin = f"by {points} or more" if claim.points > 0 else f"or at most {points} below"
    return f"{curve} is above {other} {margin}{where}"


def _percent(claim: Claim, curve: Mapping[float, float]) -> dict[float, float]:
    """Returns scores in percent by column, for the columns that count."""
    return {
        x: round(100 * y, 6) for x, y in sorted(curve.items()) if claim.start <= x <= claim.stop
    }


def _flat(claim: Claim, scores: dict[float, float]) -> tuple[bool, str] | None:
    if len(scores) < 2:
        return None
    worst, best = min(scores, key=scores.__getitem__), max(scores, key=scores.__getitem__)
    span = round(scores[best] - scores[worst], 6)
    words = f"{scores[worst]:.1f} at {worst:g} to {scores[best]:.1f} at {best:g}: {span:.1f}"
    return span <= claim.points, words


def _collapse(claim: Claim, scores: dict[float, float]) -> tuple[bool, str] | None:
    others = {x: y for x, y in scores.items() if x != claim.at}
    if claim.at not in scores or not others:
        return None
    own, worst = scores[claim.at], min(others, key=others.__getitem__)
    fall = round(own - others[worst], 6)
    words = f"{own:.1f} at {claim.at:g} to {others[worst]:.1f} at {worst:g}: {fall:.1f}"
    return fall >= claim.points, words


def _above(
    claim: Claim, upper: dict[float, float], lower: dict[float, float]
) -> tuple[bool, str] | None:
    gaps = {x: round(upper[x] - lower[x], 6) for x in upper if x in lower and x != claim.at}
    if not gaps:
        return None
    least = min(gaps, key=gaps.__getitem__)
    if len(gaps) == 1:
        return gaps[least] >= claim.points, f"{upper[least]:.1f} against {lower[least]:.1f}"
    kept = sum(gap >= claim.points for gap in gaps.values())
    words = f"{kept} of {len(gaps)} columns; least difference {gaps[least]:+.1f} at {least:g}"
    return kept == len(gaps), words


DECIDE: Mapping[ClaimKind, Callable[..., tuple[bool, str] | None]] = {
    "flat": _flat,
    "collapse": _collapse,
    "above": _above,
}
"""Whether a claim of each kind holds and the deciding figures, None without columns."""
