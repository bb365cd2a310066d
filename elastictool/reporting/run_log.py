"""Read ``metrics.jsonl`` of a run that has finished, is running, or was killed within a line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from elastictool.utils.errors import ElasticToolError
from elastictool.utils.io import open_file, parse_record

Record = dict[str, Any]


def read_log(run_dir: Path, kind: str) -> list[Record]:
    """Returns the records of one kind (``step``, ``epoch``) in order; none without a log.

    Lines that are no records are skipped: a killed run may leave half of one.

    Raises:
        ElasticToolError: The log cannot be read.
    """
    path = run_dir / "metrics.jsonl"
    try:
        with open_file(path) as file:
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ElasticToolError(f"cannot read {path}: {error.strerror}", "check it") from error
    # A long run logs hundreds of thousands of steps; a look at the text spares parsing them all.
    lines = (line for line in text.splitlines() if f'"{kind}"' in line)
    records = (parse_record(line) for line in lines)
    return [record for record in records if record and record.get("kind") == kind]


def number(record: Record, name: str) -> float | None:
    """Returns a finite number of a record, or None."""
    value = record.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if abs(value) != float("inf") and value == value else None
