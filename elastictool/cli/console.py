"""Print: progress, notes and errors on stderr, results (tables, JSON) on stdout.

Names and messages come from anywhere; here, where all of them pass, they are made ``printable``,
and none is read as rich's markup (``Text`` is not).
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichBars
from rich.table import Table
from rich.text import Text

from elastictool.utils.errors import ElasticToolError, Interrupted
from elastictool.utils.launch import launched
from elastictool.utils.progress import Progress, Task
from elastictool.utils.text import json_text, printable

stderr = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)
stdout = Console(highlight=False, soft_wrap=True, emoji=False)
if not stdout.is_terminal and "COLUMNS" not in os.environ:
    stdout.width = 120  # a pipe has no width, and rich would fold tables at 80


def log(message: str) -> None:
    """Prints one line on stderr; of several processes, only the main one does."""
    if launched().is_main:
        stderr.print(Text(printable(message)))


def log_lines(prefix: str, lines: Iterable[object]) -> None:
    """Prints each of ``lines`` after ``prefix``, as ``log`` does."""
    for line in lines:
        log(f"{prefix}{line}")


def print_error(error: ElasticToolError) -> None:
    """Prints what went wrong and where, then what to do, without a traceback."""
    if isinstance(error, Interrupted):
        line = f"{error.message}; {error.hint}" if error.hint else error.message
        stderr.print(Text.assemble(("interrupted:", "bold"), f" {printable(line)}"))
        return
    stderr.print(Text.assemble(("error:", "bold red"), f" {printable(error.message)}"))
    if error.hint:  # some hints have several lines
        hint = printable(error.hint, kept="\n")
        stderr.print(Text.assemble(("hint:", "bold"), f"  {hint}"))


def print_json(document: Any) -> None:
    """Prints one JSON document on stdout."""
    text = json_text(document)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:  # an undecodable path, or a terminal without the letter
        text = json.dumps(document, indent=2)  # JSON escapes them
    sys.stdout.write(text + "\n")
    sys.stdout.flush()  # where a full disk can still be reported


def print_csv(text: str) -> None:
    """Prints CSV on stdout: as it is for programs, ``printable`` for people at a terminal."""
    sys.stdout.write(printable(text, kept="\n") if sys.stdout.isatty() else text)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Prints a table of formatted cells on stdout; columns of numbers are aligned to the right.

    Where the terminal is too narrow, cells are wrapped at spaces and at the marks of names, and
    columns that still do not fit follow in further tables, each with the first column.
    """
    texts = [
        [printable(column, kept="\n"), *(printable(str(row[i])) for row in rows)]
        for i, column in enumerate(columns)
    ]
    stdout.print(Text(printable(title), "bold"), soft_wrap=False)
    for part in _parts(texts):
        widths = _widths(part, stdout.width - 3 * len(part) - 1)
        table = Table()
        for (head, *cells), width in zip(part, widths, strict=True):
            numeric = cells and all(map(_NUMBER.fullmatch, cells))
            table.add_column(
                Text(_wrapped(head, width)),
                justify="right" if numeric else "left",
                overflow="fold",
                width=width,
            )
        for row in zip(*(cells for _, *cells in part), strict=True):
            table.add_row(*map(Text, map(_wrapped, row, widths)))
        stdout.print(table)


_NUMBER = re.compile(r"[-–]?[\d.,]*( %| \(.*\))?|nan|inf")
_BREAK = re.compile(r"(?<= )(?!%)|(?<=[/_-])(?=[A-Za-z])|(?<=\.)(?=[a-z_])")
"""Where a cell may be wrapped: not within numbers, not before their unit."""
_LONG = 30
"""Longer words may be cut."""


def _least(column: Sequence[str]) -> int:
    """Returns the width at which no word of the column is cut."""
    lines = [line for cell in column for line in cell.split("\n")]
    return min(_LONG, max(cell_len(p.rstrip()) for line in lines for p in _BREAK.split(line)))


def _parts(columns: Sequence[list[str]]) -> Iterator[Sequence[list[str]]]:
    """Yields the columns of tables that fit the terminal, the first column in each."""
    part = [columns[0]]
    for column in columns[1:]:
        width = sum(_least(each) + 3 for each in (*part, column)) + 1
        if len(part) > 1 and width > stdout.width:
            yield part
            part = [columns[0]]
        part.append(column)
    yield part


def _widths(columns: Sequence[list[str]], available: int) -> list[int]:
    """Returns the widths of ``columns``, the widest ones narrowed until all fit."""
    widths = [
        max(cell_len(line) for cell in column for line in cell.split("\n")) for column in columns
    ]
    least = list(map(_least, columns))
    while sum(widths) > available and max(widths) > 1:
        spare = [i for i, width in enumerate(widths) if width > least[i]]
        widths[max(spare or range(len(widths)), key=widths.__getitem__)] -= 1
    return widths


def _wrapped(text: str, width: int) -> str:
    lines: list[str] = []
    for line in text.split("\n"):
        lines.append("")
        for piece in _BREAK.split(line):
            if lines[-1] and cell_len((lines[-1] + piece).rstrip()) > width:
                lines.append("")
            lines[-1] += piece
    return "\n".join(line.rstrip() for line in lines)


class _BarTask:
    def __init__(self, bars: RichBars, task_id: Any) -> None:
        self._bars, self._id = bars, task_id
        self._done = 0.0

    def advance(self, amount: float = 1, note: str = "") -> None:
        self._done += amount
        self._bars.update(self._id, completed=_whole(self._done))
        if note:
            self._bars.update(self._id, note=printable(note))


def _whole(done: float) -> float:
    """Rounds off the error of adding up fractions: a sum of 2.9999999 is 3."""
    return round(done, 6)


@contextmanager
def _bar(what: str, total: float | None) -> Iterator[Task]:
    bars = RichBars(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        console=stderr,
    )
    with bars:
        yield _BarTask(bars, bars.add_task(printable(what), total=total, note=""))


class _LineTask:
    """Prints at most one line every ten seconds."""

    interval_s = 10.0

    def __init__(self, what: str, total: float | None) -> None:
        self._what, self._total = what, total
        self._done = 0.0
        self._note = ""
        self._started = self._last = time.monotonic()

    def advance(self, amount: float = 1, note: str = "") -> None:
        self._done += amount
        self._note = note or self._note
        is_last = self._total is not None and _whole(self._done) >= self._total  # shown at the end
        if time.monotonic() - self._last >= self.interval_s and not is_last:
            self._last = time.monotonic()
            self.print()

    def print(self) -> None:
        """Prints the state; nothing counts as done before it is."""
        elapsed, of, left = time.monotonic() - self._started, "", ""
        if self._total is not None:
            of = f"/{self._total:.0f}"
            if 0 < self._done < self._total:
                left = f", {elapsed / self._done * (self._total - self._done):.0f} s left"
        note = f"  {self._note}" if self._note else ""
        done = math.floor(_whole(self._done))
        log(f"{self._what}: {done}{of}, {elapsed:.0f} s{left}{note}")


@contextmanager
def _lines(what: str, total: float | None) -> Iterator[Task]:
    task = _LineTask(what, total)
    yield task
    task.print()


class _Progress:
    """Bars with an ETA where stderr is a terminal, plain lines elsewhere."""

    def task(self, what: str, total: float | None) -> AbstractContextManager[Task]:
        return (_bar if stderr.is_terminal else _lines)(what, total)

    def log(self, message: str) -> None:
        log(message)


def progress() -> Progress:
    """Returns the reporter of progress on stderr."""
    return _Progress()
