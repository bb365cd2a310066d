"""Make tables, verdicts and the figure of a study from its summary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from elastictool.evaluation.points import AXES
from elastictool.recipes.result import t_half_width
from elastictool.reporting.claims import Claim, judge
from elastictool.reporting.figures import SeriesStyle, series_styles, styled
from elastictool.reporting.lines import Line, Point, add_legend, draw_lines, scale_columns
from elastictool.reporting.tables import markdown_table

SLICED = "positions sliced"
WAYS = {
    "positions": {"interpolate": "", "slice": SLICED},
    "resize": {"pi": "PI", "bl": "BL"},
    "along": {"both": "both axes", "time": "along time", "frequency": "along frequency"},
}
"""Labels of the ways of evaluating a model, where there are several."""
FEW_RUNS = 2
"""Up to this many runs a range is shown; an interval over two means nothing."""


@dataclass(frozen=True)
class Curve:
    """One model evaluated in one way: values over its runs (seeds or folds).

    Attributes:
        label: Model, and the way if there are several.
        own: Values at the native or own length, patch size or resolution.
        at: Values at each column.
        tokens: Tokens of the trainings; times on shared machines cannot be compared.
        own_x: Place of the own setting among the columns; None without one.
    """

    label: str
    own: list[float]
    at: dict[float, list[float]]
    tokens: list[int]
    own_x: float | None = None


def curves(study: dict[str, Any]) -> list[Curve]:
    """Return all curves of a study, models in the study's order; baselines last."""
    found: dict[str, Curve] = {}
    for run in study["runs"]:
        several = {name for name in WAYS if len({c[name] for c in run["curves"]}) > 1}
        for one in run["curves"]:
            ways = [WAYS[name][one[name]] for name in sorted(several)]
            words = ", ".join(filter(None, ways))
            label = f"{run['model']} ({words})" if words else run["model"]
            curve = found.setdefault(label, Curve(label, [], {}, [], one["own"][0]))
            curve.own.append(one["own"][1])
            curve.tokens.append(run["train_tokens"])
            for column, value, *_ in one["points"]:
                curve.at.setdefault(column, []).append(value)
    return [*found.values(), *_baseline_curves(study)]


def claim_lines(study: dict[str, Any]) -> str:
    """Return the verdicts on the study's claims as a list, judged on the means over its runs."""
    means = {c.label: {x: float(np.mean(v)) for x, v in c.at.items()} for c in curves(study)}
    lines = []
    for claim in study["claims"]:
        verdict = judge(Claim(**claim), means)
        words = verdict.words.replace("does not hold", "**does not hold**")
        lines.append(f"- {words}. {verdict.claim.source}.\n")
    return "".join(lines)


def _baseline_curves(study: dict[str, Any]) -> list[Curve]:
    found: dict[str, Curve] = {}
    for fold in study["baselines"]:
        for point in fold["points"]:
            curve = found.setdefault(point["model"], Curve(point["model"], [], {}, []))
            value = point["top1"]
            if point["length_frames"] is None:
                curve.own.append(value)
            else:
                curve.at.setdefault(point["length_frames"], []).append(value)
    return list(found.values())


def mean_and_half_width(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean over runs and half of its 95 % t interval (0 for one run)."""
    mean = float(np.mean(values))
    return mean, t_half_width(values) if len(values) > 1 else 0.0


def cell(values: Sequence[float] | None) -> str:
    """Return ``93.3 ± 0.5`` in percent; for one or two runs the mean alone."""
    if not values:
        return "–"
    mean, half = mean_and_half_width(values)
    return f"{100 * mean:.1f}" + (f" ± {100 * half:.1f}" if len(values) > FEW_RUNS else "")


def main_table(study: dict[str, Any]) -> str:
    """Return a table of the own setting and all columns, one row a curve."""
    swept, axis = study["columns"], AXES[study["axis"]]
    own, unit = ("native / own length", " frames") if axis.stem == "sweep" else (axis.own, "")
    columns = [
        "top-1, %" if unit else f"top-1, % by {axis.column}",
        own,
        *(f"{x:g}{unit}" for x in swept),
        "training tokens",
    ]
    rows = [
        [
            curve.label,
            cell(curve.own),
            *(cell(curve.at.get(x)) for x in swept),
            f"{float(np.mean(curve.tokens)) / 1e6:.2f} M" if curve.tokens else "–",
        ]
        for curve in curves(study)
    ]
    return markdown_table(columns, rows)


def runs_table(study: dict[str, Any]) -> str:
    """Return a table of every run at its own setting and at the marked columns."""
    marked = [int(name) for name in study["marks"] if name != "native"]
    columns = ["run", "seed", "fold", "native / own", *(f"{n} frames" for n in marked)]
    rows = []
    for run in study["runs"]:
        first = run["curves"][0]
        at = {point[0]: point[1] for point in first["points"]}
        values = [first["own"][1], *(at[n] for n in marked)]
        shown = [f"{100 * value:.1f}" for value in values]
        rows.append([run["model"], run["seed"], run["fold"] or "–", *shown])
    return markdown_table(columns, rows)


def mark_lines(study: dict[str, Any]) -> str:
    """Return for each elastic model which of the study's marks its mean reaches."""
    lines = []
    for curve in curves(study):
        if not curve.label.startswith("ElasticAST"):
            continue
        parts = []
        for name, least in study["marks"].items():
            values = curve.own if name == "native" else curve.at[int(name)]
            mean = float(np.mean(values))
            verdict = "reached" if round(mean, 4) >= least else "**missed**"
            where = "native" if name == "native" else f"{name} frames"
            parts.append(f"{where} {100 * mean:.1f} against {100 * least:.0f}: {verdict}")
        lines += [f"- {curve.label}: {'; '.join(parts)}.\n"] if parts else []
    return "".join(lines)


def draw(study: dict[str, Any]) -> Figure:
    """Return the figure: accuracy by column, mean over runs with its interval.

    The legend has the score at the own setting in brackets.
    """
    shown, axis = _shown(study), AXES[study["axis"]]
    styles = series_styles(curve.label for curve in shown)
    runs = max(len(curve.own) for curve in shown)
    kind = "95 % t interval over" if runs > FEW_RUNS else "range of"
    with styled():
        figure = Figure(figsize=(7.4, 4.4 + 0.1 * len(shown)), layout="constrained")
        axes = figure.subplots()
        draw_lines(axes, [_line(curve, styles[curve.label]) for curve in shown])
        axes.set(xlabel=axis.label, ylabel="Top-1 accuracy (%)", title=study["title"])
        scale_columns(axes, study["columns"], axis.log, base_shift_ms=study["base_shift_ms"])
        interval = f"{kind} {runs} runs" if runs > 1 else ""
        add_legend(axes, f"{axis.dot} (in brackets: score)", interval)
    return figure


def _shown(study: dict[str, Any]) -> list[Curve]:
    """Return the curves of the figure: sliced positions only where they differ from interpolated.

    For resolutions only interpolated positions are drawn, because the figure has four ASTs. The
    tables have all curves.
    """
    found = {curve.label: curve for curve in curves(study) if curve.at}
    shown = []
    for label, curve in found.items():
        usual = found.get(label.removesuffix(f" ({SLICED})"), curve)
        if usual is curve:
            shown.append(curve)
        elif study["axis"] != "resolution":
            at = {x: values for x, values in curve.at.items() if values != usual.at[x]}
            shown.append(replace(curve, at=at))
    return shown


def _line(curve: Curve, style: SeriesStyle) -> Line:
    """Return the drawn curve; one of sliced positions ends in the own point of the other."""
    points = [_point(x, curve.at[x]) for x in sorted(curve.at)]
    own = None if curve.own_x is None else _point(curve.own_x, curve.own)
    if own and curve.label.endswith(f"({SLICED})"):
        return Line(curve.label, style, [*points, Point(own.x, own.value)])
    return Line(f"{curve.label} ({100 * float(np.mean(curve.own)):.1f})", style, points, own)


def _point(x: float, values: Sequence[float]) -> Point:
    """Return the mean over runs with its interval, for two runs their range, for one none."""
    mean, half = mean_and_half_width(values)
    if len(values) == 1:
        return Point(x, 100 * mean)
    ends = (mean - half, mean + half) if len(values) > FEW_RUNS else (min(values), max(values))
    return Point(x, 100 * mean, 100 * ends[0], 100 * ends[1])
