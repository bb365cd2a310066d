"""Reading the csv tables of published corpora: what all of them need checked, checked once.

A message names table and line, because a table that was edited, cut off or saved by another
program is what goes wrong.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from elastictool.utils.errors import UsageError
from elastictool.utils.io import open_text


def table_rows(table: Path) -> Iterator[tuple[int, list[str]]]:
    """Line number and cells of each row; rows of empty cells are passed over.

    Raises:
        UsageError: It is no text, or no table.
    """
    with open_text(table) as file:
        reader = csv.reader(file, skipinitialspace=True)
        try:
            for cells in reader:
                if any(cells):
                    yield reader.line_num, cells
        except csv.Error as error:
            raise UsageError(
                f"{table}, line {reader.line_num}: not a csv table ({error})", "fetch it again"
            ) from error


def records(table: Path, wanted: Sequence[str], hint: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and cells by column of each row of a table with a header.

    Args:
        table: The file.
        wanted: Columns that have to be there.
        hint: What to do about a table that is not as it should be.

    Raises:
        UsageError: A column is absent, a row has fewer cells or more, or as ``table_rows``.
    """
    rows = table_rows(table)
    _, header = next(rows, (0, []))
    absent = [name for name in wanted if name not in header]
    if absent:
        raise UsageError(f"{table} lacks the columns {', '.join(absent)}", hint)
    for line, cells in rows:
        if len(cells) < len(header) or any(cells[len(header) :]):  # or no cell is its column's
            raise UsageError(
                f"{table}, line {line}: {len(cells)} cells for {len(header)} columns", hint
            )
        yield line, dict(zip(header, cells, strict=False))


@dataclass
class NumberedClasses:
    """Classes that a table numbers row by row; their numbers are their order.

    Attributes:
        by_number: Name of each number.
        by_name: Number of each name.
    """

    by_number: dict[int, str] = field(default_factory=dict)
    by_name: dict[str, int] = field(default_factory=dict)

    def add(self, number: int, name: str, table: Path, line: int) -> None:
        """Take one row's class.

        Raises:
            UsageError: The number belongs to another name, or the name to another number.
        """
        named = self.by_number.setdefault(number, name)
        numbered = self.by_name.setdefault(name, number)
        if (named, numbered) != (name, number):
            before = f"{number} is {named!r}" if named != name else f"{name!r} is {numbered}"
            raise UsageError(
                f"{table}, line {line}: class {number} is {name!r}, but above class {before}",
                "a class has one number and one name: correct the rows, or fetch the table again",
            )

    @property
    def names(self) -> list[str]:
        """All names in the order of their numbers."""
        return [self.by_number[number] for number in sorted(self.by_number)]
