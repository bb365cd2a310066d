"""Commands that the pages show can be typed: their options, settings and recipes exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from elastictool.cli.app import app
from elastictool.config.loader import load_run_config
from elastictool.config.recipe_file import training_recipe, training_recipes
from elastictool.recipes.library import full_name

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
BLOCKS = re.compile(r"^```\n(.*?)^```|((?:^    .*\n)+)", re.M | re.S)
COMMANDS = typer.main.get_command(app)
PROGRAM = re.compile(r"(?:torchrun \S+ \d+ -m |/usr/bin/time -v )?elastictool (.+)")


def commands(page: Path) -> Iterator[str]:
    """What follows ``elastictool`` in blocks and in code within lines, continued lines joined."""
    text = page.read_text("utf-8").replace("\\\n", " ")
    blocks = ["".join(pair) for pair in BLOCKS.findall(text)]
    within = [" ".join(code.split()) for code in re.findall(r"`(elastictool [^`]+)`", text)]
    for line in [*"\n".join(blocks).splitlines(), *within]:
        command = PROGRAM.match(re.split(r"\s+#\s|\s[|>]\s", line.strip())[0])
        if command and "…" not in line:
            yield command[1]


def parsed(line: str) -> tuple[str, dict[str, Any]]:
    """The subcommand's name and parameters; a wrong option is an error."""
    words, names = shlex.split(line), list[str]()
    command: Any = COMMANDS
    while words and words[0] in getattr(command, "commands", {}):
        names.append(words.pop(0))
        command = command.commands[names[-1]]
    if hasattr(command, "commands") and words and not words[0].startswith("-"):
        raise typer.BadParameter(f"No such command: {line}")
    return " ".join(names), command.make_context(names[-1], words).params


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_on_the_pages_have_options_settings_and_recipes_that_exist(page: Path) -> None:
    for line in commands(page):
        name, given = parsed(line)
        if name in ("train", "convert"):
            recipe = given.get("recipe")
            load_run_config(recipe and training_recipe(recipe), given["sets"] or [])
        if name.startswith("recipe ") and given.get("name", "NAME") != "NAME":
            is_training = name == "recipe show" and given["name"] in training_recipes()
            assert is_training or full_name(given["name"])


def test_brackets_on_the_pages_are_quoted() -> None:
    lines = [line for page in PAGES for line in commands(page)]
    assert len(lines) > 100
    bare = [line for line in lines if re.search(r"[\[*?]", re.sub(r"'[^']*'", "", line))]
    assert [line for line in bare if "*.wav" not in line] == []


@pytest.mark.parametrize("line", ["prep --epochs 3", "data shw synth", "sweep --patches 8"])
def test_a_command_that_cannot_be_typed_is_noticed(line: str) -> None:
    with pytest.raises(Exception, match="No such"):
        parsed(line)
