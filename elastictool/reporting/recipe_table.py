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
from elastictool.reporting.published import FIGURE_ONLY, own_score
from elastictool.reporting.tables import EMPTY, counted, duration, markdown_table, percent

Document = Mapping[str, Any]
SAME_DATA = "paper"
"""The scale at which our and published numbers are of the same data."""
TOKEN_AXIS = "batch_clips"


def page(result: Document) -> str:
    """Return heading, picture, conditions, tables and verdicts as Markdown."""
    name = result["recipe"].partition("/")[2]
    parts = [
        f"# {result['title']}\n\n![{result['title']}]({name}.png)\n",
        f"{result['shows']}\n",
        f"**On what.** {result['description']} Data: {'; '.join(result['data'].values())}.\n",
        f"**Published.** {published_words(result['published'])}\n",
        f"**Claims.** {verdict_lines(result['verdicts'])}",
        *tables(result),
        provenance(result),
    ]
    return "\n".join(parts)


def published_words(published: Document) -> str:
    """Return the published numbers and their source in a line."""
    if published["tokens"]:
        shares = published["tokens"].items()
        parts = [f"{model}: padding {_share(a)}, cut {_share(b)}" for model, (a, b) in shares]
        what = "Tokens, %"
    elif published["curves"]:
        parts = [_range_words(model, points) for model, points in published["curves"].items()]
        metric = METRIC_LABELS[published["metric"]]
        what = f"{metric}, %, at the own setting (in brackets over all columns)"
    else:
        return "A picture without numbers (figure only)."
    return f"{what}, {published['note']}, {published['source']}: {'; '.join(parts)}."


def _range_words(model: str, points: Sequence[Sequence[float]]) -> str:
    """Return ``AST-400 51.0 (38.2 to 51.0)``; the range alone without an own setting."""
    scores, own = [y for _, y in points], own_score(model, points)
    at_own = "" if own is None else f"{percent(own)} "
    return f"{model} {at_own}({percent(min(scores))} to {percent(max(scores))})"


def _share(value: float | None) -> str:
    return FIGURE_ONLY if value is None else f"{value:.1f}"


def held_words(verdicts: Sequence[Document]) -> str:
    """Return ``7 of 8 claims hold``; empty without claims."""
    held = sum(verdict["holds"] is True for verdict in verdicts)
    few = len(verdicts) == 1
    return f"{held} of {counted(len(verdicts), 'claim')} hold{'s' * few}" if verdicts else ""


def tables(result: Document) -> list[str]:
    """Return all tables of the result."""
    if "histograms" in result:
        return [histogram_table(result)]
    found = [panel_table(panel, result) for panel in result["panels"]]
    if result["evaluations"]:
        found.append(evaluation_table(result))
    return found


def panel_table(panel: Document, result: Document) -> str:
    """Return a table with a row for each column of the figure."""
    columns, rows = panel_cells(panel, result)
    note = "" if result["scale"] == SAME_DATA else _other_data(result)
    conditions = f"; {panel['conditions']}" if "conditions" in panel else ""
    clips = f"{counted(panel['clips'], 'clip')}{conditions}"
    head = f"{panel['y']}, %, {panel['title']}, {clips}.{note}\n\n"
    return head + markdown_table(columns, rows)


def _other_data(result: Document) -> str:
    published = result["published"]
    if published["tokens"]:
        return f" Published: {published['note']}."
    if published["curves"]:
        return " Published numbers are of other data and larger models: compare shapes, not values."
    return ""


def has_differences(panel: Document, result: Document) -> bool:
    """Return whether our and published numbers are of the same data and metric."""
    return bool(result["scale"] == SAME_DATA and result["published"]["metric"] == panel["metric"])


def panel_cells(
    panel: Document, result: Document, intervals: bool = True
) -> tuple[list[str], list[list[str]]]:
    """Return column names and cells of a panel: ours, published and perhaps the difference.

    Frames of other data are not compared with the paper's.
    """
    if panel["axis"] == TOKEN_AXIS:
        return token_cells(panel, result)
    published, gap = result["published"], has_differences(panel, result)
    same_columns = panel["axis"] != "length" or result["scale"] == SAME_DATA
    columns = [panel["column"]]
    for curve in panel["curves"]:
        columns += [curve["label"], _published_column(panel, published)]
        columns += ["difference"] * gap
    places = sorted({p["x"] for curve in panel["curves"] for p in curve["points"]})
    rows = []
    if any(curve["own"] for curve in panel["curves"]):
        own = [panel["own"]]
        for curve in panel["curves"]:
            name = curve["published_label"]
            theirs = own_score(name, published["curves"].get(name, []))
            own += _cells(curve["own"], theirs, bool(published["curves"]), gap, intervals)
        rows.append(own)
    for x in places:
        row = [f"{x:g}"]
        for curve in panel["curves"]:
            mine = next((p for p in curve["points"] if p["x"] == x), None)
            theirs, numbers = _published_at(curve, x, published, same_columns)
            row += _cells(mine, theirs, numbers, gap, intervals)
        rows.append(row)
    return columns, rows


def _published_column(panel: Document, published: Document) -> str:
    """Return ``published``, with its metric if that differs from ours."""
    if published["metric"] in ("", panel["metric"]):
        return "published"
    return f"published {METRIC_LABELS[published['metric']]}"


def _cells(
    mine: Document | None, theirs: float | None, numbers: bool, gap: bool, intervals: bool
) -> list[str]:
    """Return our score with its interval, the published, and (``gap``) the difference."""
    if mine is None:
        return [EMPTY] * (2 + gap)
    ours = percent(mine["value"], (mine["low"], mine["high"]) if intervals else None)
    if theirs is None:
        return [ours, EMPTY if numbers else FIGURE_ONLY, *[EMPTY] * gap]
    return [ours, percent(theirs), *[f"{100 * (mine['value'] - theirs):+.1f}"] * gap]


def _published_at(
    curve: Document, x: float, published: Document, same_columns: bool
) -> tuple[float | None, bool]:
    """Return the published value of a curve at ``x``, and whether any numbers are published."""
    points = published["curves"].get(curve["published_label"], []) if same_columns else []
    found = next((y for place, y in points if abs(place - x) < 1e-9), None)
    return found, bool(published["curves"])


def token_cells(panel: Document, result: Document) -> tuple[list[str], list[list[str]]]:
    """Return column names and cells of token use: padding by batch size, cut, published ones."""
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
    ours: Sequence[float], shares: Sequence[float | None] | None, place: int, gap: bool
) -> list[str]:
    """Return published padding (0) or cut (1), and (``gap``) our difference from it."""
    if shares is None:
        return [EMPTY] * (1 + gap)
    theirs = shares[place]
    if theirs is None:
        return [FIGURE_ONLY, *[EMPTY] * gap]
    difference = f"{100 * ours[0] - theirs:+.1f}" if len(set(ours)) == 1 else EMPTY
    return [f"{theirs:.1f}", *[difference] * gap]


def evaluation_table(result: Document) -> str:
    """Return a table of all metrics at the own setting."""
    names = [n for n in METRIC_LABELS if any(n in row for row in result["evaluations"].values())]
    rows = [
        [label, *(percent(row.get(name)) for name in names)]
        for label, row in result["evaluations"].items()
    ]
    head = "At the own setting, %, means over repetitions:\n\n"
    return head + markdown_table(["model", *(METRIC_LABELS[n] for n in names)], rows)


def histogram_table(result: Document) -> str:
    """Return a table of clip lengths."""
    return markdown_table(*histogram_cells(result))


def histogram_cells(result: Document) -> tuple[list[str], list[list[str]]]:
    """Return column names and cells, one row a data set."""
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


def verdict_lines(verdicts: Sequence[Document]) -> str:
    """Return how many claims hold, and a bullet for each claim."""
    if not verdicts:
        return "None is judged: the picture shows lengths alone.\n"
    return f"{held_words(verdicts)}.\n\n" + "".join(f"- {_verdict_words(v)}\n" for v in verdicts)


def _verdict_words(verdict: Document) -> str:
    source = f" [{verdict['source']}]" if verdict["source"] else ""
    theirs = verdict["published_words"].partition(": ")[2]
    return f"{verdict['words']}{source}" + (f"; published: {theirs}" if theirs else "")


def provenance(result: Document) -> str:
    """Return command, date, versions, machine and time."""
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
