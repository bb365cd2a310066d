"""Reads tables: finds the divider, checks rows, names them in errors.

Published tables and those of users come as csv, tsv or lists with spaces, with a header or
without. Spreadsheets add a byte order mark, semicolons, a line ``sep=;`` and empty rows, pandas
unnamed columns: none of that stops the reading. A table that would lose something in silence is an
error: a column twice, one whose name is nearly that of an absent one, a row that is cut off or has
cells without a column, a quote that takes in the rows below it. Messages name the file and the row.
"""

from __future__ import annotations

import csv
import difflib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from elastictool.utils.errors import UsageError
from elastictool.utils.io import as_argument, open_text, readable

_DIVIDERS = {",": "comma", ";": "semicolon", "\t": "tab"}
_BLANK = " \r\n" + "".join(_DIVIDERS)
_DIVIDER_LINE = re.compile(r"sep=(.)", re.IGNORECASE)
_NEAR = 0.81
"""``folds`` is near ``fold``, and ``folder`` is not."""
MOST_DIGITS = 9
"""Digits of numbers of classes and folds, which are stored with 32 bits."""
_LONGEST = 1 << 20
"""Characters of a line: a longer one is of no table, and would fill the memory."""


class Row(NamedTuple):
    """One row of a table.

    Attributes:
        table: The file.
        number: Line in the file, from 1.
        cells: Text by column, without spaces around it.
    """

    table: Path
    number: int
    cells: Mapping[str, str]

    def __str__(self) -> str:
        return f"{self.table}, line {self.number}"

    def error(self, what: str, hint: str) -> UsageError:
        """Returns an error with the file and line of the row."""
        return UsageError(f"{self}: {what}", hint)

    def number_in(self, column: str, hint: str) -> int:
        """Returns the whole number of up to ``MOST_DIGITS`` in ``column``.

        Raises:
            UsageError: It is none.
        """
        text = self.cells[column]
        if not text.isdecimal() or len(text) > MOST_DIGITS:
            raise self.error(f"{column} {text!r} is not a whole number", hint)
        return int(text)


class Lines:
    """Iterates over the lines of an opened text, counts them, and keeps those of one record.

    Attributes:
        number: Lines read so far.
        record: Lines since it was last cleared.
    """

    def __init__(self, file: TextIO, path: Path) -> None:
        self._file, self._path = file, path
        self.number = 0
        self.record: list[str] = []

    def __iter__(self) -> Lines:
        return self

    def __next__(self) -> str:
        """Returns the next line.

        Raises:
            UsageError: It is no line of a text.
        """
        line = self._file.readline(_LONGEST)
        if not line:
            raise StopIteration
        self.number += 1
        if len(line) == _LONGEST:
            raise UsageError(
                f"{self._path}, line {self.number}: is longer than {_LONGEST:,} characters",
                "check that the file is a text with line breaks",
            )
        self.record.append(line)
        return line


def _is_plain(line: str) -> bool:
    """Returns whether a line holds no NUL, and closes all quotes that it opens."""
    return "\0" not in line and line.count('"') % 2 == 0


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
        comment: Beginning of rows that are skipped.
        hint: What to do about a table that is not as it should be; empty for one that the user
            has written.
        called: What the user says that columns are called in this table.
        options: Columns whose names the user can give, as ``--path-column``.
    """

    required: tuple[str, ...]
    optional: tuple[str, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    header: bool = True
    whole: bool = True
    divider: str = ","
    comment: str = ""
    hint: str = ""
    called: Mapping[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ()

    @property
    def known(self) -> tuple[str, ...]:
        """Names of all columns that are read."""
        return (*self.required, *self.optional)

    def name(self, cell: str) -> str:
        """Returns the column that a header's ``cell`` names: a known one in any case, or itself.

        A known name that the user has given to another column names none.
        """
        lower = cell.strip().lower()
        for column, called in self.called.items():
            if called.strip().lower() == lower:
                return column
        plain = self.aliases.get(lower, lower)
        if plain in self.called:
            return ""
        return plain if plain in self.known else cell.strip()


class Table:
    """A table whose header has been read; iterating over it yields its rows.

    Attributes:
        path: The file.
        columns: What was asked for.
        names: Name of each cell's column, in order; empty for cells without one.
    """

    def __init__(self, path: Path, columns: Columns) -> None:
        """Reads the header, if there is one.

        Raises:
            UsageError: It is no table, or a column is absent, doubled, or nearly called like one
                that is absent.
        """
        self.path, self.columns = path, columns
        self.names, self._divider, self._num_lines = columns.required, columns.divider, 0
        if columns.header:
            self._read_header()

    @property
    def ignored(self) -> tuple[str, ...]:
        """Names of columns that are not read."""
        return tuple(name for name in self.names if name and name not in self.columns.known)

    def __iter__(self) -> Iterator[Row]:
        """Yields rows; those of empty cells are skipped.

        Raises:
            UsageError: A row has more cells or fewer than there are columns, or it is no table.
        """
        asked, num_columns = self.columns, len(self.names)
        with open_text(self.path) as file:
            lines = Lines(file, self.path)
            for _ in range(self._num_lines):
                next(lines)
            for line, cells in self._records(lines):
                if not any(cells) or (asked.comment and cells[0].startswith(asked.comment)):
                    continue
                if any(cells[num_columns:]) or (asked.whole and len(cells) < num_columns):
                    name = _DIVIDERS.get(self._divider, "divider")
                    quote = f'quote cells that contain a {name}: "a{self._divider} b"'
                    raise UsageError(
                        f"{self.path}, line {line}: {len(cells)} cells for {num_columns} columns",
                        asked.hint or quote,
                    )
                by_name = dict(zip_longest(self.names, cells[:num_columns], fillvalue=""))
                row = Row(self.path, line, by_name)
                if len(lines.record) > 1 or not _is_plain(lines.record[0]):
                    self._check_record(row, lines.record)
                yield row

    def _records(self, lines: Lines) -> Iterator[tuple[int, list[str]]]:
        """Yields the first line of each record, and its cells."""
        lines.record.clear()
        if self._divider == " ":
            for line in lines:
                yield lines.number, line.split()
                lines.record.clear()
            return
        reader = csv.reader(lines, delimiter=self._divider, skipinitialspace=True)
        while True:
            first = lines.number + 1
            try:
                cells = next(reader, None)
            except csv.Error as error:
                raise self._malformed(first, lines, error) from None
            if cells is None:
                return
            yield first, [cell.strip() for cell in cells]
            lines.record.clear()

    def _check_record(self, row: Row, record: Sequence[str]) -> None:
        """Raises UsageError if a quote takes in rows, or a cell that is read has no plain text."""
        options: Any = {"delimiter": self._divider, "skipinitialspace": True}
        try:
            list(csv.reader(record, strict=True, **options))
        except csv.Error:
            raise self._open_quote(row.number) from None
        for column in self.columns.known:
            text = row.cells.get(column, "")
            if "\n" in text or "\r" in text:
                raise row.error(
                    f"{column} {readable(text)!r} contains a line break",
                    self.columns.hint
                    or "write it on one line, or close the quote before the break",
                )
            if "\0" in text and column not in self.columns.required[:1]:  # such a file is missing
                raise row.error(
                    f"{column} {text!r} contains a NUL character", "take it out, and save as UTF-8"
                )
        if any(len(cells) >= len(self.names) > 1 for cells in csv.reader(record[1:], **options)):
            raise self._open_quote(row.number)

    def _open_quote(self, line: int) -> UsageError:
        return UsageError(
            f"{self.path}, line {line}: a quote is opened that does not close in this row",
            self.columns.hint or 'close it, or write a quote that belongs to a cell twice: """"',
        )

    def _malformed(self, first: int, lines: Lines, error: csv.Error) -> UsageError:
        """Returns the error for a record from line ``first`` on that is no row of a table."""
        if lines.number > first:
            return self._open_quote(first)
        return UsageError(
            f"{self.path}, line {first}: not a csv table ({error})", "write or fetch it again"
        )

    def _read_header(self) -> None:
        """Finds the header below empty rows and ``sep=``, its divider, and the columns' names."""
        dividers = list(_DIVIDERS)
        with open_text(self.path) as file:
            for line in (lines := Lines(file, self.path)):
                self._num_lines += 1
                if "\0" in line:
                    raise UsageError(
                        f"{self.path} is not UTF-8 text: line {self._num_lines} contains NUL "
                        "characters",
                        "save it as UTF-8",
                    )
                if named := _DIVIDER_LINE.fullmatch(line.rstrip("\r\n")):
                    dividers = [named[1]]
                    if named[1] not in _DIVIDERS:
                        known = ", ".join(_DIVIDERS.values())
                        raise UsageError(
                            f"{self.path} is divided by {named[1]!r}", f"known are {known}"
                        )
                elif line.strip(_BLANK):
                    break
            else:
                raise UsageError(
                    f"{self.path} has no column {self.columns.known[0]!r}", "the table is empty"
                )
        headers: dict[str, list[str]] = {}
        try:
            for divider in dividers:
                reader = csv.reader([line], delimiter=divider, skipinitialspace=True)
                # Joined files and some programs leave a second byte order mark.
                headers[divider] = [cell.strip("\ufeff \t\r\n") for cell in next(reader, [])]
        except csv.Error as error:
            raise self._malformed(self._num_lines, lines, error) from None
        if line.count('"') % 2:
            raise self._open_quote(self._num_lines)

        def fit(divider: str) -> tuple[bool, int]:
            """Ranks the divider that finds most known columns before any other, then the first.

            So a comma in a label is never taken for one. If none finds all that are required, it
            is the one that divides most columns, and messages name these.
            """
            names = set(map(self.columns.name, headers[divider]))
            found = len(names.intersection(self.columns.known))
            complete = found > 0 and names.issuperset(self.columns.required)
            return complete, found if complete else len(headers[divider])

        self._divider = max(headers, key=fit)
        cells = headers[self._divider]
        self.names = tuple(map(self.columns.name, cells))
        self._check_header(cells)

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
            called = [self.columns.called.get(column, column) for column in absent]
            raise UsageError(
                f"{self.path} has no column {', '.join(map(repr, called))}",
                self.columns.hint or self._columns_hint(absent, cells),
            )
        unused = {name: name for name in self.columns.optional if name not in self.names}
        unused |= {name: to for name, to in self.columns.aliases.items() if to in unused}
        for name in self.ignored:
            plain = name.lower()
            word = re.split(r"[^a-z]", plain)[0]  # start_s, fold_id
            near = difflib.get_close_matches(plain, list(unused), n=1, cutoff=_NEAR)
            if meant := unused.get(word) or (unused[near[0]] if near else ""):
                option = f"--{meant}-column {as_argument(name)}"
                say = f" or say so: {option}" if meant in self.columns.options else ""
                raise UsageError(
                    f"{self.path} has a column {name!r}, which is no column that is known",
                    f"if it is {meant!r}, call it so{say}; if not, call it otherwise or take "
                    "it out",
                )

    def _columns_hint(self, absent: Sequence[str], cells: Sequence[str]) -> str:
        """Returns the columns that there are, and the options that say which one is meant."""
        hint = f"its columns are: {', '.join(map(readable, filter(None, cells)))}"
        named = [column for column in absent if column in self.columns.options]
        options = " ".join(f"--{column}-column NAME" for column in named)
        if len(cells) == 1:
            hint += f" (one: columns are divided by {' or '.join(_DIVIDERS.values())})"
        return f"{hint}; name the right ones with {options}" if options else hint


def clock_seconds(timestamp: str) -> float:
    """Returns the seconds of ``hh:mm:ss.mmm``.

    Raises:
        ValueError: It is no such timestamp.
    """
    parts = timestamp.split(":")
    if len(parts) != 3:
        raise ValueError(f"{timestamp!r} is not a timestamp hh:mm:ss.mmm")
    found = int(parts[0]) * 3600 + int(parts[1]) * 60 + float(parts[2])
    if not 0 <= found < math.inf:
        raise ValueError(f"{timestamp!r} is not a time of 0 or above")
    return found
