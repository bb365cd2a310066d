"""Writes and reads CSV files of our own, safe to open in a spreadsheet.

A spreadsheet computes cells that begin with ``=``, ``+``, ``-`` or ``@``: a label or file name
could run a command there. Such cells, numbers aside, are written with a leading apostrophe, which
spreadsheets take for "this is text" and ``read_rows`` removes.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from elastictool.utils.errors import ElasticToolError, UsageError
from elastictool.utils.io import open_file, readable, write_text

_FORMULA = re.compile(r"'*[=+\-@\t\r\n＝＋－＠]")
"""Beginning of a formula; after apostrophes too, so that those of the text itself are kept."""
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?|[+-]?(inf|nan)", re.ASCII | re.IGNORECASE)
_QUOTED = re.compile('[,"\r\n]')


def as_text(cell: str) -> str:
    """Returns a cell with a leading apostrophe if a spreadsheet would compute it."""
    computed = _FORMULA.match(cell) and not _NUMBER.fullmatch(cell)
    return f"'{cell}" if computed else cell


def from_text(cell: str) -> str:
    """Returns the cell that ``as_text`` was given."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def write_table(
    file: TextIO, columns: Sequence[str], rows: Iterable[Sequence[Any]], raw: bool = False
) -> None:
    """Writes a header and ``rows`` to ``file``.

    Args:
        file: Opened text.
        columns: Names of the columns.
        rows: Cells in the order of the columns; numbers are never formulas.
        raw: Write texts as they are.
    """
    file.write(f"{','.join(columns)}\n")
    for row in rows:
        file.write(f"{','.join(_cell(value, raw) for value in row)}\n")


def _cell(value: object, raw: bool) -> str:
    """Returns a value as it stands in the file; ``csv`` leaves a carriage return unquoted."""
    if not isinstance(value, str):
        return "" if value is None else str(value)
    text = readable(value) if raw else as_text(readable(value))
    return '"{}"'.format(text.replace('"', '""')) if _QUOTED.search(text) else text


def write_rows(
    path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]], raw: bool = False
) -> None:
    """Writes ``rows`` to ``path`` atomically; ``raw`` writes texts as they are."""
    text = io.StringIO()
    write_table(text, columns, ([row[name] for name in columns] for row in rows), raw)
    write_text(path, text.getvalue())


def read_rows(path: Path, raw: bool = False) -> list[dict[str, str]]:
    """Returns the rows of a table that ``write_rows`` wrote; ``raw``: with ``raw``, too.

    Raises:
        UsageError: It cannot be read.
        ElasticToolError: It is no table.
    """
    try:
        with io.TextIOWrapper(open_file(path), "utf-8-sig", newline="") as file:
            header, *rows = list(csv.reader(file)) or [[]]
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", "check the path") from error
    except (UnicodeError, csv.Error) as error:
        raise ElasticToolError(f"{path} is damaged: {error}", "make it anew") from error
    return [
        dict(zip(header, row if raw else map(from_text, row), strict=False)) for row in rows if row
    ]
