"""Figures and pages of recipes, drawn from their documents alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes

from benchmarks.reproducing import committed, pages, shared_runs
from elastictool.recipes.library import load_recipe
from elastictool.recipes.result import with_verdicts
from elastictool.reporting.published import published_curves, published_metric
from elastictool.reporting.recipe_figure import draw
from elastictool.reporting.recipe_table import held_words, page, panel_cells


def paper_result() -> dict[str, Any]:
    """A result on the paper's data: the published curves, a point lower everywhere."""
    curves = published_curves("flexiast_table1", "ESC-50")
    points = {m: sorted(c.items()) for m, c in curves.items()}

    def point(x: float, y: float) -> dict[str, Any]:
        return {"x": x, "value": y - 0.01, "low": y - 0.02, "high": y, "runs": 5}

    return {
        "recipe": "flexiast/table1_esc50",
        "scale": "paper",
        "title": "FlexiAST",
        "shows": "",
        "description": "",
        "data": {"esc50": "ESC-50"},
        "panels": [
            {
                "name": "",
                "title": "ESC-50",
                "axis": "patch_size",
                "x": "patch size",
                "metric": "top1",
                "y": "Top-1 accuracy",
                "column": "patch size",
                "own": "own patch size",
                "clips": 400,
                "shift_ms": 10.0,
                "curves": [
                    {
                        "label": model,
                        "published_label": model,
                        "points": [point(x, y) for x, y in pairs],
                        "own": point(16.0, dict(pairs)[16.0]),
                    }
                    for model, pairs in points.items()
                ],
            }
        ],
        "published": {
            "note": "ESC-50",
            "source": "FlexiAST Table 1",
            "metric": "top1",
            "curves": {m: [list(pair) for pair in pairs] for m, pairs in points.items()},
            "tokens": {},
        },
        "verdicts": [],
        "evaluations": {},
    }


def test_every_model_has_its_published_column_and_the_difference() -> None:
    result = paper_result()
    columns, rows = panel_cells(result["panels"][0], result, intervals=False)
    names = columns[1::3]
    assert columns[2::3] == ["published"] * 5
    assert columns[3::3] == ["difference"] * 5
    at_48 = dict(zip(names, rows[-1][1::3], strict=True))
    assert rows[-1][0] == "48"
    assert at_48["AST-B/8"] == "1.0"
    assert rows[-1][2::3][names.index("AST-B/8")] == "2.0"
    assert set(rows[-1][3::3]) == {"-1.0"}
    nothing = {"note": "figure only", "source": "", "metric": "", "curves": {}, "tokens": {}}
    columns, rows = panel_cells(result["panels"][0], result | {"published": nothing})
    assert {cell for row in rows for cell in row[2::2]} == {"figure only"}
    assert "difference" not in columns


def test_other_data_have_no_differences_and_another_metric_is_named() -> None:
    result = paper_result() | {"scale": "small"}
    result["published"]["metric"] = "map"
    columns, rows = panel_cells(result["panels"][0], result, intervals=False)
    assert columns[2::2] == ["published mAP"] * 5
    assert {len(row) for row in rows} == {11}
    own_axes, published_axes = draw(result).axes
    assert (own_axes.get_ylabel(), published_axes.get_ylabel()) == ("Top-1 accuracy (%)", "mAP (%)")


def test_published_curves_are_thin_lines_in_the_colour_of_their_model() -> None:
    result = paper_result()
    (axes,) = draw(result).axes
    thin = [line for line in axes.lines if line.get_linewidth() == 0.8]
    full = [line for line in axes.lines if line.get_linewidth() > 1 and line.get_ls() != "None"]
    assert len(thin) == len(full) == 5
    assert [line.get_color() for line in thin] == [line.get_color() for line in full]
    own_axes, published_axes = draw({**result, "scale": "small"}).axes
    assert not [line for line in own_axes.lines if line.get_linewidth() == 0.8]
    assert len([line for line in published_axes.lines if line.get_linewidth() == 0.8]) == 5


def test_a_published_curve_has_the_colour_of_the_one_that_stands_for_it() -> None:
    result = paper_result() | {"scale": "small"}
    own_names = {"AST-B/8": "AST-B/16", "AST-B/16": "AST-B/32", "AST-B/32": "AST-B/64"}
    for curve in result["panels"][0]["curves"]:  # published names, each one size further
        curve["label"] = own_names.get(curve["published_label"], curve["label"])
    mine, published_axes = draw(result).axes
    colours = {str(line.get_label()): line.get_color() for line in mine.lines}
    published = {str(line.get_label()): line.get_color() for line in published_axes.lines}
    for name, own in own_names.items():
        assert published[name] == colours[own]
    assert len({published[name] for name in own_names}) == 3


def labels(axes: Axes) -> list[str]:
    """Return the labels of the horizontal axis in order."""
    return [label.get_text() for label in axes.get_xticklabels()]


def legend_of(axes: Axes) -> tuple[str, list[str]]:
    """Return title and names of a legend that stands below its axes."""
    legend = axes.get_legend()
    assert legend is not None
    assert legend.get_window_extent().y1 <= axes.get_window_extent().y0
    return legend.get_title().get_text(), [text.get_text() for text in legend.get_texts()]


def test_each_of_two_panels_has_a_legend_of_its_own_curves_below_it() -> None:
    result = paper_result() | {"scale": "small"}
    for curve in result["panels"][0]["curves"]:
        curve["label"] = f"our {curve['label']}"
    own_axes, published_axes = draw(result).axes
    title, named = legend_of(own_axes)
    published = set(published_curves("flexiast_table1", "ESC-50"))
    assert title == "ours"
    assert [name for name in named if name.startswith("our ")] == named[:5]
    assert not published & set(named)
    title, named = legend_of(published_axes)
    assert title == "published" and set(named) == published


def test_every_models_own_column_is_labelled() -> None:
    result = paper_result() | {"scale": "small"}
    for curve, own in zip(result["panels"][0]["curves"], (8, 16, 32, 16, 16), strict=True):
        curve["own"]["x"] = float(own)
    own_axes, published_axes = draw(result).axes
    for axes in (own_axes, published_axes):
        assert {"8", "16", "32"} <= set(labels(axes))
        assert "30" not in labels(axes), "there is no room for it next to 32"


def test_the_figure_says_how_many_claims_hold_and_the_page_which() -> None:
    said = [{"holds": holds, "words": f"claim {n}", "source": "", "published_words": ""}
            for n, holds in enumerate((True, False, None))]  # fmt: skip
    made = {"command": "c", "date": "d", "elastictool": "0", "python": "3", "torch": None}
    made |= {"cpu": None, "gpu": None, "trainings": 1, "train_seconds": 61.0}
    result = paper_result() | {"verdicts": said, "made": made}
    assert "1 of 3 claims hold." in str(draw(result).get_supxlabel())
    assert "claim 0" not in str(draw(result).get_supxlabel())
    text = page(result)
    assert "**Claims.** 1 of 3 claims hold.\n\n- claim 0\n- claim 1\n- claim 2\n" in text
    assert "AST-B/8 95.0 (1.8 to 95.0)" in text, "what is published"
    assert " 1 training, 1 min 01 s." in text
    assert held_words(said[:1]) == "1 of 1 claim holds" and held_words([]) == ""


def test_the_figure_of_tokens_shows_a_padding_share_of_zero() -> None:
    (file,) = (file for file in committed() if file.stem == "table1_token_usage")
    (axes,) = draw(json.loads(file.read_text("utf-8"))).axes
    heights = axes.transData.transform([(12, y) for y in (0, 0.5, 1, 10, 100)])[:, 1]
    size = axes.get_window_extent().height
    steps = heights[1:] - heights[:-1]
    assert axes.get_window_extent().y0 <= heights[0] and (steps > 0.08 * size).all()


@pytest.mark.parametrize(
    ("table", "dataset", "metric"),
    [
        ("flexiast_table1", "AudioSet", "map"),
        ("flexiast_table1", "ESC-50", "top1"),
        ("elasticast_fig5_audioset", "", "map"),
        ("elasticast_fig4_voxceleb", "", "top1"),
    ],
)
def test_published_scores_are_of_the_papers_metric(table: str, dataset: str, metric: str) -> None:
    assert published_metric(table, dataset) == metric


def test_committed_pages_are_what_their_results_say() -> None:
    texts = pages()
    stale = [path.name for path, text in texts.items() if path.read_text("utf-8") != text]
    assert not stale, "run: python -m benchmarks.reproducing --render"
    assert len(texts) == len(committed()) + 1


@pytest.mark.parametrize("file", committed(), ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_committed_verdicts_are_those_of_the_committed_numbers(file: Path) -> None:
    result: dict[str, Any] = json.loads(file.read_text("utf-8"))
    assert with_verdicts(result)["verdicts"] == result["verdicts"], "render it anew"
    small = load_recipe(result["recipe"]).scale("small")
    assert len(result["verdicts"]) == len(small.claims)


def test_recipes_that_share_runs_are_marked() -> None:
    shared = {
        "elasticast/fig1": "same runs as `elasticast/fig4_voxceleb`",
        "flexiast/fig5": "runs of `flexiast/table1_vggsound`",
        "flexiast/table1_vggsound": "",
        "flexiast/fig4b_vggsound": "",
    }
    assert {name: shared_runs(load_recipe(name)) for name in shared} == shared
