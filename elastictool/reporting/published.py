"""Read the published numbers of the papers.

Source: the authors' evaluation notebooks (ElasticAST, Figures 4 and 5) and the papers' text
(FlexiAST, Table 1; ElasticAST, Table 1, left). Everything else is published as a picture only: an
empty cell, or no table at all, is shown as "figure only" and never estimated.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources

from elastictool.utils.errors import UsageError

FIGURE_ONLY = "figure only"
SOURCES = {
    "elasticast_fig4_voxceleb": "authors' evaluation notebook, ElasticAST Figure 4",
    "elasticast_fig4_epic_sounds": "authors' evaluation notebook, ElasticAST Figure 4",
    "elasticast_fig5_audioset": "authors' evaluation notebook, ElasticAST Figure 5",
    "elasticast_fig5_vggsound": "authors' evaluation notebook, ElasticAST Figure 5",
    "elasticast_table1_token_usage": "ElasticAST Section 3.6 and Table 1, left",
    "flexiast_table1": "FlexiAST Table 1",
}
"""Source of each table."""
OWN_COLUMNS: Mapping[str, float] = {
    **{f"AST-{n}": n for n in (400, 1_024, 1_600)},
    **{f"AST-{10 * n}ms": n for n in (1, 2, 3, 4)},
    **{f"AST-B/{n}": n for n in (8, 16, 32)},
}
"""Settings of the published models: frames, compression, patch size."""
_NATIVE, _CAP_FRAMES = "ElasticAST", 3_072
_COLUMNS = ("length_frames", "compression", "patch_size")
_SCORES = ("top1", "mAP", "score")


@cache
def _rows(table: str) -> list[dict[str, str]]:
    if table not in SOURCES:
        raise UsageError(f"there are no published numbers {table!r}", f"of: {', '.join(SOURCES)}")
    file = resources.files("elastictool.reporting") / "published" / f"{table}.csv"
    return list(csv.DictReader(file.read_text("utf-8").splitlines()))


def published_curves(table: str, dataset: str = "") -> dict[str, dict[float, float]]:
    """Returns scores (0 to 1) by model and column (frames, compression or patch size).

    Args:
        table: Out of ``SOURCES``.
        dataset: Which rows, where a table holds several data sets.

    Raises:
        UsageError: There is no such table, or nothing of that data set in it.
    """
    curves: dict[str, dict[float, float]] = {}
    for row in _rows(table):
        column = next(row[name] for name in _COLUMNS if name in row)
        score = next(row[name] for name in _SCORES if name in row)
        if score and (not dataset or row["dataset"] == dataset):
            curves.setdefault(row["model"], {})[float(column)] = float(score)
    if not curves:
        raise UsageError(f"{table} has nothing published for {dataset!r}")
    return curves


def published_metric(table: str, dataset: str = "") -> str:
    """Returns the metric of a table's scores, a key of ``METRIC_LABELS``.

    Raises:
        UsageError: There is no such table.
    """
    row = next(row for row in _rows(table) if not dataset or row["dataset"] == dataset)
    name = next(name for name in _SCORES if name in row)
    return (row["metric"] if name == "score" else name).lower()


def own_score(model: str, points: Sequence[Sequence[float]]) -> float | None:
    """Returns a published model's score at its own setting, from its (column, score) pairs.

    For ElasticAST's native lengths that is the longest column, the cap, from which on nothing is
    cut.
    """
    wanted = OWN_COLUMNS.get(model)
    if model == _NATIVE and points and points[-1][0] == _CAP_FRAMES:
        wanted = _CAP_FRAMES
    return next((y for x, y in points if x == wanted), None)


def published_tokens(dataset: str = "VoxCeleb") -> dict[str, tuple[float | None, float | None]]:
    """Returns padding and cut in percent by model; None if published as a picture only."""
    return {
        row["model"]: (
            float(row["padding_percent"]) if row["padding_percent"] else None,
            float(row["cut_percent"]) if row["cut_percent"] else None,
        )
        for row in _rows("elasticast_table1_token_usage")
        if row["dataset"] == dataset
    }


def token_words(shares: Mapping[str, Sequence[float | None]], unit: str = "") -> str:
    """Returns padding and cut of each model as ``AST: padding 12.5, cut figure only``."""
    texts = {
        model: [FIGURE_ONLY if share is None else f"{share:.1f}{unit}" for share in pair]
        for model, pair in shares.items()
    }
    return "; ".join(f"{model}: padding {pad}, cut {cut}" for model, (pad, cut) in texts.items())
