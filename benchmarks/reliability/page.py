"""Fill the tables of ``docs/reliability.md`` from committed measurements.

    python -m benchmarks.reliability page            write them
    python -m benchmarks.reliability page --check    fail if the committed page has other tables

The page's text is written by hand; the tables stand between markers. Only JSON files below
``docs/results/reliability`` are read. A part without a file is listed as not measured.
"""

from __future__ import annotations

from typing import Any

from benchmarks.pages import RESULTS, ROOT, fill, made_by
from benchmarks.performance import Columns, Document, Section, read, table
from elastictool.reporting.tables import markdown_table

PAGE = ROOT / "docs" / "reliability.md"
FOLDER = RESULTS / "reliability"
TOTAL = "**all**"


def summed(document: Document, name: str, columns: Columns) -> str:
    """Return a table of rows with a last row that sums their numbers."""
    rows = document["rows"]
    total = {key: sum(row[key] for row in rows) for key, value in rows[0].items() if key != name}
    return table([*rows, {name: TOTAL, **total}], columns)


def kills(document: Document) -> str:
    """Return the kills of each command, and what was found afterwards."""
    columns = (
        ("command", "{job}"),
        ("trials", "{trials}"),
        ("kills", "{kills}"),
        ("same bytes after the last run", "{same_bytes}"),
        ("processes left over", "{orphans}"),
    )
    return summed(document, "job", columns)


def fuzz(document: Document) -> str:
    """Return what became of damaged inputs, by reader."""
    columns = (
        ("reader", "{reader}"),
        ("inputs", "{inputs:,}"),
        ("read", "{read:,}"),
        ("refused", "{refused:,}"),
        ("traceback", "{traceback}"),
        ("over 20 s", "{hang}"),
        ("over 500 MB", "{memory}"),
        ("silent loss", "{lost}"),
    )
    return summed(document, "reader", columns)


def faults(document: Document) -> str:
    """Return what commands came to under each fault."""
    columns = (
        ("fault", "{fault}"),
        ("cases", "{cases}"),
        ("done", "{done}"),
        ("ended with a message", "{refused}"),
        ("wrong", "{wrong}"),
    )
    return summed(document, "fault", columns)


def leakage(document: Document) -> str:
    """Return the cases of leakage by backend and type."""
    columns = (
        ("attention", "`{attention}`"),
        ("type", "{type}"),
        ("cases", "{cases}"),
        ("other clips changed", "{leaks}"),
        ("differs from the clip alone", "{apart}"),
        ("largest difference", "{difference:.0e}"),
    )
    return table(document["rows"], columns)


def soak(document: Document) -> str:
    """Return memory and open files over the time of a process."""
    (row,) = document["rows"]
    rows = [
        ["time", f"{row['minutes']:g} min, {row['cycles']:,} cycles"],
        ["anonymous memory after the warm-up, at the end, at most",
         f"{row['warm_mb']:,.0f}, {row['last_mb']:,.0f}, {row['peak_mb']:,.0f} MB"],
        ["slope after the warm-up", f"{row['mb_per_hour']:+.1f} MB an hour"],
        ["open files after the warm-up and at the end", " and ".join(map(str, row["files"]))],
        ["threads after the warm-up and at the end", " and ".join(map(str, row["threads"]))],
    ]  # fmt: skip
    return markdown_table(["", ""], rows)


def scale(document: Document) -> str:
    """Return time and memory of large data."""
    rows: list[dict[str, Any]] = [
        row | {"end": "done" if row["exit_code"] == 0 else f"**exit code {row['exit_code']}**"}
        for row in document["rows"]
    ]
    columns = (
        ("data", "{data}"),
        ("command", "`{command}`"),
        ("s", "{seconds:,.0f}"),
        ("most anonymous memory, MB", "{peak_anon_mb:,.0f}"),
        ("", "{end}"),
    )
    return table(rows, columns)


SECTIONS: dict[str, Section] = {
    "kills": kills,
    "fuzz": fuzz,
    "faults": faults,
    "leakage": leakage,
    "soak": soak,
    "scale": scale,
}
"""Measurements and their tables; the names are those of files and markers."""


def page() -> str:
    """Return the page with its tables as the measurements are now."""
    text = PAGE.read_text("utf-8")
    for name, section in SECTIONS.items():
        document = read(FOLDER / f"{name}.json")
        content = section(document) + made_by(document) if document else "Not measured yet.\n"
        text = fill(text, name, content)
    return text
