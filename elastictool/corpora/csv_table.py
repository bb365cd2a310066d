"""A user's table, as spreadsheets and other programs write it, to rows of known columns.

Excel writes a mark at the beginning, semicolons, a line ``sep=;`` and rows of nothing; pandas
unnamed columns. None of that stops the reading. What would be lost in silence does: a column twice,
or one whose name is nearly that of a column that is not there.
"""

from __future__ import annotations

import csv
import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from elastictool.utils.errors import UsageError
from elastictool.utils.io import open_text
from elastictool.utils.registry import nearest_hint

REQUIRED = ("path", "label")
COLUMNS = (*REQUIRED, "split", "fold", "start", "stop", "group")
_OTHER_NAMES = {"end": "stop"}
_DIVIDERS = {",": "comma", ";": "semicolon", "\t": "tab"}
_NOTHING = " \r\n" + "".join(_DIVIDERS)
_DIVIDER_LINE = re.compile(r"sep=(.)", re.IGNORECASE)
_NEAR = 0.81
"""``folds`` is near ``fold``, and ``folder`` is not."""


@dataclass(frozen=True)
class CsvTable:
    """A table whose header is understood.

    Attributes:
        path: The file.
        num_lines: Lines up to the header, with it.
        divider: What divides cells.
        columns: The column that each cell is, in order; empty for cells that are passed over.
        ignored: Names of the columns that are passed over.
    """

    path: Path
    num_lines: int
    divider: str
    columns: tuple[str, ...]
    ignored: tuple[str, ...]

    @classmethod
    def open(cls, path: Path) -> CsvTable:
        """Read the header.

        Raises:
            UsageError: It is no table, or a column is absent, doubled, or nearly called like one
                that is absent.
        """
        with open_text(path) as file:
            divider, num_lines, line = _header_line(path, file)
        try:
            divider = divider or _divider(line)
            names = [name.strip() for name in _cells(line, divider)]
        except csv.Error as error:
            raise _no_table(path, error) from None
        columns = tuple(_column(name) for name in names)
        _check_columns(path, names, columns)
        ignored = tuple(
            name for name, column in zip(names, columns, strict=True) if name and not column
        )
        return cls(path, num_lines, divider, columns, ignored)

    def rows(self) -> Iterator[tuple[int, dict[str, str]]]:
        """Line number and cells by column of each row; rows of empty cells are passed over.

        Raises:
            UsageError: A row has more cells than there are columns, or it is no table.
        """
        with open_text(self.path) as file:
            for _ in range(self.num_lines):
                file.readline()
            reader = csv.reader(file, delimiter=self.divider, skipinitialspace=True)
            try:
                for cells in reader:
                    number = self.num_lines + reader.line_num
                    if any(cell.strip() for cell in cells):
                        yield number, self._row(number, cells)
            except csv.Error as error:
                raise _no_table(self.path, error) from None

    def _row(self, number: int, cells: Sequence[str]) -> dict[str, str]:
        if len(cells) > len(self.columns):
            raise UsageError(
                f"{self.path}, row {number}: more cells than columns",
                f'quote cells that contain a {_DIVIDERS[self.divider]}: "a{self.divider} b"',
            )
        row = dict.fromkeys(filter(None, self.columns), "")
        row |= {key: cell.strip() for key, cell in zip(self.columns, cells, strict=False) if key}
        return row


def _no_table(path: Path, error: csv.Error) -> UsageError:
    return UsageError(f"{path} is not a csv table: {error}", "write it anew")


def _header_line(path: Path, file: TextIO) -> tuple[str, int, str]:
    """The divider if a line ``sep=`` names one, how many lines there were, and the header."""
    divider = ""
    for number, line in enumerate(iter(file.readline, ""), start=1):
        named = _DIVIDER_LINE.fullmatch(line.rstrip("\r\n"))
        if named and named[1] not in _DIVIDERS:
            known = ", ".join(_DIVIDERS.values())
            raise UsageError(f"{path} is divided by {named[1]!r}", f"known are {known}")
        if named:
            divider = named[1]
        elif line.strip(_NOTHING):
            return divider, number, line
    raise UsageError(f"{path} has no column 'path'", "the table is empty")


def _divider(header: str) -> str:
    """What divides the columns: that by which the ones that must be there are found.

    Nothing else counts, so that a comma in a label is never taken for one. If none finds them,
    it is what divides most columns, and messages name these.
    """
    columns = {divider: list(map(_column, _cells(header, divider))) for divider in _DIVIDERS}
    return next(
        (divider for divider, names in columns.items() if set(REQUIRED) <= set(names)),
        max(columns, key=lambda divider: len(columns[divider])),
    )


def _cells(line: str, divider: str) -> list[str]:
    return next(csv.reader([line], delimiter=divider, skipinitialspace=True), [])


def _column(name: str) -> str:
    """Which of ``COLUMNS`` is called so; empty if none is."""
    plain = name.strip().lower()
    plain = _OTHER_NAMES.get(plain, plain)
    return plain if plain in COLUMNS else ""


def _check_columns(path: Path, names: Sequence[str], columns: Sequence[str]) -> None:
    doubled = [column for column in COLUMNS if columns.count(column) > 1]
    if doubled:
        both = [name for name, column in zip(names, columns, strict=True) if column == doubled[0]]
        raise UsageError(
            f"{path} has the column {doubled[0]!r} more than once: {', '.join(both)}",
            "take one of them out, or rename it",
        )
    for wanted in REQUIRED:
        if wanted not in columns:
            raise UsageError(
                f"{path} has no column {wanted!r}", nearest_hint(wanted, list(filter(None, names)))
            )
    for name, column in zip(names, columns, strict=True):
        near = "" if column else _nearly(name, [c for c in COLUMNS if c not in columns])
        if near:
            raise UsageError(
                f"{path} has a column {name!r}, which is no column that is known",
                f"if it is {near!r}, call it so; if not, call it otherwise or take it out",
            )


def _nearly(name: str, absent: Sequence[str]) -> str:
    """Which of the ``absent`` columns ``name`` may be meant to be; empty if it is another one."""
    plain = name.lower()
    known = {column: column for column in absent}
    known |= {other: column for other, column in _OTHER_NAMES.items() if column in absent}
    word = re.split(r"[^a-z]", plain)[0]
    if word in known:  # start_s, fold_id
        return known[word]
    near = difflib.get_close_matches(plain, list(known), n=1, cutoff=_NEAR)
    return known[near[0]] if near else ""
