"""Help texts fit 80 columns, stand alone and list the parts that are registered."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from elastictool.cli import console
from elastictool.cli.app import app
from elastictool.corpora.base import CORPORA
from elastictool.metrics.table import METRICS
from elastictool.models.attention.base import ATTENTION
from elastictool.packing.planners import PLANNERS
from elastictool.packing.stream import WINDOW_PLANNERS
from elastictool.pretrained.formats import FORMATS


def commands(command: Any, *names: str) -> Iterator[tuple[str, ...]]:
    yield names
    for name, child in getattr(command, "commands", {}).items():
        yield from commands(child, *names, name)


COMMANDS = sorted(commands(typer.main.get_command(app)))


def shown(*names: str) -> str:
    result = CliRunner().invoke(app, [*names, "--help"], env={"COLUMNS": "80"})
    assert result.exit_code == 0, result.output
    return result.output


def listed(text: str, option: str) -> str:
    """The help of one option, in one line."""
    part = re.search(rf"^ .*{option}\b(.*?)(?=^  -|\Z)", text, re.M | re.S)
    assert part, f"no {option}"
    return " ".join(part[1].split())


@pytest.mark.parametrize("names", COMMANDS, ids=" ".join)
def test_help_fits_80_columns_without_types_of_python(names: tuple[str, ...]) -> None:
    text = shown(*names)
    assert max(map(len, text.splitlines())) <= 80
    assert not re.search(r"<(?!=)|\[x|\{\w+\}", text.split("Options:")[1])


@pytest.mark.parametrize("names", COMMANDS, ids=" ".join)
def test_help_of_each_option_begins_with_a_word_and_ends_with_a_stop(
    names: tuple[str, ...],
) -> None:
    command: Any = typer.main.get_command(app)
    for name in names:
        command = command.commands[name]
    for parameter in command.params:
        assert len({*parameter.opts}) == len(parameter.opts)
        if parameter.name != "help":
            assert re.match(r"[A-Z]\S* ", parameter.help or ""), parameter.name
            assert not re.match(r"(Of|Only|With|The|A|An|Also) ", parameter.help), parameter.name
            assert parameter.help.endswith("."), parameter.name


@pytest.mark.parametrize(
    ("names", "option", "parts"),
    [
        (("prep",), "--dataset", CORPORA),
        (("prep",), "--task", ["fsdd", "digit", "speaker"]),
        (("prep",), "--subset", ["audioset", "balanced", "esc50", "esc10"]),
        (("prep",), "--download", ["esc50", "fsdd", "speech-commands"]),
        (("tokens",), "--planner", [*PLANNERS, *WINDOW_PLANNERS, "flat"]),
        (("eval",), "--attention", ATTENTION),
        (("train",), "--attention", ATTENTION),
        (("convert",), "--from", [*FORMATS, "run"]),
        (("sweep",), "--metric", METRICS),
        (("bench",), "--size", ["tiny", "small", "base"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else str(value)[:12],
)
def test_help_lists_all_parts_that_are_registered(
    names: tuple[str, ...], option: str, parts: Any
) -> None:
    text = listed(shown(*names), option).replace("- ", "-")
    for part in parts:
        assert re.search(rf"(?<![\w-]){re.escape(part)}(?![\w-])", text), part


def test_tables_fit_the_terminal_and_cut_no_word(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console.stdout, "_width", 60)
    names = ["voxceleb-elasticast-resolution-seed2-fold1", "table1_speech_commands"]
    rows = [[name, "ElasticAST, diverse lengths", "93.3 (90.1–95.9)", "12,345"] for name in names]
    console.print_table("runs", ["run", "model", "test, %", "tokens"], rows)
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 60
    lines = [line.split("│")[1].strip() for line in text.splitlines() if line.startswith("│")]
    assert "".join(lines) == "".join(names)
    assert all(line.endswith(("-", "_", "fold1", "commands")) for line in lines)
    assert text.count("│ 12,345 │") == text.count("(90.1–95.9)") == len(rows)


def test_columns_that_do_not_fit_follow_in_another_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console.stdout, "_width", 40)
    models = [f"FlexiAST-model{number}" for number in range(4)]
    console.print_table("scores", ["patch size", *models], [["16", *"1234"]])
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 40
    assert text.count("patch") == text.count("16") == 2
    assert re.findall(r"model\d", text) == ["model0", "model1", "model2", "model3"]
