"""Every setting of a run, with its default, its values and what it means.

All of it comes from the configuration classes: names and types from their fields, meanings from
their docstrings. ``docs/settings.md`` is ``settings_page()``, and ``train --print-config`` writes
the same meanings as comments.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import types
import typing
from collections.abc import Iterator
from typing import Any, Literal

from elastictool.config import RunConfig
from elastictool.settings import dump_yaml, to_dict

_KINDS = {int: "whole number", float: "number", str: "text", bool: "true or false"}


def settings_page() -> str:
    """``docs/settings.md``."""
    parts = [
        "# Settings\n\n"
        "Made by `python scripts/settings.py`.\n\n"
        "A run's settings are the defaults below, over them a recipe file (`--recipe FILE`, YAML\n"
        "with these sections), and over both `--set section.key=value`. `elastictool train\n"
        "--print-config` prints what that comes to; the run directory keeps it as `config.yaml`.\n"
        "`model.preset` sets positions, prefix tokens, pooling and patch sizes as the papers do,\n"
        "`model.size` width and heads (`tiny`, `small`, `base`); single keys go before both.\n",
    ]
    for path, kind in _sections(RunConfig):
        title = f"## `{path}`" if path else "## At the top"
        parts.append(f"{title}\n\n{_meaning(kind)}\n\n{_table(kind)}\n")
    return "\n".join(parts)


def commented_yaml(config: RunConfig) -> str:
    """``config`` as YAML, the meaning of each section above it as comments."""
    meanings = {path: _meaning(kind) for path, kind in _sections(RunConfig)}
    lines: list[str] = []
    places: list[str] = []
    for line in dump_yaml(config).splitlines():
        key, separator, value = line.strip().partition(":")
        depth = (len(line) - len(line.lstrip())) // 2
        places = [*places[:depth], key]
        meaning = meanings.get(".".join(places))
        if separator and not value and meaning:
            indent = "  " * depth
            lines += ["", *(f"{indent}# {text}".rstrip() for text in meaning.splitlines())]
        lines.append(line)
    return "\n".join(lines) + "\n"


def _sections(kind: type, path: str = "") -> Iterator[tuple[str, type]]:
    """Each configuration class under ``kind``, itself first, with its path."""
    yield path, kind
    for field, hint in _fields(kind):
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            yield from _sections(hint, f"{path}.{field.name}" if path else field.name)


def _fields(kind: type) -> Iterator[tuple[dataclasses.Field[Any], Any]]:
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        yield field, hints[field.name]


def _meaning(kind: type) -> str:
    """The class's docstring in Markdown."""
    return inspect.cleandoc(kind.__doc__ or "").replace("``", "`")


def _table(kind: type) -> str:
    rows = ["| Key | Default | Values |", "| --- | --- | --- |"]
    defaults = to_dict(kind())
    for field, hint in _fields(kind):
        if not dataclasses.is_dataclass(hint):
            key = str(field.metadata.get("key", field.name))
            default = json.dumps(defaults[key], ensure_ascii=False).strip('"') or "(empty)"
            rows.append(f"| `{key}` | {default} | {_values(hint)} |")
    return "\n".join(rows)


def _values(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (typing.Union, types.UnionType):
        kinds = [_values(kind) for kind in arguments if kind is not type(None)]
        return " or ".join([*kinds, "null"])
    if origin is tuple:
        many = arguments[-1] is Ellipsis
        each = _values(arguments[0])
        return f"list, each {each}" if many else f"{len(arguments)} values, each {each}"
    return _KINDS[hint]
