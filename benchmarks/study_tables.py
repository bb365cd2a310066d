"""Curves, tables, verdicts and figures of a study, from its committed numbers alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import t as student_t

from elastictool.evaluation.points import AXES
from elastictool.reporting.claims import Claim, Verdict, judge
from elastictool.reporting.figures import series_styles, styled
from elastictool.reporting.tables import duration, markdown_table

WAYS = {
    "positions": {"interpolate": "", "slice": "positions sliced"},
    "resize": {"pi": "PI", "bl": "BL"},
    "along": {"both": "both axes", "time": "along time", "frequency": "along frequency"},
}
"""What curves of one model are told apart by, where it was evaluated in several ways."""


MANY_RUNS = 2
"""Up to so many runs a figure shows their range; an interval over two means nothing."""


@dataclass(frozen=True)
class Curve:
    """One model evaluated in one way: values over its runs (seeds or folds).

    Attributes:
        label: Model, and the way where there are several.
        own: Values at the native or own length, patch size or resolution.
        at: Values at each column.
        seconds: Training times; a run that was paused while it trained has none.
    """

    label: str
    own: list[float]
    at: dict[float, list[float]]
    seconds: list[float]


def curves(study: dict[str, Any]) -> list[Curve]:
    """All curves of a study, models in the study's order; baselines last."""
    found: dict[str, Curve] = {}
    for run in study["runs"]:
        several = {name for name in WAYS if len({p.get(name) for p in run["points"]}) > 1}
        for point in run["points"]:
            label = _label(run["model"], {name: point[name] for name in sorted(several)})
            curve = found.setdefault(label, Curve(label, [], {}, []))
            if point["native"]:
                curve.own.append(point["value"])
                if run["train_seconds"] is not None:
                    curve.seconds.append(run["train_seconds"])
            else:
                column = point.get("setting", point["length_frames"])
                curve.at.setdefault(column, []).append(point["value"])
    return [*found.values(), *_baseline_curves(study)]


def _label(model: str, way: dict[str, str]) -> str:
    """``AST (BL)``; just the model where its way is the usual one."""
    words = ", ".join(text for name, value in way.items() if (text := WAYS[name][value]))
    return f"{model} ({words})" if words else model


def verdicts(study: dict[str, Any]) -> list[Verdict]:
    """What became of the study's claims, judged on the means over its runs."""
    means = {c.label: {x: float(np.mean(v)) for x, v in c.at.items()} for c in curves(study)}
    return [judge(Claim(**claim), means) for claim in study["claims"]]


def claim_lines(study: dict[str, Any]) -> str:
    """The verdicts as a list, each with its source."""
    lines = []
    for verdict in verdicts(study):
        words = verdict.words.replace("does not hold", "**does not hold**")
        lines.append(f"- {words}. {verdict.claim.source}.\n")
    return "".join(lines)


def _baseline_curves(study: dict[str, Any]) -> list[Curve]:
    found: dict[str, Curve] = {}
    for fold in study["baselines"]:
        for point in fold["points"]:
            curve = found.setdefault(point["model"], Curve(point["model"], [], {}, []))
            value = point["metrics"]["top1"]
            if point["length_frames"] is None:
                curve.own.append(value)
            else:
                curve.at.setdefault(point["length_frames"], []).append(value)
    return list(found.values())


def mean_and_half_width(values: Sequence[float]) -> tuple[float, float]:
    """Mean over runs and half of its 95 % t interval (0 for one run)."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, 0.0
    error = float(np.std(values, ddof=1)) / len(values) ** 0.5
    return mean, float(student_t.ppf(0.975, len(values) - 1)) * error


def cell(values: Sequence[float] | None) -> str:
    """``93.3 ± 0.5`` in percent; of a run or two the mean alone."""
    if not values:
        return "–"
    mean, half = mean_and_half_width(values)
    return f"{100 * mean:.1f}" + (f" ± {100 * half:.1f}" if len(values) > MANY_RUNS else "")


def main_table(study: dict[str, Any]) -> str:
    """Own point and all columns, a row a curve."""
    swept, axis = study["columns"], AXES[study["axis"]]
    own, unit = ("native / own length", " frames") if axis.stem == "sweep" else (axis.own, "")
    columns = [
        "top-1, %" if unit else f"top-1, % by {axis.column}",
        own,
        *(f"{x:g}{unit}" for x in swept),
        "training (median)",
    ]
    rows = [
        [
            curve.label,
            cell(curve.own),
            *(cell(curve.at.get(x)) for x in swept),
            duration(float(np.median(curve.seconds))) if curve.seconds else "–",
        ]
        for curve in curves(study)
    ]
    return markdown_table(columns, rows)


def runs_table(study: dict[str, Any]) -> str:
    """Every single run at its own point and at the marked columns."""
    marked = [int(name) for name in study["marks"] if name != "native"]
    columns = ["run", "seed", "fold", "native / own", *(f"{n} frames" for n in marked)]
    rows = []
    for run in study["runs"]:
        first = {p["native"]: p for p in reversed(run["points"])}
        interpolated = [p for p in run["points"] if p["positions"] != "slice"]
        at = {p["length_frames"]: p["value"] for p in interpolated if not p["native"]}
        values = [first[True]["value"], *(at[n] for n in marked)]
        shown = [f"{100 * value:.1f}" for value in values]
        rows.append([run["model"], run["seed"], run["fold"] or "–", *shown])
    return markdown_table(columns, rows)


def mark_lines(study: dict[str, Any]) -> str:
    """In words, for each elastic model: which of the marks its mean reaches."""
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
    """Accuracy by column, mean over runs with its interval; the own point's in the legend.

    Of resolutions only interpolated positions are drawn: eight lines of ASTs are no picture. The
    tables have the sliced ones.
    """
    hidden = WAYS["positions"]["slice"] if study["axis"] == "resolution" else None
    shown = [c for c in curves(study) if c.at and not (hidden and hidden in c.label)]
    styles = series_styles(curve.label for curve in shown)
    axis = AXES[study["axis"]]
    with styled():
        figure = Figure(figsize=(7.4, 4.3), layout="constrained")
        axes = figure.subplots()
        for curve in shown:
            style = styles[curve.label]
            columns = sorted(curve.at)
            stats = [mean_and_half_width(curve.at[x]) for x in columns]
            means = 100 * np.array([mean for mean, _ in stats])
            halves = 100 * np.array([half for _, half in stats])
            axes.plot(
                columns,
                means,
                style.line,
                color=style.colour,
                marker=style.marker,
                label=f"{curve.label} (own {100 * float(np.mean(curve.own)):.1f})",
            )
            if len(curve.own) > MANY_RUNS:
                low, high = means - halves, means + halves
                axes.fill_between(columns, low, high, color=style.colour, alpha=0.12, lw=0)
            else:
                values = 100 * np.array([curve.at[x] for x in columns])
                axes.vlines(columns, values.min(1), values.max(1), color=style.colour, lw=0.8)
        if study["axis"] != "resolution":
            axes.set_xscale("log", base=2)
        axes.set_xticks(study["columns"], [f"{x:g}" for x in study["columns"]], fontsize=8)
        axes.minorticks_off()
        axes.set_xlabel("length at test time, frames" if axis.stem == "sweep" else axis.label)
        axes.set_ylabel("top-1 accuracy, %")
        axes.set_title(study["title"])
        figure.legend(loc="outside lower center", ncols=2, fontsize=8)
    return figure
