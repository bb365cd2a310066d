"""Find and read recipe files.

They lie in ``recipes/`` of the source tree and in ``share/elastictool/recipes`` of an
installation. A recipe is named by paper and file (``elasticast/fig4_voxceleb``), or by the file
alone if that is unambiguous.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any

from elastictool.config.coerce import dotted, from_dict, merged
from elastictool.config.loader import read_settings
from elastictool.config.recipe_file import recipes_root, training_recipes
from elastictool.config.yaml_text import read_yaml
from elastictool.recipes.spec import RENAMED_KEYS, Recipe, Scale
from elastictool.utils.errors import UsageError, shown
from elastictool.utils.registry import nearest_hint

PAPERS = ("elasticast", "flexiast")


def recipe_names() -> list[str]:
    """Returns PAPER/FILE of every recipe."""
    root = recipes_root()
    return [
        f"{paper}/{path.stem}" for paper in PAPERS for path in sorted((root / paper).glob("*.yaml"))
    ]


def full_name(text: str) -> str:
    """Returns PAPER/FILE of the recipe that a user names.

    Raises:
        UsageError: None or several match.
    """
    text = text.removesuffix(".yaml").removeprefix("recipes/")
    known = recipe_names()
    found = [name for name in known if text in (name, name.partition("/")[2])]
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(f"{text!r} is {len(found)} recipes", f"name one: {', '.join(found)}")
    if text in training_recipes():
        raise UsageError(
            f"{text!r} is the recipe of a training, not of a figure or table",
            f"elastictool train --recipe {text}",
        )
    hint = nearest_hint(text, [*known, *training_recipes()])
    raise UsageError(f"unknown recipe {shown(text)}", hint)


def recipe_file(name: str) -> Path:
    """Returns the file of the recipe PAPER/FILE."""
    return recipes_root() / f"{name}.yaml"


@cache
def load_recipe(name: str) -> Recipe:
    """Reads the recipe PAPER/FILE, with the recipes that its scales include.

    Raises:
        UsageError: An unknown key (the hint names the nearest), a wrong value, or a name that
            refers to nothing.
    """
    recipe = _read(name)
    return dataclasses.replace(recipe, scales={key: _scale(name, key) for key in recipe.scales})


@cache
def _read(name: str) -> Recipe:
    """Reads the recipe without its includes."""
    path = recipe_file(name)
    with _in_file(path):
        values = read_yaml(path)
        _reject_renamed(values)
        return dataclasses.replace(from_dict(Recipe, values), name=name)


def _reject_renamed(values: Any) -> None:
    """Raises an error that names the present key where an old key is used."""
    if isinstance(values, Mapping):
        for key, value in values.items():
            if key in RENAMED_KEYS:
                raise UsageError(f"unknown key {key!r}", f"it is now {RENAMED_KEYS[key]!r}")
            _reject_renamed(value)
    elif isinstance(values, list):
        for value in values:
            _reject_renamed(value)


def _scale(name: str, key: str, includers: tuple[str, ...] = ()) -> Scale:
    """Returns a scale with its included recipes and the complete settings of its runs."""
    if name in includers:
        raise UsageError(f"recipes include one another: {' > '.join((*includers, name))}")
    scale = _read(name).scale(key)
    with _in_file(recipe_file(name)):
        parts: dict[str, Any] = {
            part: dict(getattr(scale, part)) for part in ("data", "weights", "runs")
        }
        for run, spec in scale.runs.items():
            path = recipes_root() / f"{spec.recipe}.yaml"
            below = training_settings(path) if spec.recipe else {}
            settings = merged(below, scale.settings, spec.settings)
            parts["runs"][run] = dataclasses.replace(spec, settings=settings)
        for other in map(full_name, scale.include):
            included = _scale(other, key, (*includers, name))
            for part, entries in parts.items():
                for entry, value in getattr(included, part).items():
                    if entries.setdefault(entry, value) != value:
                        raise UsageError(
                            f"{entry!r} is something else here than in {other}, which is included"
                        )
        whole = dataclasses.replace(scale, **parts)
        whole.check_names()
    return whole


@contextmanager
def _in_file(path: Path) -> Iterator[None]:
    """Names the file in errors that are raised inside."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{path}: {error.message}", error.hint) from error


def training_settings(path: Path, sets: Sequence[str] = ()) -> dict[str, Any]:
    """Returns the settings of a training recipe and ``sets`` by dotted key, without name, weights
    and teacher, which a recipe of steps sets by ``weights``, ``start`` and ``teacher``."""
    values = read_settings(path, sets)
    own = ("init.", "train.distill.")
    return {key: values[key] for key in values if key != "name" and not key.startswith(own)}


def described_training(name: str) -> tuple[str, str]:
    """Returns the command and the description of a training recipe, its file's first comment."""
    lines = recipe_file(name).read_text("utf-8").splitlines()
    words = list(takewhile(lambda line: line.startswith("#"), lines))
    text = " ".join(line.removeprefix("#").strip() for line in words).replace("\\ ", "")
    command = re.match(r"elastictool train( --?[\w-]+ \S+)*", text)
    length = command.end() if command else 0
    return text[:length], text[length:].strip()


def own_settings(name: str) -> dict[str, list[str]]:
    """Returns the settings that the recipe's file gives scale ``paper``, by dotted name.

    Each has its distinct values over the file's runs as text; included recipes do not count.
    """
    paper = read_yaml(recipe_file(name))["scales"]["paper"]
    runs, weights = (paper.get(part, {}).values() for part in ("runs", "weights"))
    found: dict[str, list[str]] = {}
    for part in (paper, *runs, *weights):
        for key, value in dotted(part.get("settings", {})).items():
            values = found.setdefault(key, [])
            if str(value) not in values:
                values.append(str(value))
    return found
