"""Numbers on the command line: ranges with both ends, lists, several values after one option."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from elastictool.cli.commands import ListCommand
from elastictool.cli.ranges import (
    parse_fractions,
    parse_lengths,
    parse_numbers,
    parse_numbers_or_zero,
)
from elastictool.utils.errors import UsageError


def test_a_length_range_includes_both_ends_in_steps_of_128() -> None:
    lengths = parse_lengths("256:3072")
    assert lengths[:3] == [256, 384, 512]
    assert lengths[-1] == 3072
    assert len(lengths) == 23


@given(start=st.integers(1, 500), size=st.integers(0, 500), step=st.integers(1, 200))
def test_ranges_hold_both_ends_and_rise_by_at_most_the_step(
    start: int, size: int, step: int
) -> None:
    numbers = parse_lengths(f"{start}:{start + size}:{step}")
    assert (numbers[0], numbers[-1]) == (start, start + size)
    assert all(0 < b - a <= step for a, b in pairwise(numbers))


@pytest.mark.parametrize(
    ("texts", "numbers"),
    [
        (["12", "24", "48"], [12, 24, 48]),
        (["12,24,48"], [12, 24, 48]),
        (["48"], [48]),
        (["48, 12", "12"], [48, 12]),
        (["1:3"], [1, 2, 3]),
        (["8:24:8", "100"], [8, 16, 24, 100]),
    ],
)
def test_lists_keep_their_order_and_hold_each_number_once(
    texts: list[str], numbers: list[int]
) -> None:
    assert parse_numbers(texts, "--batch-size") == numbers


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("0", [0]), ("0,1,2", [0, 1, 2]), ("0:2", [0, 1, 2]), ("0:4:2, 9", [0, 2, 4, 9])],
)
def test_where_zero_is_allowed_it_is_allowed_in_ranges_too(text: str, numbers: list[int]) -> None:
    assert parse_numbers_or_zero(text, "--seeds") == numbers


@pytest.mark.parametrize("text", ["", "-1", "a", "0,", "0:4:0", "2:0", "1.5"])
def test_a_wrong_seed_is_an_error_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match="--seeds") as caught:
        parse_numbers_or_zero(text, "--seeds")
    assert caught.value.hint and "above 0" not in caught.value.message


@pytest.mark.parametrize(
    "text",
    ["", "0", "-3", "a", "1.5", "12,", "1:", ":5", "5:1", "1:9:0", "1:2:3:4", "1e3", "1_000", "²"],
)
def test_anything_else_is_a_usage_error_that_names_the_option(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_lengths(text)
    assert "--lengths" in caught.value.message
    assert caught.value.hint


def test_a_range_of_fractions_has_the_values_that_one_would_write() -> None:
    found = parse_fractions(["1:4:0.2"], "--resolutions")
    written = "1 1.2 1.4 1.6 1.8 2 2.2 2.4 2.6 2.8 3 3.2 3.4 3.6 3.8 4"
    assert [f"{value:g}" for value in found] == written.split()
    assert found == [float(text) for text in written.split()], "to the last bit"
    assert parse_fractions(["1:4"], "--resolutions", "0.2") == found


@given(start=st.integers(1, 50), size=st.integers(0, 50), step=st.integers(1, 20))
def test_ranges_of_fractions_are_those_of_whole_numbers_divided(
    start: int, size: int, step: int
) -> None:
    texts = [f"{start / 10}:{(start + size) / 10}:{step / 10}"]
    whole = parse_lengths(f"{start}:{start + size}:{step}")
    assert parse_fractions(texts, "--resolutions") == [number / 10 for number in whole]


@pytest.mark.parametrize(
    ("texts", "numbers"),
    [
        (["1,1.5,1.50,2"], [1.0, 1.5, 2.0]),
        (["0.5"], [0.5]),
        (["1:1.5:0.2", "4"], [1.0, 1.2, 1.4, 1.5, 4.0]),
    ],
)
def test_fractions_keep_their_order_and_both_ends(texts: list[str], numbers: list[float]) -> None:
    assert parse_fractions(texts, "--resolutions") == numbers


@pytest.mark.parametrize(
    "text", ["", "0", "0.0", "-1", "a", "1,", "1:", "5:1", "1:4:0", "1:2:3:4", "1e3", ".5", "nan"]
)
def test_other_fractions_are_a_usage_error_that_names_the_option(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_fractions([text], "--resolutions")
    assert "--resolutions" in caught.value.message
    assert caught.value.hint


def _parsed(*args: str) -> dict[str, object]:
    seen: dict[str, object] = {}
    app = typer.Typer(add_completion=False)

    @app.command(cls=ListCommand)
    def command(
        batch_size: Annotated[list[str] | None, typer.Option()] = None,
        name: Annotated[str, typer.Option("--name", "-n")] = "",
        flag: Annotated[bool, typer.Option("--flag")] = False,
    ) -> None:
        seen.update(batch_size=batch_size, name=name, flag=flag)

    typer.main.get_command(app).main(list(args), standalone_mode=False)
    return seen


@pytest.mark.parametrize(
    "args",
    [
        ["--batch-size", "12", "24", "--name", "x", "--flag"],
        ["--batch-size=12", "24", "--flag", "-n", "x"],
        ["--flag", "--name", "x", "--batch-size", "12", "--batch-size", "24"],
        ["--name", "x", "--batch-size", "12", "--flag", "--batch-size", "24"],
    ],
)
def test_a_repeatable_option_takes_all_values_that_follow(args: list[str]) -> None:
    assert _parsed(*args) == {"batch_size": ["12", "24"], "name": "x", "flag": True}


@pytest.mark.parametrize("args", [["--name", "x", "y"], ["--flag", "24"], ["24"]])
def test_other_options_take_one_value(args: list[str]) -> None:
    with pytest.raises(Exception, match="unexpected extra argument"):
        _parsed(*args)


def test_a_repeatable_option_without_a_value_is_an_error() -> None:
    with pytest.raises(Exception, match="requires an argument"):
        _parsed("--batch-size")
