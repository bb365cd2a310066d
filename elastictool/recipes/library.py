"""Finding and reading recipe files.

They lie in ``recipes/`` of the source tree, where people read and change them, and in
``share/elastictool/recipes`` of an installation. A recipe is named by paper and file
(``elasticast/fig4_voxceleb``), or by its file alone where that is clear.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import elastictool
from elastictool.config.loader import from_dict, merged, read_yaml
from elastictool.recipes.spec import Recipe, RunSpec, Scale
from elastictool.utils.errors import UsageError
from elastictool.utils.registry import nearest_hint

PAPERS = ("elasticast", "flexiast")


def recipes_root() -> Path:
    """The folder that holds ``elasticast/`` and ``flexiast/``, beside the training recipes.

    Raises:
        UsageError: This installation came without them.
    """
    package = Path(elastictool.__file__).resolve().parent
    shared = [parent / "share" / "elastictool" / "recipes" for parent in package.parents]
    for place in (package.parent / "recipes", *shared):
        if (place / PAPERS[0]).is_dir():
            return place
    raise UsageError(
        f"there are no recipes beside {package}", "install elastictool again, or use a checkout"
    )


def recipe_names() -> list[str]:
    """PAPER/FILE of every recipe."""
    root = recipes_root()
    return [
        f"{paper}/{path.stem}" for paper in PAPERS for path in sorted((root / paper).glob("*.yaml"))
    ]


def full_name(text: str) -> str:
    """PAPER/FILE of what a user calls a recipe.

    Raises:
        UsageError: There is none, or several.
    """
    text = text.removesuffix(".yaml").removeprefix("recipes/")
    known = recipe_names()
    found = [name for name in known if text in (name, name.partition("/")[2])]
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(f"{text!r} is {len(found)} recipes", f"name one: {', '.join(found)}")
    raise UsageError(f"unknown recipe {text!r}", nearest_hint(text, known))


def training_recipe(path: Path) -> Path:
    """The file of settings that a user names: a path, or one of ours by its name.

    Raises:
        UsageError: There is no such file.
    """
    if path.exists():
        return path
    root = recipes_root()
    name = path.as_posix().removesuffix(".yaml").removeprefix("recipes/")
    ours = root / f"{name}.yaml"
    if ours.is_file():
        return ours
    known = sorted(file.stem for file in root.glob("*.yaml"))
    raise UsageError(f"there is no recipe {path}", f"{nearest_hint(name, known)}; or give a file")


def recipe_file(name: str) -> Path:
    """The file of the recipe PAPER/FILE."""
    return recipes_root() / f"{name}.yaml"


@cache
def load_recipe(name: str) -> Recipe:
    """Read the recipe PAPER/FILE, with what its scales include.

    Raises:
        UsageError: An unknown key (the hint names the nearest), a wrong value, or a name that
            refers to nothing.
    """
    recipe = _read(name)
    scales = {key: _scale(name, key) for key in recipe.scales}
    return dataclasses.replace(recipe, scales=scales)


@cache
def _read(name: str) -> Recipe:
    """The recipe as its file has it."""
    path = recipe_file(name)
    with _in_file(path):
        return dataclasses.replace(from_dict(Recipe, read_yaml(path)), name=name)


def _scale(name: str, key: str, includers: tuple[str, ...] = ()) -> Scale:
    """A scale of a recipe: its own settings in its runs, and what it includes."""
    if name in includers:
        raise UsageError(f"recipes include one another: {' > '.join((*includers, name))}")
    scale = _read(name).scale(key)
    with _in_file(recipe_file(name)):
        runs = {run: _with_settings(spec, scale) for run, spec in scale.runs.items()}
        data, weights = dict(scale.data), dict(scale.weights)
        for other in map(full_name, scale.include):
            theirs = _scale(other, key, (*includers, name))
            _add(data, theirs.data, other)
            _add(weights, theirs.weights, other)
            _add(runs, theirs.runs, other)
        whole = dataclasses.replace(scale, data=data, weights=weights, runs=runs)
        whole.check_names()
    return whole


@contextmanager
def _in_file(path: Path) -> Iterator[None]:
    """Inside, an error says in which file it is."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{path}: {error.message}", error.hint) from error


E = TypeVar("E")


def _add(mine: dict[str, E], theirs: Mapping[str, E], other: str) -> None:
    for name, entry in theirs.items():
        if mine.setdefault(name, entry) != entry:
            raise UsageError(f"{name!r} is something else here than in {other}, which is included")


def _with_settings(run: RunSpec, scale: Scale) -> RunSpec:
    """The run with training recipe, weights' settings and the scale's settings below its own."""
    settings = merged(_training_recipe(run.recipe), scale.settings)
    return dataclasses.replace(run, settings=merged(settings, run.settings))


def _training_recipe(name: str) -> dict[str, Any]:
    """The settings of ``recipes/NAME.yaml``; its name, and weights and teacher of its own, are
    left out: a graph says where those come from."""
    if not name:
        return {}
    values = read_yaml(recipes_root() / f"{name}.yaml")
    values.pop("name", None)
    values.pop("init", None)
    values.get("train", {}).pop("distill", None)
    return values


def own_settings(name: str) -> dict[str, list[str]]:
    """The settings of scale ``paper`` that the recipe's own file holds, by dotted name.

    Each with its different values over the file's runs, as text; what is included is left out.
    """
    paper = read_yaml(recipe_file(name))["scales"]["paper"]
    found: dict[str, list[str]] = {}
    runs = paper.get("runs", {}).values()
    weights = paper.get("weights", {}).values()
    for part in (paper, *runs, *weights):
        for key, value in _leaves(part.get("settings", {})):
            values = found.setdefault(key, [])
            if str(value) not in values:
                values.append(str(value))
    return found


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
