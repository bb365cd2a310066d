"""Build the result document of a recipe: measured and published curves, verdicts, conditions.

Figure, table and ``docs/reproducing.md`` are made from this document alone. Scores are shares (0
to 1). If a run was trained several times (seeds, folds), a point is the mean with its 95 % t
interval, for two trainings with their range; for one training the interval is the bootstrap's
over clips.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from elastictool import __version__
from elastictool.config.coerce import from_dict
from elastictool.evaluation.points import AXES, SweepPoint, read_points
from elastictool.metrics.table import METRIC_LABELS, can_fail
from elastictool.recipes.plan import DURATIONS, EVALUATION, MARKER, POINTS, TOKENS, Step
from elastictool.reporting.claims import OWN, Claim, judge
from elastictool.reporting.published import (
    FIGURE_ONLY,
    SOURCES,
    own_score,
    published_curves,
    published_metric,
    published_tokens,
)
from elastictool.reporting.tables import RESIZE_LABELS, read_json
from elastictool.utils.io import finite

Document = dict[str, Any]
OWN_METRICS = ("top1", "top5", "mean_class_accuracy", "map")


def make_result(plot: Step) -> Document:
    """Returns the document of a plot step whose inputs are finished."""
    settings = plot.settings
    keys = ("recipe", "scale", "title", "shows", "description", "data")
    result = {
        **{key: settings[key] for key in keys},
        **_panels(plot),
        "published": _published(settings["published"]),
        "verdicts": [{"claim": claim} for claim in settings["claims"]],
        "evaluations": _evaluations(plot),
        "made": _made(plot),
    }
    return with_verdicts(result)


def with_verdicts(result: Document) -> Document:
    """Returns the document with the verdicts on its claims computed anew."""
    curves: dict[str, dict[float, float]] = {}
    panels, published = result.get("panels", []), result["published"]["curves"]
    for panel in panels:  # claims name a curve after its panel if there are several
        for curve in panel["curves"]:
            label = f"{panel['name']}: {curve['label']}" if len(panels) > 1 else curve["label"]
            curves[label] = {p["x"]: p["value"] for p in curve["points"]}
            if curve["own"]:
                curves[label + OWN] = {0.0: curve["own"]["value"]}
    published_curves: dict[str, dict[float, float]] = {}
    if result["scale"] == "paper":
        for name, points in published.items():
            published_curves[name] = dict(points)
            if (own := own_score(name, points)) is not None:
                published_curves[name + OWN] = {0.0: own}
    verdicts = []
    for document in (verdict["claim"] for verdict in result["verdicts"]):
        claim = from_dict(Claim, document)
        mine, papers = judge(claim, curves), judge(claim, published_curves)
        verdicts.append(
            {
                "claim": document,
                "holds": mine.holds,
                "words": mine.words,
                "source": claim.source,
                "published_holds": papers.holds,
                "published_words": papers.words if papers.holds is not None else "",
            }
        )
    return result | {"verdicts": verdicts}


def _panels(plot: Step) -> Document:
    """Returns what is drawn: curves of sweeps, curves of padding, or histograms."""
    if "durations" in plot.reads:
        return read_json(plot.reads["durations"] / DURATIONS)  # type: ignore[no-any-return]
    tokens = {
        role.partition(":")[2]: read_json(path / TOKENS)
        for role, path in plot.reads.items()
        if role.startswith("tokens:")
    }
    panels = [_token_panel(name, plot.settings["data"][name], r) for name, r in tokens.items()]
    return {"panels": panels or [_sweep_panel(plot)]}


def _sweep_panel(plot: Step) -> Document:
    points: dict[str, list[SweepPoint]] = {}
    published: dict[str, str] = {}
    for role, path in plot.reads.items():
        if not role.startswith("sweep:"):
            continue
        found = read_points(path / POINTS)
        variants = {(point.run, point.resize) for point in found}
        for point in found:
            label = plot.settings["labels"][_run_name(point.run)]
            several = sum(run == point.run for run, _ in variants) > 1
            suffix = f", {RESIZE_LABELS[point.resize]}" if several else ""
            points.setdefault(label["label"] + suffix, []).append(point)
            published[label["label"] + suffix] = label["published"] + suffix
    curves = []
    for label, some in points.items():
        own = [point for point in some if point.native]
        by_x: dict[float, list[SweepPoint]] = {}
        for point in sorted((p for p in some if not p.native), key=lambda p: p.x):
            by_x.setdefault(point.x, []).append(point)
        curves.append(
            {
                "label": label,
                "published_label": published[label],
                "points": [mean_point(x, same) for x, same in by_x.items()],
                "own": mean_point(own[0].x, own),
            }
        )
    every = [point for some in points.values() for point in some]
    first = every[0]
    axis = AXES[first.axis]
    bases = [p.shift_ms / p.x for p in every] if first.axis == "resolution" else []
    return {
        "name": "",
        "title": next(iter(plot.settings["data"].values())),
        "axis": first.axis,
        "x": axis.label,
        "column": axis.column,
        "own": axis.own,
        "metric": first.metric,
        "y": METRIC_LABELS[first.metric],
        "clips": sum(p.clips for p in next(iter(points.values())) if p.native),
        "groups": max(p.groups for p in every),
        "shift_ms": _common(p.shift_ms for p in every),
        "base_shift_ms": _common(bases),
        "curves": curves,
    }


def _common(shifts: Iterable[float]) -> float | None:
    """Returns the frame shift of all points (to the microsecond) if they share one."""
    distinct = {round(shift, 3) for shift in shifts}
    return distinct.pop() if len(distinct) == 1 else None


def _run_name(text: str) -> str:
    """Returns a run's name in the recipe, without seed and fold."""
    return re.sub(r"(-seed\d+)?(-fold\d+)?$", "", text)


def mean_point(x: float, points: Sequence[SweepPoint]) -> Document:
    """Returns one point of a curve: the mean over its trainings, with its interval."""
    values = [point.value for point in points]
    mean = math.fsum(values) / len(values)
    low, high = points[0].low, points[0].high
    if len(values) == 2:  # the t interval of two is nine times their deviation
        low, high = min(values), max(values)
    elif len(values) > 2:
        half = t_half_width(values)
        low, high = mean - half, mean + half
    return {
        "x": x,
        "value": round(mean, 6),
        "low": finite(round(low, 6)),
        "high": finite(round(high, 6)),
        "runs": len(values),
        "gflops": round(sum(p.gflops / p.clips for p in points) / len(points), 4),
    }


def t_half_width(values: Sequence[float]) -> float:
    """Returns half of the 95 % t interval of a mean over runs; two or more values."""
    import numpy as np
    from scipy.stats import t as student_t

    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return float(student_t.ppf(0.975, len(values) - 1)) * error


def _token_panel(name: str, title: str, report: Document) -> Document:
    """Returns padding by clips a batch; standard ASTs do not depend on it and are level lines."""
    settings = report["settings"]
    sizes, rule = sorted(settings["batch_sizes"]), settings["rule"]
    curves: dict[str, Document] = {}
    for use in report["uses"]:
        label = use["planner"] or use["model"]
        curve = curves.setdefault(
            label,
            {
                "label": label,
                "published_label": "ElasticAST" if use["planner"] == "first-come" else label,
                "cut": round(use["cut_percent"] / 100, 6),
                "points": [],
                "own": None,
            },
        )
        value = round(use["padding_percent"] / 100, 6)
        for size in [use["batch_clips"]] if use["batch_clips"] else sizes:
            curve["points"].append(
                {"x": size, "value": value, "low": None, "high": None, "runs": 1}
            )
    return {
        "name": name,
        "title": title,
        "axis": "batch_clips",
        "x": "clips a batch",
        "column": "clips a batch",
        "own": "",
        "metric": "padding",
        "y": "padding of processed tokens",
        "clips": report["clips"],
        "shift_ms": None,
        "conditions": f"cap {rule['max_frames']:,} frames ({report['beyond_cap_percent']:.1f} % "
        f"of all frames lie beyond it and count nowhere), last patch: {rule['edge']}, "
        f"{settings['capacity']:,} tokens a row",
        "curves": list(curves.values()),
    }


def _published(spec: Mapping[str, str] | None) -> Document:
    if spec is None:
        return {"note": FIGURE_ONLY, "source": "", "metric": "", "curves": {}, "tokens": {}}
    table, about = spec["table"], {"note": spec["title"], "source": SOURCES[spec["table"]]}
    if table.endswith("token_usage"):
        shares = published_tokens(spec["dataset"])
        tokens = {model: list(pair) for model, pair in shares.items()}
        return about | {"metric": "padding", "curves": {}, "tokens": tokens}
    curves = published_curves(table, spec["dataset"])
    points = {m: [[x, y] for x, y in sorted(c.items())] for m, c in curves.items()}
    metric = published_metric(table, spec["dataset"])
    return about | {"metric": metric, "curves": points, "tokens": {}}


def _evaluations(plot: Step) -> dict[str, Document]:
    """Returns the means of all metrics at the own setting, by label."""
    values: dict[str, dict[str, list[float]]] = {}
    labels = plot.settings["labels"]
    for role, path in plot.reads.items():
        if not role.startswith("eval:"):
            continue
        document = read_json(path / EVALUATION)
        row = values.setdefault(labels[_run_name(document["run"])]["label"], {})
        for metric in OWN_METRICS:
            value = document["metrics"].get(metric)
            if value is not None and can_fail(metric, document.get("classes", math.inf)):
                row.setdefault(metric, []).append(value)
    return {
        label: {metric: round(math.fsum(v) / len(v), 6) for metric, v in row.items()}
        for label, row in values.items()
    }


def _made(plot: Step) -> Document:
    """Returns command, date, versions, machine and training time."""
    markers = [read_json(path / MARKER) for path in plot.reads.values()]
    trained = [marker for marker in markers if marker["kind"] == "train"]
    machine: Document = next(
        (m["environment"] for m in [*trained, *markers] if "environment" in m), {}
    )
    settings = plot.settings
    command = f"elastictool recipe run {settings['recipe']} --scale {settings['scale']}"
    return {
        "command": command + settings["options"],
        "date": datetime.now(timezone.utc).date().isoformat(),
        "elastictool": __version__,
        "python": sys.version.split()[0],
        "torch": machine.get("torch"),
        "cpu": machine.get("cpu"),
        "gpu": machine.get("gpu"),
        "trainings": len(trained),
        "train_seconds": round(sum(m.get("seconds", 0.0) for m in trained), 1),
    }
