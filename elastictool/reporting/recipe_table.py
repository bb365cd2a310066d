"""Write the page of a recipe from its result document: our scores, published ones, verdicts.

Each model has a published column; "figure only" means that the paper gives a picture only, and
nothing is read off pictures. Differences, in percentage points, are given at scale ``paper`` only
(elsewhere data and models differ), for columns (length, patch size, compression) that were
published.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from elastictool.metrics.table import METRIC_LABELS
from elastictool.reporting.published import FIGURE_ONLY, own_score, token_words
from elastictool.reporting.tables import (
    EMPTY,
    duration,
    interval_over,
    markdown_table,
    percent,
)
from elastictool.utils.text import counted

Document = Mapping[str, Any]
SAME_DATA = "paper"
"""The scale at which our and published numbers are of the same data."""
TOKEN_AXIS = "batch_clips"


def page(result: Document) -> str:
    """Returns heading, picture, conditions, tables and verdicts as Markdown."""
    name = result["recipe"].partition("/")[2]
    parts = [
        f"# {result['title']}\n\n![{result['title']}]({name}.png)\n",
        f"{result['shows']}\n",
        f"**On what.** {result['description']} Data: {'; '.join(result['data'].values())}.\n",
        f"**Published.** {published_words(result['published'])}\n",
        f"**Claims.** {verdict_lines(result)}",
        *tables(result),
        provenance(result),
    ]
    return "\n".join(parts)


def published_words(published: Document) -> str:
    """Returns the published numbers and their source in a line."""
    if published["tokens"]:
        what, numbers = "Tokens, %", token_words(published["tokens"])
    elif published["curves"]:
        metric = METRIC_LABELS[published["metric"]]
        what, parts = f"{metric}, %, at the own setting (in brackets over all columns)", []
        for model, points in published["curves"].items():
            scores, own = [y for _, y in points], own_score(model, points)
            at_own = "" if own is None else f" {percent(own)}"
            parts.append(f"{model}{at_own} ({percent(min(scores))} to {percent(max(scores))})")
        numbers = "; ".join(parts)
    else:
        return "A picture without numbers (figure only)."
    return f"{what}, {published['note']}, {published['source']}: {numbers}."


def held_words(verdicts: Sequence[Document]) -> str:
    """Returns ``7 of 8 claims hold``; empty without claims."""
    held = sum(verdict["holds"] is True for verdict in verdicts)
    few = len(verdicts) == 1
    return f"{held} of {counted(len(verdicts), 'claim')} hold{'s' * few}" if verdicts else ""


def scores_note(result: Document) -> str:
    """Returns that the scores of a result mean nothing, where they do not; else empty."""
    smoke = result["scale"] == "smoke" and result["made"]["trainings"]
    return " (one epoch: scores mean nothing)" if smoke else ""


def tables(result: Document) -> list[str]:
    """Returns all tables of the result: lengths, or a row for each column of each panel."""
    if "histograms" in result:
        return [markdown_table(*histogram_cells(result))]
    published, note = result["published"], ""
    if result["scale"] != SAME_DATA and published["tokens"]:
        note = f" Published: {published['note']}."
    elif result["scale"] != SAME_DATA and published["curves"]:
        note = " Published numbers are of other data and larger models: compare shapes, not values."
    found = []
    for panel in result["panels"]:
        conditions = f"; {panel['conditions']}" if "conditions" in panel else ""
        clips = f"{counted(panel['clips'], 'clip')}{conditions}"
        over = interval_words(panel)
        bracketed = f" (in brackets: {over})" if over else ""
        title = panel["title"] + scores_note(result)
        head = f"{panel['y']}, %{bracketed}, {title}, {clips}.{note}\n\n"
        found.append(head + markdown_table(*panel_cells(panel, result)))
    if rows := result["evaluations"]:
        names = [name for name in METRIC_LABELS if any(name in row for row in rows.values())]
        cells = [[label, *(percent(row.get(n)) for n in names)] for label, row in rows.items()]
        table = markdown_table(["model", *(METRIC_LABELS[name] for name in names)], cells)
        found.append(
            f"At the own setting, %, means over repetitions{scores_note(result)}:\n\n{table}"
        )
    return found


def interval_words(panel: Document) -> str:
    """Returns what the intervals of a panel's points are over; empty without any."""
    points = [point for curve in panel["curves"] for point in curve["points"]]
    runs = max((point["runs"] for point in points), default=1)
    if all(point["low"] is None for point in points):
        return ""
    if runs == 1:
        return interval_over(panel["clips"], panel.get("groups", 0))
    return f"{'range of' if runs == 2 else '95 % t interval over'} {counted(runs, 'training')}"


def has_differences(panel: Document, result: Document) -> bool:
    """Returns whether our and published numbers are of the same data and metric."""
    return bool(result["scale"] == SAME_DATA and result["published"]["metric"] == panel["metric"])


def panel_cells(
    panel: Document, result: Document, intervals: bool = True
) -> tuple[list[str], list[list[str]]]:
    """Returns column names and cells of a panel: our scores, published scores, differences.

    Frames of other data are not compared with the paper's.
    """
    if panel["axis"] == TOKEN_AXIS:
        return token_cells(panel, result)
    published, gap = result["published"], has_differences(panel, result)
    numbers = published["curves"]
    same_columns = panel["axis"] != "length" or result["scale"] == SAME_DATA
    other_metric = published["metric"] not in ("", panel["metric"])
    heading = f"published {METRIC_LABELS[published['metric']]}" if other_metric else "published"
    columns, own, by_x = [panel["column"]], [panel["own"]], dict[float, list[str]]()
    positions = sorted({p["x"] for curve in panel["curves"] for p in curve["points"]})
    for curve in panel["curves"]:
        columns += [curve["label"], heading, *["difference"] * gap]
        points = numbers.get(curve["published_label"], [])
        score = own_score(curve["published_label"], points)
        own += _cells(curve["own"], score, bool(numbers), gap, intervals)
        mine = {point["x"]: point for point in curve["points"]}
        for x in positions:
            near = (y for column, y in points if same_columns and abs(column - x) < 1e-9)
            cells = _cells(mine.get(x), next(near, None), bool(numbers), gap, intervals)
            by_x.setdefault(x, [f"{x:g}"]).extend(cells)
    has_own = any(curve["own"] for curve in panel["curves"])
    return columns, [*[own] * has_own, *by_x.values()]


def _cells(
    point: Document | None, published: float | None, numbers: bool, gap: bool, intervals: bool
) -> list[str]:
    """Returns our score with its interval, the published, and (``gap``) the difference."""
    if point is None:
        return [EMPTY] * (2 + gap)
    score = percent(point["value"], (point["low"], point["high"]) if intervals else None)
    if published is None:
        return [score, EMPTY if numbers else FIGURE_ONLY, *[EMPTY] * gap]
    return [score, percent(published), *[f"{100 * (point['value'] - published):+.1f}"] * gap]


def token_cells(panel: Document, result: Document) -> tuple[list[str], list[list[str]]]:
    """Returns column names and cells of token use: padding by batch size, cut, published ones."""
    gap = has_differences(panel, result)
    sizes = sorted({p["x"] for curve in panel["curves"] for p in curve["points"]})
    columns = ["model", *(f"padding, {counted(size, 'clip')}" for size in sizes)]
    columns += ["published", *["difference"] * gap, "cut", "published cut", *["difference"] * gap]
    rows = []
    for curve in panel["curves"]:
        values = {p["x"]: p["value"] for p in curve["points"]}
        shares = result["published"]["tokens"].get(curve["published_label"])
        padding = [percent(values.get(size)) for size in sizes]
        rows.append(
            [
                curve["label"],
                *padding,
                *_share_cells(list(values.values()), shares, 0, gap),
                percent(curve["cut"]),
                *_share_cells([curve["cut"]], shares, 1, gap),
            ]
        )
    return columns, rows


def _share_cells(
    measured: Sequence[float], shares: Sequence[float | None] | None, index: int, gap: bool
) -> list[str]:
    """Returns published padding (0) or cut (1), and (``gap``) our difference from it."""
    if shares is None:
        return [EMPTY] * (1 + gap)
    published = shares[index]
    if published is None:
        return [FIGURE_ONLY, *[EMPTY] * gap]
    difference = f"{100 * measured[0] - published:+.1f}" if len(set(measured)) == 1 else EMPTY
    return [f"{published:.1f}", *[difference] * gap]


def histogram_cells(result: Document) -> tuple[list[str], list[list[str]]]:
    """Returns column names and cells, one row a data set."""
    columns = ["data", "clips", "hours", "shortest", "median", "90 %", "99 %", "longest"]
    columns += ["shorter than 10.24 s", "longer", "published"]
    rows = [
        [
            f"{one['title']} ({one['source']})",
            f"{one['clips']:,}",
            f"{one['hours']:.1f}",
            *(f"{one['percentiles'][key]:.2f} s" for key in ("0", "50", "90", "99", "100")),
            f"{100 * one['shorter_than_ast']:.1f} %",
            f"{100 * one['longer_than_ast']:.1f} %",
            FIGURE_ONLY,
        ]
        for one in result["histograms"]
    ]
    return columns, rows


def verdict_lines(result: Document) -> str:
    """Returns how many claims hold, and a bullet for each claim."""
    if not (verdicts := result["verdicts"]):
        shows = "lengths alone" if "histograms" in result else "that the steps work"
        return f"None is judged: the picture shows {shows}.\n"
    lines = [f"{held_words(verdicts)}.\n\n"]
    for verdict in verdicts:
        source = f" [{verdict['source']}]" if verdict["source"] else ""
        figures = verdict["published_words"].partition(": ")[2]
        published = f"; published: {figures}" if figures else ""
        lines.append(f"- {verdict['words']}{source}{published}\n")
    return "".join(lines)


def provenance(result: Document) -> str:
    """Returns command, date, versions, machine and time."""
    made = result["made"]
    machine = made["gpu"] or made["cpu"]
    versions = [f"elastictool {made['elastictool']}", f"Python {made['python']}"]
    versions += [f"torch {made['torch']}"] if made["torch"] else []
    trained = (
        f" {counted(made['trainings'], 'training')}, {duration(made['train_seconds'])}"
        f"{' together' * (made['trainings'] > 1)}."
        if made["trainings"]
        else ""
    )
    return (
        f"`{made['command']}`, {made['date']}, {', '.join(versions)}"
        f"{f', {machine}' if machine else ''}.{trained}\n"
    )
