"""How lists of numbers are written on the command line.

``256:3072`` is a range with both ends included, ``256:3072:256`` has its own step, ``12,24,48`` is
a list. ``ListCommand`` lets every repeatable option take several values after one mention
(``--batch-size 12 24 48``), which the parser underneath does not know.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from typer.core import TyperCommand

from elastictool.errors import UsageError

LENGTH_STEP = 128
"""Frames between the lengths of a range that names no step."""


class ListCommand(TyperCommand):
    """A command whose repeatable options take all values that follow them.

    Positional arguments belong before such an option: what follows it is taken as its values.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Write ``--option a b`` as ``--option a --option b``, then parse as usual."""
        repeatable = {
            name
            for parameter in self.params
            if getattr(parameter, "multiple", False)
            for name in parameter.opts
        }
        return super().parse_args(ctx, _repeat_options(args, repeatable))


def _repeat_options(args: Sequence[str], repeatable: set[str]) -> list[str]:
    repeated: list[str] = []
    option, expects_value = "", False
    for arg in args:
        if arg.startswith("-") and not expects_value:
            name, separator, _ = arg.partition("=")
            option = name if name in repeatable else ""
            expects_value = bool(option) and not separator
        elif expects_value:
            expects_value = False
        elif option:
            repeated.append(option)
        repeated.append(arg)
    return repeated


def parse_lengths(text: str, option: str = "--lengths") -> list[int]:
    """Lengths in frames, from ``start:stop[:step]`` or a comma list.

    Raises:
        UsageError: Not numbers above 0, or a range that runs backwards.
    """
    return parse_numbers([text], option, LENGTH_STEP)


def parse_numbers(texts: Sequence[str], option: str, step: int = 1) -> list[int]:
    """Whole numbers above 0 in the order given, each once.

    Args:
        texts: Each a number, a comma list, a range ``start:stop[:step]``, or a mixture.
        option: The option's name, for messages.
        step: Step of a range that names none.

    Raises:
        UsageError: Not numbers above 0, or a range that runs backwards.
    """
    items = [item.strip() for text in texts for item in text.split(",")]
    numbers = [number for item in items for number in _expand(item, option, step)]
    return list(dict.fromkeys(numbers))


def _expand(item: str, option: str, step: int) -> list[int]:
    parts = [_whole(part, item, option) for part in item.split(":")]
    if len(parts) == 1:
        return parts
    if len(parts) > 3:
        raise UsageError(f"{option} {item!r} is not start:stop[:step]", "e.g. 256:3072:128")
    start, stop = parts[:2]
    step = parts[2] if len(parts) == 3 else step
    if stop < start:
        raise UsageError(f"{option} {item!r} runs backwards", f"write {stop}:{start}")
    numbers = list(range(start, stop + 1, step))
    # Both ends are included, also where the step does not meet the last.
    return numbers if numbers[-1] == stop else [*numbers, stop]


def _whole(part: str, item: str, option: str) -> int:
    if not (part.isascii() and part.isdigit() and int(part) > 0):
        where = f" in {item!r}" if part != item else ""
        raise UsageError(
            f"{option}: {part!r}{where} is not a whole number above 0",
            "write start:stop[:step], e.g. 256:3072, or a comma list, e.g. 12,24,48",
        )
    return int(part)
