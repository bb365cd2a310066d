"""``class_labels_indices.csv``: the classes of AudioSet and of AST-family lists in their order."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from elastictool.corpora.tables import table_rows
from elastictool.utils.errors import UsageError
from elastictool.utils.registry import nearest_hint

CLASS_TABLE = "class_labels_indices.csv"
CLASS_TABLES = "*class_labels_indices*.csv"
"""What the AST repositories call theirs: ``esc_class_labels_indices.csv`` and the like."""
_HEADER = ["index", "mid", "display_name"]
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
        """The table at ``path``; names that several classes have are told apart by identifier.

        Raises:
            UsageError: It is no such table.
        """
        hint = f"take {CLASS_TABLE} as it is published"
        rows = table_rows(path)
        _, header = next(rows, (0, []))
        if [name.strip() for name in header[:3]] != _HEADER:
            raise UsageError(f"{path} does not begin with {','.join(_HEADER)}", hint)
        body: list[tuple[int, str, str]] = []
        for line, cells in rows:
            if len(cells) < 3 or not cells[0].strip().isdecimal():
                raise UsageError(
                    f"{path}, line {line}: {','.join(cells)!r} is not a number, an identifier and "
                    "a name",
                    hint,
                )
            body.append((int(cells[0]), cells[1], cells[2]))
        body.sort(key=lambda row: row[0])
        if max(Counter(name for _, _, name in body).values(), default=1) > 1:
            body = [(index, mid, f"{name} ({mid})") for index, mid, name in body]
        return cls([name for *_, name in body], {mid: name for _, mid, name in body}, path)

    @classmethod
    def of_labels(cls, labels: Iterable[str]) -> ClassTable:
        """Without a table: the labels themselves, in alphabetical order."""
        names = sorted(set(labels))
        return cls(names, {name: name for name in names})

    def knows(self, label: str) -> bool:
        """Whether ``label`` is one of the identifiers or names."""
        return label in self.by_mid or label in self.names

    def name(self, label: str, source: Path) -> str:
        """The class of ``label``, which is an identifier or a class's name.

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
