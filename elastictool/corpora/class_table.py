"""``class_labels_indices.csv``: the classes of AudioSet and of AST-family lists in their order."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from elastictool.corpora.tables import Columns, Table
from elastictool.utils.errors import UsageError
from elastictool.utils.registry import nearest_hint

CLASS_TABLE = "class_labels_indices.csv"
CLASS_TABLES = "*class_labels_indices*.csv"
"""Names of the AST repositories' tables: ``esc_class_labels_indices.csv`` and the like."""
COLUMNS = Columns(("index", "mid", "display_name"), hint=f"take {CLASS_TABLE} as it is published")
_SHOWN = 10


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
        body = [
            (row.number_in("index", COLUMNS.hint), row.cells["mid"], row.cells["display_name"])
            for row in Table.open(path, COLUMNS)
        ]
        body.sort(key=lambda row: row[0])
        if max(Counter(name for _, _, name in body).values(), default=1) > 1:
            body = [(index, mid, f"{name} ({mid})") for index, mid, name in body]
        return cls([name for *_, name in body], {mid: name for _, mid, name in body}, path)

    @classmethod
    def of_labels(cls, labels: Iterable[str]) -> ClassTable:
        """Returns a table of the labels themselves, in alphabetical order."""
        names = sorted(set(labels))
        return cls(names, {name: name for name in names})

    def knows(self, label: str) -> bool:
        """Whether ``label`` is one of the identifiers or names."""
        return label in self.by_mid or label in self.names

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
        nearest = difflib.get_close_matches(label, known, n=_SHOWN, cutoff=0.0)
        raise UsageError(
            f"{source}: the label {label!r} is not in {self.path}", nearest_hint(label, nearest)
        )
