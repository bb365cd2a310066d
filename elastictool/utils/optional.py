"""Checks packages that only some commands need: how to install them, or why one fails."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import os
from functools import lru_cache
from pathlib import Path


def install_command(extra: str) -> str:
    """Returns the command that installs an extra, wherever elastictool comes from.

    The package is on no index: pip knows it by name where it is installed, and a clone by its
    folder, which an editable installation has to stay.
    """
    clone = Path(__file__).resolve().parents[2]
    if not (clone / "pyproject.toml").is_file():
        return f'pip install "elastictool[{extra}]"'
    place = "." if clone.samefile(os.curdir) else clone
    return f'pip install {"-e " if _is_editable(clone) else ""}"{place}[{extra}]"'


def _is_editable(clone: Path) -> bool:
    """Returns whether the installed package is a link to the clone."""
    try:
        origin = importlib.metadata.distribution("elastictool").read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:  # run in the clone, without installation
        return False
    facts = json.loads(origin or "{}")
    here = facts.get("url") == clone.as_uri()
    return here and bool(facts.get("dir_info", {}).get("editable"))


def missing_extra(extra: str, *modules: str) -> str:
    """Returns how to make an extra usable: an install command or a hint; empty if it is usable.

    Args:
        extra: Its name.
        modules: What is imported of its packages; by default the package of its name.
    """
    for module in modules or (extra,):
        if importlib.util.find_spec(_package(module)) is None:
            return install_command(extra)
        if reason := import_failure(module):
            return reinstall_hint(module, reason)
    return ""


def reinstall_hint(module: str, reason: str) -> str:
    """Returns a hint for a package that is installed and fails."""
    package = _package(module)
    return (
        f"{package} is installed, but {module} cannot be imported ({reason}); "
        f"install it anew: pip install --force-reinstall --no-deps {package}"
    )


def describe_error(error: Exception) -> str:
    """Returns an import error in one line: some have their cause in a later line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


@lru_cache
def import_failure(module: str) -> str:
    """Returns why an installed module cannot be imported; empty if it can."""
    try:
        importlib.import_module(module)
    except Exception as error:  # a library built for another version may raise anything
        return describe_error(error)
    return ""


def _package(module: str) -> str:
    return module.partition(".")[0]
