"""Parse lists of numbers of the command line.

``256:3072`` is a range with both ends included, ``256:3072:256`` has its own step, ``12,24,48`` is
a list. Fractions (``1:4:0.2``) are counted in decimals, so the seventh is 2.2 and not
2.2000000000000002.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import TypeVar

from elastictool.utils.errors import UsageError, shown

LENGTH_STEP = 128
"""Frames between the lengths of a range that names no step."""

MOST_NUMBERS = 2_000
"""Numbers of a range: more are a mistyped end or step."""


def parse_lengths(text: str, option: str = "--lengths") -> list[int]:
    """Returns lengths in frames, from ``start:stop[:step]`` or a comma list.

    Raises:
        UsageError: Not numbers above 0, or a range that runs backwards.
    """
    return parse_numbers([text], option, LENGTH_STEP)


def parse_numbers(texts: Sequence[str], option: str, step: int = 1) -> list[int]:
    """Returns whole numbers above 0 in the order given, each once.

    Args:
        texts: Each a number, a comma list, a range ``start:stop[:step]``, or a mixture.
        option: The option's name, for messages.
        step: Step of a range that names none.

    Raises:
        UsageError: Not numbers above 0, or a range that runs backwards.
    """
    return _expanded(texts, option, step, _whole)


def parse_numbers_or_zero(text: str, option: str) -> list[int]:
    """Returns whole numbers in the order given; like ``parse_numbers``, with 0 allowed.

    Raises:
        UsageError: Not numbers of 0 or above, or a range that runs backwards.
    """
    return _expanded([text], option, 1, _whole_or_zero)


def parse_fractions(texts: Sequence[str], option: str, step: str = "1") -> list[float]:
    """Returns numbers above 0 in the order given, each once; fractions are allowed.

    Args:
        texts: Each a number, a comma list, a range ``start:stop[:step]``, or a mixture.
        option: The option's name, for messages.
        step: Step of a range that names none, as it would be written.

    Returns:
        The floats nearest to what is written: sums are made in decimals.

    Raises:
        UsageError: Not numbers above 0, or a range that runs backwards.
    """
    return [float(number) for number in _expanded(texts, option, Decimal(step), _decimal)]


N = TypeVar("N", int, Decimal)
_WHOLE = "[0-9]{1,9}"


def _expanded(
    texts: Sequence[str], option: str, step: N, read: Callable[[str, str, str], N]
) -> list[N]:
    items = [item.strip() for text in texts for item in text.split(",")]
    numbers = [number for item in items for number in _expand(item, option, step, read)]
    return list(dict.fromkeys(numbers))


def _expand(item: str, option: str, step: N, read: Callable[[str, str, str], N]) -> list[N]:
    parts = [read(part, item, option) for part in item.split(":")]
    if len(parts) == 1:
        return parts
    if len(parts) > 3:
        raise UsageError(f"{option} {shown(item)} is not start:stop[:step]", "e.g. 256:3072:128")
    start, stop = parts[:2]
    step = parts[2] if len(parts) == 3 else step
    if step == 0:
        raise UsageError(f"{option} {shown(item)} has a step of 0", f"e.g. {start}:{stop}:1")
    if stop < start:
        raise UsageError(f"{option} {shown(item)} runs backwards", f"write {stop}:{start}")
    count = int((stop - start) // step) + 1
    if count > MOST_NUMBERS:
        raise UsageError(
            f"{option} {shown(item)} are {count:,} numbers (at most {MOST_NUMBERS:,})",
            f"take a larger step: {option} {start}:{stop}:{-(-(stop - start) // 20)}",
        )
    numbers: list[N] = [start + index * step for index in range(count)]
    if numbers[-1] != stop:  # both ends are included, also where the step does not meet the last
        numbers.append(stop)
    return numbers


def _whole(part: str, item: str, option: str) -> int:
    if not re.fullmatch(_WHOLE, part) or int(part) == 0:
        raise UsageError(
            f"{option}: {shown(part)}{_within(part, item)} is no whole number in 1..999,999,999",
            "write start:stop[:step], e.g. 256:3072, or a comma list, e.g. 12,24,48",
        )
    return int(part)


def _whole_or_zero(part: str, item: str, option: str) -> int:
    if not re.fullmatch(_WHOLE, part):
        raise UsageError(
            f"{option}: {shown(part)}{_within(part, item)} is no whole number in 0..999,999,999",
            "write a comma list, e.g. 0,1,2, or start:stop[:step], e.g. 0:2",
        )
    return int(part)


def _decimal(part: str, item: str, option: str) -> Decimal:
    plain = re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", part)
    if not plain or Decimal(part) == 0:
        raise UsageError(
            f"{option}: {shown(part)}{_within(part, item)} is not a number above 0",
            "write start:stop[:step], e.g. 1:4:0.2, or a comma list, e.g. 1,1.5,2",
        )
    return Decimal(part)


def _within(part: str, item: str) -> str:
    return f" in {shown(item)}" if part != item else ""
