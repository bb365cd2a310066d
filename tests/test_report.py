"""The README's tables and the results page are made from the committed results."""

from __future__ import annotations

import io
import re

import pytest

from benchmarks.pages import ROOT, fill
from benchmarks.report import SUMMARY, committed_studies, pages, summary_table
from benchmarks.study_tables import (
    cell,
    claim_lines,
    curves,
    draw,
    main_table,
    mean_and_half_width,
)


def test_generated_pages_are_up_to_date() -> None:
    stale = [path.name for path, text in pages().items() if path.read_text("utf-8") != text]
    assert not stale, "run: python -m benchmarks.report"


def test_every_figure_that_a_page_shows_is_there() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        shown = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page.read_text("utf-8"))
        assert all((page.parent / name).stat().st_size > 10_000 for name in shown), page


def test_every_link_between_pages_leads_somewhere() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        text = page.read_text("utf-8")
        for target, _, heading in re.findall(r"\]\(([^)#:]*)(#([^)]+))?\)", text):
            there = page.parent / target if target else page
            assert there.exists(), f"{page.name}: {target}"
            titles = re.findall(r"^#+ (.+)$", there.read_text("utf-8"), re.M) if heading else []
            anchors = [re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles]
            assert not heading or heading in anchors, f"{page.name}: {target}#{heading}"


def test_the_index_leads_to_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text("utf-8")
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert set(re.findall(r"\]\(([a-z-]+\.md)\)", index)) == pages


def test_the_summary_has_every_study_at_whole_and_at_short_clips() -> None:
    head, _, *rows = summary_table(committed_studies()).splitlines()
    assert head.count("|") == 2 + 2 * len(SUMMARY) and len(rows) == 7
    assert sum("–" in row for row in rows) == 1  # of instruments, one model was not trained


def test_an_interval_is_students() -> None:
    mean, half = mean_and_half_width([0.90, 0.92, 0.94])
    assert mean == pytest.approx(0.92)
    assert half == pytest.approx(4.302653 * 0.02 / 3**0.5)
    assert mean_and_half_width([0.5]) == (0.5, 0.0)
    assert cell([0.90, 0.92, 0.94]) == "92.0 ± 5.0"
    assert (cell([0.5]), cell(None)) == ("50.0", "–")


def test_text_goes_between_its_markers_only() -> None:
    text = "a\n<!-- x -->\nold\n<!-- /x -->\nb"
    assert fill(text, "x", "new\n") == "a\n<!-- x -->\nnew\n<!-- /x -->\nb"
    with pytest.raises(ValueError, match="no markers for y"):
        fill(text, "y", "")


def curve(
    own: tuple[float, float], points: dict[float, float], positions: str = "", resize: str = ""
) -> dict[str, object]:
    """One way of evaluating a run: (place, score) at its own setting, scores by column."""
    return {
        "positions": positions,
        "resize": resize,
        "along": "",
        "own": [*own, 0.0, 1.0],
        "points": [[x, value, 0.0, 1.0] for x, value in points.items()],
    }


def _run(model: str, seed: int, curves: list[dict[str, object]]) -> dict[str, object]:
    about = {"model": model, "seed": seed, "fold": 0, "train_tokens": 4_920_000}
    return about | {"curves": curves}


def test_ways_of_evaluating_a_model_are_curves_and_a_violated_claim_says_so() -> None:
    both = [curve((16, y), {16: y}, resize=way) for way, y in (("pi", 0.5), ("bl", 0.25))]
    one = [curve((16, 0.375), {16: 0.375}, resize="pi")]
    claim = {"kind": "above", "curve": "AST (PI)", "points": 0, "source": "here"}
    study = {
        "axis": "patch_size",
        "columns": [16],
        "baselines": [],
        "runs": [_run("AST", 0, both), _run("Flexi", 0, one), _run("Flexi", 1, one)],
        "claims": [claim | {"other": "AST (BL)"}, claim | {"other": "Flexi", "points": 13}],
    }
    assert [curve.label for curve in curves(study)] == ["AST (PI)", "AST (BL)", "Flexi"]
    assert "| Flexi | 37.5 | 37.5 | 4.92 M |" in main_table(study)
    held, violated = claim_lines(study).splitlines()
    assert "holds" in held and "does not" not in held
    assert "**does not hold**" in violated


def _study(axis: str, base_shift_ms: float = 0.0) -> dict[str, object]:
    """Two runs of three columns, one of them with a curve for each fit of positions."""
    fits = {"interpolate": (0.3, 0.5, 0.6), "slice": (0.4, 0.5, 0.6)}
    places = (1, 2, 4)
    grid = [
        curve((3, 0.9), dict(zip(places, values, strict=True)), fit) for fit, values in fits.items()
    ]
    elastic = [curve((4, 0.9), dict(zip(places, (0.7, 0.8, 0.9), strict=True)))]
    runs = [_run("AST-3", 0, grid), _run("ElasticAST", 0, elastic)]
    about = {"title": "t", "axis": axis, "columns": [1, 2, 4], "base_shift_ms": base_shift_ms}
    return {**about, "runs": runs, "baselines": [], "claims": []}


def test_sliced_positions_are_drawn_where_they_differ_up_to_the_own_point() -> None:
    (axes,) = draw(_study("length")).axes
    lines = {str(line.get_label()): line.get_xydata().tolist() for line in axes.lines}
    assert lines["AST-3 (positions sliced)"] == [[1, 40], [3, 90]]
    assert lines["AST-3 (90.0)"] == [[1, 30], [2, 50], [3, 90], [4, 60]]
    rings = [line for line in axes.lines if line.get_markerfacecolor() == "none"]
    assert len(rings) == 2, "an own setting is ringed once"
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert "in brackets: score" in legend[-1], "of one run there is no range"


def test_resolutions_are_drawn_with_their_frame_shifts_without_sliced_positions() -> None:
    figure = draw(_study("resolution", 5.0))
    (axes,) = figure.axes
    assert not [line for line in axes.lines if "sliced" in str(line.get_label())]
    (top,) = axes.child_axes
    assert "base shift 5 ms" in top.get_xlabel()
    figure.savefig(io.BytesIO())
    left, right = top.get_xlim()
    assert (left < 5 < right) and (left < 20 < right), "5 ms times the compressions 1 to 4"
