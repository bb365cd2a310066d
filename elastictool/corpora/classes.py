"""Reads the names and numbers of classes: from tables, from lists of names, from labels."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from elastictool.corpora.tables import Columns, Lines, Row, Table
from elastictool.utils.csv_files import from_text
from elastictool.utils.errors import UsageError
from elastictool.utils.io import composed, open_text
from elastictool.utils.registry import nearest_hint

CLASS_TABLE = "class_labels_indices.csv"
"""The classes of AudioSet and of AST-family lists in their order."""
CLASS_TABLES = "*class_labels_indices*.csv"
"""Names of the AST repositories' tables: ``esc_class_labels_indices.csv`` and the like."""
_CLASS_COLUMNS = Columns(
    ("index", "mid", "display_name"), hint=f"take {CLASS_TABLE} as it is published"
)


def read_names(path: Path) -> list[str]:
    """Reads the names of classes in their order, one a line; empty lines are skipped.

    Raises:
        UsageError: It is no text, or a name stands there twice.
    """
    numbers: dict[str, int] = {}
    with open_text(path) as file:
        for line in (lines := Lines(file, path)):
            name = line.strip()
            if first := numbers.get(name):
                raise UsageError(
                    f"{path}, line {lines.number}: {name!r} is in line {first} already",
                    "a class has one line: take the other out",
                )
            if name:
                numbers[name] = lines.number
    return list(numbers)


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
        classes = [(row.cells["mid"], from_text(row.cells["display_name"])) for row in rows]
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
        if same := [name for name in self.names if composed(name) == composed(label)]:
            return same[0]
        known = list(self.by_mid) if label.startswith("/") else self.names
        nearest = difflib.get_close_matches(label, known, n=10, cutoff=0.0)
        raise UsageError(
            f"{source}: the label {label!r} is not in {self.path}", nearest_hint(label, nearest)
        )
