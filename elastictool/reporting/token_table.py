"""Write the token table of ElasticAST (Table 1, left) as text cells, CSV and a figure.

Padding and cut have different denominators (processed and native tokens), so they are drawn in
two panels; the second one is left out if nothing is cut.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from elastictool.evaluation.tokens import TokenReport, table_planners
from elastictool.packing.stream import WINDOW_PLANNERS
from elastictool.reporting.figures import BLUE, GREY, VERMILLION, plain_text, save_figure, styled
from elastictool.reporting.published import published_tokens, token_words
from elastictool.utils.csv_files import write_rows
from elastictool.utils.text import counted

PUBLISHED = published_tokens("VoxCeleb")
"""Padding and cut in percent on VoxCeleb; None is published as a picture only."""

COLUMNS = ("model", "batch", "pad %", "cut %", "rows", "excess", "tokens")
_FIELDS = (
    "model", "planner", "batch_clips", "padding_percent", "cut_percent", "rows", "excess_rows",
    "processed_tokens", "padding_tokens", "cut_tokens", "native_tokens",
)  # fmt: skip


def table(report: TokenReport) -> tuple[list[str], list[list[str]]]:
    """Returns column names and cells, all as text; a million tokens and more are in millions."""
    rows = []
    for use in report.uses:
        count, batch = use.processed_tokens, use.batch_clips or "any"
        shares = [f"{use.padding_percent:.1f}", f"{use.cut_percent:.1f}"]
        filled = ["-" if rows is None else f"{rows:,}" for rows in (use.rows, use.excess_rows)]
        tokens = f"{count:,}" if count < 1_000_000 else f"{count / 1e6:,.1f} M"
        rows.append([use.planner or use.model, str(batch), *shares, *filled, tokens])
    return list(COLUMNS), rows


def is_stand_in(report: TokenReport) -> bool:
    """Returns whether the durations are the stand-in for VoxCeleb, which the paper counted."""
    return report.source_kind == "stand-in"


def conditions(report: TokenReport) -> str:
    """Returns cap, edge rule and row capacity, which shares of tokens depend on."""
    rule, settings = report.settings.rule, report.settings
    windowed = any(use.planner in WINDOW_PLANNERS for use in report.uses)
    return (
        f"cap {counted(rule.max_frames, 'frame')} ({report.beyond_cap_percent:.1f} % of all frames "
        f"lie beyond it), edge {rule.edge}, patch {rule.patch} x {rule.patch}, "
        f"shift {report.shift_ms:g} ms, {counted(settings.capacity, 'token')} a row"
        + (f", windows of {counted(settings.window, 'clip')}" if windowed else "")
    )


def notes(report: TokenReport) -> list[str]:
    """Returns the notes below the table."""
    lines = [
        "pad: of processed tokens; cut: of native tokens after the cap; excess: rows beyond the "
        "lower bound; tokens: processed in one epoch; planners are ElasticAST's",
        conditions(report),
    ]
    lines += [
        f"{time.model} by time instead of tokens: {time.padding_percent:.1f} % padding, "
        f"{time.cut_percent:.1f} % cut"
        for time in report.times
    ]
    if report.too_short:
        lines.append(f"clips too short for one frame, not counted: {report.too_short:,}")
    if report.longer_than_row:
        lines.append(
            f"clips of more tokens than a row: {report.longer_than_row:,}; each fills a longer row "
            "of its own, to which the other rows of its batch are padded"
        )
    if is_stand_in(report):
        known = token_words(PUBLISHED, " %")
        lines.append(f"published in Table 1, counted on VoxCeleb itself: {known}")
    return lines


def document(report: TokenReport) -> dict[str, Any]:
    """Returns the report as plain values for JSON."""
    uses = [
        asdict(use) | {"padding_percent": use.padding_percent, "cut_percent": use.cut_percent}
        for use in report.uses
    ]
    plain = asdict(report) | {"uses": uses}
    plain["settings"]["planners"] = report.settings.planners or table_planners()
    if is_stand_in(report):
        plain["published"] = {
            model: {"padding_percent": padding, "cut_percent": cut}
            for model, (padding, cut) in PUBLISHED.items()
        }
    return plain


def write_files(report: TokenReport, folder: Path) -> list[Path]:
    """Writes ``tokens.csv``, ``tokens.png`` and ``tokens.svg`` into ``folder``.

    Raises:
        ElasticToolError: A file cannot be written.
    """
    table_path = folder / "tokens.csv"
    rows = [{name: getattr(use, name) for name in _FIELDS} for use in report.uses]
    write_rows(table_path, _FIELDS, rows)
    return [table_path, *save_figure(draw(report), folder / "tokens")]


def draw(report: TokenReport) -> Figure:
    """Returns the figure: padding and cut as bars; diamonds are published shares."""
    cut = is_stand_in(report) or any(use.cut_tokens for use in report.uses)
    titles = ["padding, % of processed tokens", *["cut, % of native tokens"] * cut]
    with styled():
        figure = Figure(figsize=(9.5, 1.6 + 0.27 * len(report.uses)), layout="constrained")
        widths = (3, 2)[: len(titles)]
        panels = figure.subplots(1, len(titles), sharey=True, width_ratios=widths, squeeze=False)[0]
        title = plain_text(f"Token use: {report.source}")
        figure.suptitle(title, x=0.01, ha="left", weight="bold", fontsize=11)
        for column, axes in enumerate(panels):
            _bars(axes, report, column, titles[column])
        ticks = []
        for use in report.uses:
            clips = counted(use.batch_clips, "clip") if use.batch_clips else ""
            ticks.append(", ".join(filter(None, (use.model, use.planner, clips))))
        panels[0].set_yticks(range(len(ticks)), ticks)
        panels[0].invert_yaxis()
        note = conditions(report) + ("" if cut else "; nothing is cut")
        figure.supxlabel(note, x=0.01, ha="left", fontsize=8, color=GREY)
    return figure


def _bars(axes: Axes, report: TokenReport, column: int, title: str) -> None:
    shares = [(use.padding_percent, use.cut_percent)[column] for use in report.uses]
    colours = [VERMILLION if use.planner else BLUE for use in report.uses]
    bars = axes.barh(range(len(shares)), shares, height=0.7, color=colours)
    axes.bar_label(bars, fmt="%.1f", padding=8, fontsize=8)
    axes.set_xlim(0, max(10.0, 1.18 * max(shares)))
    axes.set_title(title, fontsize=9, weight="normal")
    axes.tick_params(labelsize=8, left=False)
    axes.grid(visible=False, axis="y")
    positions = {use.model: position for position, use in enumerate(report.uses) if not use.planner}
    marks = [
        (PUBLISHED[model][column], positions[model]) for model in positions if model in PUBLISHED
    ]
    if marks and is_stand_in(report):
        axes.plot(*zip(*marks, strict=True), "D", color="black", ms=4, label="published")
        axes.legend(loc="lower right", fontsize=8)
