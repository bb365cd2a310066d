"""The README's tables and the results page are what the committed results say."""

from __future__ import annotations

import pytest

from benchmarks.report import ROOT, cell, fill, mean_and_half_width, pages


def test_generated_pages_are_up_to_date() -> None:
    stale = [path.name for path, text in pages().items() if path.read_text("utf-8") != text]
    assert not stale, "run: python -m benchmarks.report"


def test_every_figure_that_a_page_shows_is_there() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    for name in ("fsdd-digit", "fsdd-speaker", "instruments"):
        assert f"docs/results/{name}.png" in readme
        assert (ROOT / "docs" / "results" / f"{name}.png").stat().st_size > 10_000


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
