"""The one reader of tables: opens, finds the divider, checks rows and names them in errors.

Published tables and those of users come as csv, tsv or lists with spaces, with a header or
without. Spreadsheets add a byte order mark, semicolons, a line ``sep=;`` and empty rows, pandas
unnamed columns: none of that stops the reading. A table that would lose something in silence is an
error: a column twice, one whose name is nearly that of an absent one, a row that is cut off or has
cells without a column. Messages name the file and the row.
"""

from __future__ import annotations

import csv
import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from elastictool.utils.errors import UsageError
from elastictool.utils.io import open_text
from elastictool.utils.registry import nearest_hint

_DIVIDERS = {",": "comma", ";": "semicolon", "\t": "tab"}
_BLANK = " \r\n" + "".join(_DIVIDERS)
_DIVIDER_LINE = re.compile(r"sep=(.)", re.IGNORECASE)
_NEAR = 0.81
"""``folds`` is near ``fold``, and ``folder`` is not."""


class Row(NamedTuple):
    """One row of a table.

    Attributes:
        table: The file.
        number: Line in the file, from 1; of a JSON list the entry, from 0.
        cells: Text by column, without spaces around it.
        unit: What ``number`` counts, for messages.
    """

    table: Path
    number: int
    cells: Mapping[str, str]
    unit: str = "line"

    def __str__(self) -> str:
        return f"{self.table}, {self.unit} {self.number}"

    def error(self, what: str, hint: str) -> UsageError:
        """Returns an error that says where the row stands."""
        return UsageError(f"{self}: {what}", hint)

    def number_in(self, column: str, hint: str) -> int:
        """Returns the whole number in ``column``.

        Raises:
            UsageError: It is none.
        """
        text = self.cells[column]
        if not text.isdecimal():
            raise self.error(f"{column} {text!r} is not a whole number", hint)
        return int(text)


@dataclass(frozen=True)
class Columns:
    """Columns of a table.

    Attributes:
        required: Columns that have to be there; without a header, all columns in order.
        optional: Columns that may be there; a name that is nearly one of them is an error.
        aliases: Other names of columns.
        header: Whether the table begins with the names of its columns.
        whole: Whether a row with fewer cells than columns is an error.
        divider: Divider of a table without a header; a space is any white space. With a header
            it is found.
        comment: Beginning of rows that are passed over.
        hint: What to do about a table that is not as it should be; empty for one that the user
            has written.
    """

    required: tuple[str, ...]
    optional: tuple[str, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    header: bool = True
    whole: bool = True
    divider: str = ","
    comment: str = ""
    hint: str = ""

    @property
    def known(self) -> tuple[str, ...]:
        """Names of all columns that are read."""
        return (*self.required, *self.optional)

    def name(self, cell: str) -> str:
        """Returns the column that a header's ``cell`` names: a known one in any case, or itself."""
        plain = self.aliases.get(cell.strip().lower(), cell.strip().lower())
        return plain if plain in self.known else cell.strip()


@dataclass(frozen=True)
class Table:
    """A table whose header has been read.

    Attributes:
        path: The file.
        columns: What was asked for.
        names: Name of each cell's column, in order; empty for cells without one.
        divider: What divides cells.
        num_lines: Lines up to the header, including it.
    """

    path: Path
    columns: Columns
    names: tuple[str, ...]
    divider: str
    num_lines: int = 0

    @classmethod
    def open(cls, path: Path, columns: Columns) -> Table:
        """Reads the header, if there is one.

        Raises:
            UsageError: It is no table, or a column is absent, doubled, or nearly called like one
                that is absent.
        """
        if not columns.header:
            return cls(path, columns, columns.required, columns.divider)
        divider, number, line = "", 0, ""
        with open_text(path) as file:
            for line in iter(file.readline, ""):
                number += 1
                named = _DIVIDER_LINE.fullmatch(line.rstrip("\r\n"))
                if named and named[1] not in _DIVIDERS:
                    known = ", ".join(_DIVIDERS.values())
                    raise UsageError(f"{path} is divided by {named[1]!r}", f"known are {known}")
                if named:
                    divider = named[1]
                elif line.strip(_BLANK):
                    break
            else:
                raise UsageError(
                    f"{path} has no column {columns.required[0]!r}", "the table is empty"
                )
        try:
            divider = divider or _find_divider(line, columns)
            cells = [cell.strip() for cell in _split(line, divider)]
        except csv.Error as error:
            raise _no_table(path, number, error) from None
        table = cls(path, columns, tuple(map(columns.name, cells)), divider, number)
        table._check_header(cells)
        return table

    @property
    def ignored(self) -> tuple[str, ...]:
        """Names of columns that are not read."""
        return tuple(name for name in self.names if name and name not in self.columns.known)

    def __iter__(self) -> Iterator[Row]:
        """Yields rows; those of empty cells are passed over.

        Raises:
            UsageError: A row has more cells or fewer than there are columns, or it is no table.
        """
        comment, columns = self.columns.comment, len(self.names)
        with open_text(self.path) as file:
            for _ in range(self.num_lines):
                file.readline()
            for line, cells in self._lines(file):
                if not any(cells) or (comment and cells[0].startswith(comment)):
                    continue
                row = Row(
                    self.path, line, dict(zip_longest(self.names, cells[:columns], fillvalue=""))
                )
                if any(cells[columns:]) or (self.columns.whole and len(cells) < columns):
                    name = _DIVIDERS.get(self.divider, "divider")
                    quote = f'quote cells that contain a {name}: "a{self.divider} b"'
                    raise row.error(
                        f"{len(cells)} cells for {columns} columns", self.columns.hint or quote
                    )
                yield row

    def _lines(self, file: TextIO) -> Iterator[tuple[int, list[str]]]:
        if self.divider == " ":
            yield from ((number, line.split()) for number, line in enumerate(file, start=1))
            return
        reader = csv.reader(file, delimiter=self.divider, skipinitialspace=True)
        try:
            for cells in reader:
                yield self.num_lines + reader.line_num, [cell.strip() for cell in cells]
        except csv.Error as error:
            raise _no_table(self.path, self.num_lines + reader.line_num, error) from None

    def _check_header(self, cells: Sequence[str]) -> None:
        """Raises UsageError for absent and doubled columns and for names that are nearly right."""
        for column in self.columns.known:
            both = [cell for cell, name in zip(cells, self.names, strict=True) if name == column]
            if len(both) > 1:
                raise UsageError(
                    f"{self.path} has the column {column!r} more than once: {', '.join(both)}",
                    "take one of them out, or rename it",
                )
        absent = [column for column in self.columns.required if column not in self.names]
        if absent:
            raise UsageError(
                f"{self.path} has no column {', '.join(map(repr, absent))}",
                self.columns.hint or nearest_hint(absent[0], list(filter(None, cells))),
            )
        optional = [column for column in self.columns.optional if column not in self.names]
        meant = {column: column for column in optional}
        meant |= {other: to for other, to in self.columns.aliases.items() if to in optional}
        for name in self.ignored:
            plain = name.lower()
            word = re.split(r"[^a-z]", plain)[0]  # start_s, fold_id
            near = difflib.get_close_matches(plain, list(meant), n=1, cutoff=_NEAR)
            if word in meant or near:
                right = meant[word if word in meant else near[0]]
                raise UsageError(
                    f"{self.path} has a column {name!r}, which is no column that is known",
                    f"if it is {right!r}, call it so; if not, call it otherwise or take it out",
                )


def _no_table(path: Path, line: int, error: csv.Error) -> UsageError:
    return UsageError(f"{path}, line {line}: not a csv table ({error})", "write or fetch it again")


def _find_divider(header: str, columns: Columns) -> str:
    """Returns the divider with which the required columns are found.

    Nothing else counts, so that a comma in a label is never taken for one. If none finds them,
    it is the one that divides most columns, and messages name these.
    """
    names = {divider: list(map(columns.name, _split(header, divider))) for divider in _DIVIDERS}
    return next(
        (divider for divider, found in names.items() if set(columns.required) <= set(found)),
        max(names, key=lambda divider: len(names[divider])),
    )


def _split(line: str, divider: str) -> list[str]:
    return next(csv.reader([line], delimiter=divider, skipinitialspace=True), [])


def read_json(path: Path) -> Any:
    """Returns the JSON document in ``path``.

    Raises:
        UsageError: It is none.
    """
    with open_text(path) as file:
        text = file.read()
    try:
        return json.loads(text)
    except ValueError as error:
        raise UsageError(f"{path} is not JSON: {error}", "fetch or write it again") from error


def json_rows(path: Path, entries: Sequence[Any], columns: Columns) -> Iterator[Row]:
    """Yields the objects of a JSON list as rows.

    Raises:
        UsageError: An entry is no object with a text in each required column.
    """
    for number, entry in enumerate(entries):
        row = Row(path, number, entry, "entry")
        try:
            cells = {name: entry[name].strip() for name in columns.required}
        except (KeyError, TypeError, AttributeError) as error:
            raise row.error(
                f"has no text {' and '.join(columns.required)} ({error!r})", columns.hint
            ) from error
        yield row._replace(cells=cells)


@dataclass
class NumberedClasses:
    """Classes that a table numbers row by row; their numbers are their order.

    Attributes:
        by_number: Name of each number.
        by_name: Number of each name.
    """

    by_number: dict[int, str] = field(default_factory=dict)
    by_name: dict[str, int] = field(default_factory=dict)

    def add(self, number: int, name: str, row: Row) -> None:
        """Adds the class of one row.

        Raises:
            UsageError: The number belongs to another name, or the name to another number.
        """
        named = self.by_number.setdefault(number, name)
        numbered = self.by_name.setdefault(name, number)
        if (named, numbered) != (name, number):
            before = f"{number} is {named!r}" if named != name else f"{name!r} is {numbered}"
            raise row.error(
                f"class {number} is {name!r}, but above class {before}",
                "a class has one number and one name: correct the rows, or fetch the table again",
            )

    @property
    def names(self) -> list[str]:
        """All names in the order of their numbers."""
        return [self.by_number[number] for number in sorted(self.by_number)]
