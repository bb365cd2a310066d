"""Finds training recipes, and reads them with what they extend.

Recipes lie in ``recipes/`` of the source tree, where people read and change them, and in
``share/elastictool/recipes`` of an installation.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import elastictool
from elastictool.config.yaml_text import read_yaml
from elastictool.utils.errors import UsageError, shown
from elastictool.utils.registry import nearest_hint


def recipes_root() -> Path:
    """Returns the folder of the training recipes and of the papers' recipes below it.

    Raises:
        UsageError: This installation came without them.
    """
    package = Path(elastictool.__file__).resolve().parent
    shared = [parent / "share" / "elastictool" / "recipes" for parent in package.parents]
    for folder in (package.parent / "recipes", *shared):
        if (folder / "elasticast").is_dir():
            return folder
    raise UsageError(
        f"there are no recipes next to {package}", "install elastictool again, or use a checkout"
    )


def training_recipes() -> list[str]:
    """Returns the names of the included training recipes."""
    return sorted(file.stem for file in recipes_root().glob("*.yaml"))


def training_recipe(path: Path) -> Path:
    """Returns the recipe file that a user names: a path, or the name of an included recipe.

    Raises:
        UsageError: There is no such file.
    """
    return path if os.path.exists(path) else _included(path)


def recipe_layers(path: Path, extending: tuple[Path, ...] = ()) -> list[dict[str, Any]]:
    """Returns the settings of a recipe file, after those of the recipe that it ``extends``.

    The name of a run is not handed down: it stands for exactly one recipe. ``extending`` are the
    files that extend this one, the first one first.

    Raises:
        UsageError: A file is missing or no YAML mapping, is a figure's recipe, or extends itself.
    """
    if path.resolve() in [file.resolve() for file in extending]:
        chain = " > ".join(file.name for file in (*extending, path))
        raise UsageError(f"recipes extend one another: {chain}", "take one `extends` out")
    values = read_yaml(path)
    if {"title", "scales"} <= values.keys():
        raise UsageError(
            f"{path} is the recipe of a figure or table, not of a training",
            f"elastictool recipe run {path.parent.name}/{path.stem}",
        )
    parent = values.pop("extends", "")
    if not isinstance(parent, str):
        raise UsageError(
            f"{path}: extends = {shown(parent)} must be the name of one recipe or file"
        )
    if not parent:
        return [values]
    nearby = [path.parent / parent, path.parent / f"{parent}.yaml"]
    try:
        file = next(filter(os.path.isfile, nearby), None) or _included(Path(parent))
    except UsageError as error:
        raise UsageError(f"{path} extends {shown(parent)}: {error.message}", error.hint) from None
    layers = recipe_layers(file, (*extending, path))
    for layer in layers:
        layer.pop("name", None)
    return [*layers, values]


def _included(path: Path) -> Path:
    """Returns the training recipe of that name that comes with the package."""
    root = recipes_root()
    name = path.as_posix().removesuffix(".yaml").removeprefix("recipes/")
    if os.path.isfile(found := root / f"{name}.yaml"):
        return found
    raise UsageError(
        f"there is no recipe {shown(str(path))}",
        f"{nearest_hint(name, training_recipes())}; or give a file",
    )
