"""Write ``report.html``: the contents of a run directory on one page.

It is made from the result files alone, again after each command that adds to them. Missing results
are left out; a damaged result is named on the page instead of preventing it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from elastictool.checkpoint.metadata import describe_outdated
from elastictool.checkpoint.run_directory import lock_results
from elastictool.evaluation.points import AXES, read_points
from elastictool.metrics.table import METRIC_LABELS
from elastictool.reporting import html_page as html
from elastictool.reporting.evaluation_figures import plot_classes, plot_confusions
from elastictool.reporting.evaluations import (
    class_table,
    evaluation_stems,
    notes,
    read_evaluation,
    score_rows,
    value_heading,
)
from elastictool.reporting.learning_curves import plot_learning_curves
from elastictool.reporting.runs import RunSummary, changed_settings, read_config, summarise
from elastictool.reporting.tables import EMPTY, duration, interval_over, metric_text, read_json
from elastictool.utils.errors import ElasticToolError
from elastictool.utils.io import remove_temporaries, write_text

REPORT_NAME = "report.html"


def write_report(run_dir: Path) -> list[Path]:
    """Writes ``report.html``, and the learning curves where the log has grown; returns the files.

    A folder without a run (of a lone checkpoint) gets none.

    Raises:
        ElasticToolError: A file cannot be written.
    """
    if not (run_dir / "config.yaml").is_file():
        return []
    for folder in (run_dir, run_dir / "results", run_dir / "figures"):
        remove_temporaries(folder, shared=True)
    with lock_results(run_dir):  # of two commands at once, the last one shows the results of both
        return _write_report(run_dir)


def _write_report(run_dir: Path) -> list[Path]:
    summary = summarise(run_dir)
    curves = run_dir / "figures" / "learning_curves.png"
    drawn_at, logged_at = (
        file.stat().st_mtime_ns if file.is_file() else -1
        for file in (curves, run_dir / "metrics.jsonl")
    )
    files = plot_learning_curves(run_dir, curves_title(summary)) if drawn_at < logged_at else []
    path = run_dir / REPORT_NAME
    write_text(path, _page(run_dir, summary))
    return [*files, path]


def is_reported(run_dir: Path) -> bool:
    """Returns whether ``report.html`` was written after the last line of the log.

    A process that is killed at its end leaves a finished run without it.
    """
    try:
        report, log = (run_dir / name for name in (REPORT_NAME, "metrics.jsonl"))
        return report.stat().st_mtime_ns >= log.stat().st_mtime_ns
    except OSError:
        return False


def report_evaluation(run_dir: Path, stem: str) -> list[Path]:
    """Draws the figures of an evaluation and writes ``report.html``; returns the files.

    Raises:
        ElasticToolError: The result is damaged, or a file cannot be written.
    """
    evaluation = read_evaluation(run_dir, stem)
    return [*plot_confusions(evaluation), *plot_classes(evaluation), *write_report(run_dir)]


def curves_title(summary: RunSummary) -> str:
    """Returns the title of the learning curves."""
    about = f"{summary.model} ({summary.name})" if summary.model else summary.name
    return f"{about} on {summary.dataset}" if summary.dataset else about


def overview_rows(summary: RunSummary) -> list[list[str]]:
    """Returns facts and scores of a run as pairs of name and value."""
    best = EMPTY
    if summary.best is not None:
        metric = METRIC_LABELS.get(summary.metric, summary.metric)
        best = f"{metric} {metric_text(summary.metric, summary.best)} (epoch {summary.best_epoch})"
    rows = [
        ["state", summary.state],
        ["dataset", summary.dataset or EMPTY],
        ["model", f"{summary.model or EMPTY}, width x depth {summary.size}"],
        ["epochs", f"{summary.epoch} of {summary.epochs}"],
        ["best validation, %", best],
        ["training time", duration(summary.training_s)],
        ["last written", summary.updated],
    ]
    for stem, score in summary.evaluations.items():
        text = metric_text(score.metric, score.value, (score.low, score.high))
        rows.append([f"{stem}, %", f"{METRIC_LABELS.get(score.metric, score.metric)} {text}"])
    return rows


def _page(run_dir: Path, summary: RunSummary) -> str:
    shown: set[Path] = set()
    parts = [html.element("h1", summary.name), html.element("p", curves_title(summary), "about")]
    if summary.problem:
        parts.append(html.element("p", summary.problem, "problem"))
    parts.append(html.table((), overview_rows(summary)))
    curves = run_dir / "figures" / "learning_curves.png"
    parts += _section("Training", _images([curves], shown))
    for stem in evaluation_stems(run_dir):
        parts += _evaluation(run_dir, stem, shown)
    for path in sorted(run_dir.glob("results/sweep*.csv")):
        parts += _sweep(run_dir, path, shown)
    others = [path for path in sorted(run_dir.glob("figures/*.png")) if path not in shown]
    parts += _section("Further figures", _images(others, shown))
    parts += _settings(run_dir)
    return html.page(summary.name, parts)


def _section(title: str, parts: list[str]) -> list[str]:
    """Returns a heading and its parts; nothing without parts."""
    return [html.element("h2", title), *parts] if parts else []


def _images(paths: Iterable[Path], shown: set[Path]) -> list[str]:
    found = [path for path in paths if path.is_file()]
    shown.update(found)
    return [html.image(path, path.stem.replace("_", " ")) for path in found]


def _evaluation(run_dir: Path, stem: str, shown: set[Path]) -> list[str]:
    try:
        evaluation = read_evaluation(run_dir, stem)
        document = evaluation.document
        scores = html.table(("metric", value_heading(document)), score_rows(document))
        remarks = [html.element("p", note, "note") for note in notes(document)]
        classes = html.folded("every class (shares in %)", html.table(*class_table(document)))
        title = evaluation.title
    except (ElasticToolError, KeyError, TypeError, ValueError, IndexError) as error:
        return _section(stem, [html.element("p", f"eval_{stem}.json: {error}", "problem")])
    if evaluation.outdated:
        remarks.append(html.element("p", evaluation.outdated, "problem"))
    if document.get("trained_on_these_data") is False:
        remarks.append(html.element("p", "not the data that the run was trained on", "problem"))
    figures = run_dir / "figures"
    pictures = [figures / f"{kind}_{stem}.png" for kind in ("confusions", "per_class")]
    return _section(title, [scores, *remarks, *_images(pictures, shown), classes])


def _sweep(run_dir: Path, path: Path, shown: set[Path]) -> list[str]:
    try:
        read = read_points(path)
    except ElasticToolError as error:
        return _section(path.stem, [html.element("p", str(error), "problem")])
    rows = [
        [
            f"{point.model} ({point.run})" + (f", {point.resize}" if point.resize else ""),
            "own" if point.native else f"{point.x:g}",
            METRIC_LABELS.get(point.metric, point.metric),
            metric_text(point.metric, point.value, (point.low, point.high)),
            f"{point.tokens / point.clips:.0f}",
        ]
        for point in read
    ]
    axis = AXES[read[0].axis if read else "length"]
    over = interval_over(read[0].clips, read[0].groups) if read else ""
    columns = ("run", axis.column, "metric", f"value ({over})", "tokens a clip")
    pictures = _images([run_dir / "figures" / f"{path.stem}.png"], shown)
    points = html.folded("every point", html.table(columns, rows))
    conditions = path.stem.removeprefix(axis.stem).strip("_").split("_")
    split = conditions.pop(0) if conditions[0] in ("train", "validation") else "test"
    title = f"Sweep of {axis.values}, {split} split"
    title += f", {' '.join(conditions)}" if any(conditions) else ""
    try:  # the run may have other weights by now than those that were swept
        document = read_json(path.with_suffix(".json"))
        weights = document["weights"].get(run_dir.name)
        outdated = describe_outdated(run_dir, document["checkpoint"], weights)
    except (ElasticToolError, KeyError, TypeError, AttributeError):
        outdated = ""  # it has no JSON file, or a damaged one
    remarks = [html.element("p", outdated, "problem")] if outdated else []
    return _section(title, [*remarks, *pictures, points])


def _settings(run_dir: Path) -> list[str]:
    parts: list[str] = []
    try:
        changed = changed_settings(read_config(run_dir)).items()
        parts.append(html.table(("setting (where not the default)", "value"), list(changed)))
        text = (run_dir / "config.yaml").read_text(encoding="utf-8")
        parts.append(html.folded("all settings", html.element("pre", text)))
    except (ElasticToolError, OSError) as error:
        parts.append(html.element("p", str(error), "problem"))
    environment: list[str] = []
    if (path := run_dir / "environment.json").is_file():
        try:
            document: Any = read_json(path)
            rows = document.items() if isinstance(document, dict) else [("content", document)]
            known = [[name, EMPTY if value is None else value] for name, value in rows]
            environment.append(html.table(("what", "value"), known))
        except ElasticToolError as error:
            environment.append(html.element("p", str(error), "problem"))
    return _section("Settings", parts) + _section("Environment", environment)
