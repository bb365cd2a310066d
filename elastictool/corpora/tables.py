"""Reads tables: finds the divider, checks rows, names them in errors, numbers their classes.

Published tables and those of users come as csv, tsv or lists with spaces, with a header or
without. Spreadsheets add a byte order mark, semicolons, a line ``sep=;`` and empty rows, pandas
unnamed columns: none of that stops the reading. A table that would lose something in silence is an
error: a column twice, one whose name is nearly that of an absent one, a row that is cut off or has
cells without a column. Messages name the file and the row.
"""

from __future__ import annotations

import csv
import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple, TextIO

from elastictool.utils.errors import UsageError
from elastictool.utils.io import open_text
from elastictool.utils.registry import nearest_hint

_DIVIDERS = {",": "comma", ";": "semicolon", "\t": "tab"}
_BLANK = " \r\n" + "".join(_DIVIDERS)
_DIVIDER_LINE = re.compile(r"sep=(.)", re.IGNORECASE)
_NEAR = 0.81
"""``folds`` is near ``fold``, and ``folder`` is not."""
CLASS_TABLE = "class_labels_indices.csv"
"""The classes of AudioSet and of AST-family lists in their order."""
CLASS_TABLES = "*class_labels_indices*.csv"
"""Names of the AST repositories' tables: ``esc_class_labels_indices.csv`` and the like."""


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
        comment: Beginning of rows that are skipped.
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


_CLASS_COLUMNS = Columns(
    ("index", "mid", "display_name"), hint=f"take {CLASS_TABLE} as it is published"
)


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
            for _ in range(self._num_lines):
                file.readline()
            for line, cells in self._lines(file):
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
                yield Row(self.path, line, by_name)

    def _lines(self, file: TextIO) -> Iterator[tuple[int, list[str]]]:
        if self._divider == " ":
            yield from ((number, line.split()) for number, line in enumerate(file, start=1))
            return
        reader = csv.reader(file, delimiter=self._divider, skipinitialspace=True)
        try:
            for cells in reader:
                yield self._num_lines + reader.line_num, [cell.strip() for cell in cells]
        except csv.Error as error:
            raise self._malformed(self._num_lines + reader.line_num, error) from None

    def _malformed(self, line: int, error: csv.Error) -> UsageError:
        return UsageError(
            f"{self.path}, line {line}: not a csv table ({error})", "write or fetch it again"
        )

    def _read_header(self) -> None:
        """Finds the header below empty rows and ``sep=``, its divider, and the columns' names."""
        dividers = list(_DIVIDERS)
        with open_text(self.path) as file:
            for line in iter(file.readline, ""):
                self._num_lines += 1
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
                    f"{self.path} has no column {self.columns.required[0]!r}", "the table is empty"
                )
        headers: dict[str, list[str]] = {}
        try:
            for divider in dividers:
                reader = csv.reader([line], delimiter=divider, skipinitialspace=True)
                headers[divider] = [cell.strip() for cell in next(reader, [])]
        except csv.Error as error:
            raise self._malformed(self._num_lines, error) from None

        def fit(divider: str) -> tuple[bool, int]:
            """Ranks the first divider that finds all required columns before any other.

            So a comma in a label is never taken for one. If none finds them, it is the one that
            divides most columns, and messages name these.
            """
            names = set(map(self.columns.name, headers[divider]))
            complete = names.issuperset(self.columns.required)
            return complete, 0 if complete else len(headers[divider])

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
            raise UsageError(
                f"{self.path} has no column {', '.join(map(repr, absent))}",
                self.columns.hint or nearest_hint(absent[0], list(filter(None, cells))),
            )
        unused = {name: name for name in self.columns.optional if name not in self.names}
        unused |= {name: to for name, to in self.columns.aliases.items() if to in unused}
        for name in self.ignored:
            plain = name.lower()
            word = re.split(r"[^a-z]", plain)[0]  # start_s, fold_id
            near = difflib.get_close_matches(plain, list(unused), n=1, cutoff=_NEAR)
            if meant := unused.get(word) or (unused[near[0]] if near else ""):
                raise UsageError(
                    f"{self.path} has a column {name!r}, which is no column that is known",
                    f"if it is {meant!r}, call it so; if not, call it otherwise or take it out",
                )


@dataclass
class NumberedClasses:
    """Collects the classes that a table numbers row by row; their numbers are their order.

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


@dataclass(frozen=True)
class ClassTable:
    """Class names in their published order, by machine identifier.

    Attributes:
        names: All names in order.
        by_mid: Name of each identifier.
        path: The table; None where the names are the labels themselves.
    """

    names: list[str]
    by_mid: dict[str, str]
    path: Path | None = None

    @classmethod
    def read(cls, path: Path) -> ClassTable:
        """Reads the table at ``path``; a name of several classes gets its identifier appended.

        Raises:
            UsageError: It is no such table.
        """
        rows = list(Table(path, _CLASS_COLUMNS))
        rows.sort(key=lambda row: row.number_in("index", _CLASS_COLUMNS.hint))
        classes = [(row.cells["mid"], row.cells["display_name"]) for row in rows]
        if len({name for _, name in classes}) < len(classes):
            classes = [(mid, f"{name} ({mid})") for mid, name in classes]
        return cls([name for _, name in classes], dict(classes), path)

    @classmethod
    def of_labels(cls, labels: Iterable[str]) -> ClassTable:
        """Returns a table of the labels themselves, in alphabetical order."""
        names = sorted(set(labels))
        return cls(names, {name: name for name in names})

    def name(self, label: str, source: Path) -> str:
        """Returns the class of ``label``, which is an identifier or a class's name.

        Raises:
            UsageError: There is none.
        """
        if label in self.by_mid:
            return self.by_mid[label]
        if label in self.names:
            return label
        known = list(self.by_mid) if label.startswith("/") else self.names
        nearest = difflib.get_close_matches(label, known, n=10, cutoff=0.0)
        raise UsageError(
            f"{source}: the label {label!r} is not in {self.path}", nearest_hint(label, nearest)
        )
