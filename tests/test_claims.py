"""Claims are checked by their thresholds; a violating curve prints "does not hold"."""

from __future__ import annotations

import pytest

from elastictool.reporting.claims import Claim, judge
from elastictool.utils.errors import UsageError

CURVES = {
    "flexible": {8.0: 0.60, 16.0: 0.62, 48.0: 0.58},
    "PI": {8.0: 0.50, 16.0: 0.70, 48.0: 0.45},
    "BL": {8.0: 0.30, 16.0: 0.70, 48.0: 0.46},
}


@pytest.mark.parametrize(("points", "holds"), [(4.0, True), (3.9, False)])
def test_flat_compares_best_and_worst_column(points: float, holds: bool) -> None:
    verdict = judge(Claim("flat", "flexible", points), CURVES)
    assert verdict.holds is holds
    assert ("does not hold" in verdict.words) is not holds
    assert "58.0 at 48 to 62.0 at 16: 4.0" in verdict.words


@pytest.mark.parametrize(("points", "holds"), [(25.0, True), (25.1, False)])
def test_collapse_is_the_fall_from_its_own_column(points: float, holds: bool) -> None:
    verdict = judge(Claim("collapse", "PI", points, at=16.0), CURVES)
    assert verdict.holds is holds
    assert "70.0 at 16 to 45.0 at 48" in verdict.words


def test_a_threshold_that_is_just_met_is_met_however_its_scores_round() -> None:
    curve = {"AST": {1.0: 73 / 120, 4.0: 85 / 120}}
    assert judge(Claim("collapse", "AST", 10, at=4.0), curve).holds
    assert judge(Claim("flat", "AST", 10), curve).holds
    pair = {"AST": {1.0: 85 / 120}, "other": {1.0: 73 / 120}}
    assert judge(Claim("above", "AST", 10, other="other"), pair).holds


@pytest.mark.parametrize(("points", "holds"), [(-1.0, True), (0.0, False), (1.0, False)])
def test_above_must_hold_at_every_column_but_its_own(points: float, holds: bool) -> None:
    verdict = judge(Claim("above", "PI", points, other="BL", at=16.0), CURVES)
    assert verdict.holds is holds
    assert "least difference -1.0 at 48" in verdict.words
    assert f"{2 if holds else 1} of 2 columns" in verdict.words


def test_the_statement_of_one_column_has_both_scores() -> None:
    own = {"PI, own": {0.0: 0.701}, "BL, own": {0.0: 0.6}}
    verdict = judge(Claim("above", "PI, own", 5, other="BL, own"), own)
    assert verdict.holds
    said = "PI, own is above BL, own by 5 points or more: holds (70.1 against 60.0)"
    assert verdict.words == said
    at = judge(Claim("above", "PI", -1, other="BL", start=48, stop=48), CURVES).words
    assert at == "PI is above BL or at most 1 point below at 48: holds (45.0 against 46.0)"


def test_a_claim_without_margin_states_its_comparison() -> None:
    level = judge(Claim("above", "PI", 0, other="PI"), CURVES)
    assert level.holds
    assert level.words.startswith("PI is above or level with PI at all columns: holds")


def test_a_claim_in_its_own_words_is_judged_by_its_thresholds() -> None:
    said = {"description": "PI does not grow from 16 to 48"}
    falls = Claim("collapse", "PI", 0, at=16.0, start=16, **said)
    rises = Claim("collapse", "PI", 0, at=8.0, start=8, stop=16, **said)
    verdict = judge(falls, CURVES)
    assert verdict.holds
    assert verdict.words == "PI does not grow from 16 to 48: holds (70.0 at 16 to 45.0 at 48: 25.0)"
    assert judge(rises, CURVES).holds is False


def test_only_columns_within_the_span_count() -> None:
    assert judge(Claim("flat", "PI", 21, stop=16), CURVES).holds
    assert not judge(Claim("flat", "PI", 21), CURVES).holds
    assert judge(Claim("above", "PI", 0, other="BL", stop=16), CURVES).holds


def test_a_missing_curve_is_not_judged() -> None:
    for claim in (
        Claim("flat", "absent", 4),
        Claim("above", "PI", 0, other="absent"),
        Claim("collapse", "PI", 4, at=10.0),
        Claim("flat", "PI", 4, start=40),
        Claim("above", "PI", 0, other="BL", at=16, start=16, stop=16),
    ):
        verdict = judge(claim, CURVES)
        assert verdict.holds is None
        assert "not run" in verdict.words


@pytest.mark.parametrize(
    "arguments",
    [
        {"kind": "round", "curve": "a", "points": 1},
        {"kind": "above", "curve": "a", "points": 1},
        {"kind": "collapse", "curve": "a", "points": 1},
    ],
)
def test_an_empty_claim_is_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        Claim(**arguments)  # type: ignore[arg-type]
