"""Read result files; format numbers and Markdown tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from elastictool.utils.errors import ElasticToolError, UsageError
from elastictool.utils.io import read_text
from elastictool.utils.text import counted

EMPTY = "–"
RESIZE_LABELS = {"pi": "PI-resize", "bl": "BL", "bl-plain": "BL without antialias"}
"""Kernel resizing methods, named as in the paper."""


def read_json(path: Path) -> Any:
    """Returns the document in a JSON result file.

    Raises:
        UsageError: There is no such file.
        ElasticToolError: It is not JSON.
    """
    try:
        return json.loads(read_text(path))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", "check the path") from error
    except (RecursionError, ValueError) as error:
        raise ElasticToolError(f"{path} is not JSON: {error}", "make the result anew") from error


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[object]], left: int = 1) -> str:
    """Returns a Markdown table, the first ``left`` columns aligned left; ``|`` is escaped."""
    lines = [columns, [*[":--"] * left, *["--:"] * (len(columns) - left)], *rows]
    return "".join(f"| {' | '.join(_cell(cell) for cell in line)} |\n" for line in lines)


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def percent(value: float | None, interval: Sequence[float | None] | None = None) -> str:
    """Returns ``93.3`` or ``93.3 (90.1–95.9)`` from shares; ``–`` without a value."""
    if value is None:
        return EMPTY
    text = f"{100 * value:.1f}"
    if interval is None:
        return text
    low, high = interval
    if low is None or high is None:
        return text
    return f"{text} ({100 * low:.1f}–{100 * high:.1f})"


FEW_GROUPS = 10
"""Below this number of groups an interval is rough (``metrics/intervals.py`` has the reason)."""


def interval_over(clips: int, groups: int = 0) -> str:
    """Returns what an interval is over: ``95 % interval over 24 groups``, or over clips."""
    number = counted(groups, "group") if groups else counted(clips, "clip")
    return f"95 % interval over {number}{', rough' if 0 < groups < FEW_GROUPS else ''}"


def metric_text(
    name: str, value: float | None, interval: Sequence[float | None] | None = None
) -> str:
    """Returns a metric as text: d' as it is, all others in percent."""
    from elastictool.metrics.table import is_share  # needs numpy, which start-up does not

    if is_share(name):
        return percent(value, interval)
    if value is None:
        return EMPTY
    ends = [end for end in interval or () if end is not None]
    return f"{value:.3f}" + (f" ({ends[0]:.3f}–{ends[1]:.3f})" if len(ends) == 2 else "")


def score_text(metric: str, value: float | None) -> str:
    """Returns a score as ``mAP 55.3 %``."""
    from elastictool.metrics.table import METRICS

    name = METRICS[metric].short if metric in METRICS else metric
    return EMPTY if value is None else f"{name} {percent(value)} %"


def duration(seconds: float | None) -> str:
    """Returns ``45 s``, ``3 min 20 s`` or ``2 h 05 min``."""
    if seconds is None:
        return EMPTY
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def age(seconds: float) -> str:
    """Returns a rounded time span: ``45 s``, ``20 min``, ``3 h``, ``12 d``."""
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
