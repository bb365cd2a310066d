"""List every setting of a run with default, values and meaning.

All of it comes from the configuration classes (``config/words.py``), and the names of
interchangeable parts from their tables. ``docs/settings.md`` is ``settings_page()``, and ``train
--print-config`` writes the same meanings as comments.
"""

from __future__ import annotations

import inspect
import json
import textwrap
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import yaml

from elastictool.config import SIZES, RunConfig
from elastictool.config.coerce import to_dict
from elastictool.config.words import MODEL_SIZE, names_by_key, sections, settings

_KINDS = {int: "whole number", float: "number", str: "text", bool: "true or false"}
_COMMENT_WIDTH = 96


def settings_page() -> str:
    """Return the text of ``docs/settings.md``."""
    parts = [
        "# Settings\n\n"
        "Made by `python scripts/settings.py`.\n\n"
        "A run's settings are the defaults below, over them a recipe file (`--recipe FILE`, YAML\n"
        "with these sections), and over both `--set section.key=value` (lists in quotes:\n"
        "`--set 'flexi.sizes=[8,16]'`). A recipe that begins with `extends: OTHER` is laid over\n"
        "another recipe: a file in the same folder or one of `recipes/`, by name. It takes over\n"
        "all settings but `name`. `elastictool train --print-config` prints the result with these\n"
        "descriptions; the run directory keeps it as `config.yaml`. Single keys take precedence\n"
        "over `model.preset` and `model.size`. A setting that another one leaves without effect\n"
        "is refused; one of a recipe that a `--set`, or a recipe over it, leaves without effect\n"
        "falls back to its default.\n",
    ]
    for path, cls in sections():
        title = f"## `{path}`" if path else "## At the top"
        parts.append(f"{title}\n\n{_meaning(cls)}\n\n{_table(path, cls)}\n")
    return "\n".join(parts)


def commented_yaml(config: RunConfig) -> str:
    """Return ``config`` as YAML with the meaning of each section and setting as comments."""
    return "".join(f"{line}\n" for line in _commented(to_dict(config), dict(sections())))


def _commented(
    values: Mapping[str, Any], classes: Mapping[str, type], path: str = ""
) -> Iterator[str]:
    indent = "  " * (path.count(".") + 1) if path else ""
    for key, value in values.items():
        name = f"{path}.{key}" if path else key
        if name in classes:
            yield ""
            yield from _comment(_meaning(classes[name]).splitlines(), indent)
            yield f"{indent}{key}:"
            yield from _commented(value, classes, name)
        else:
            known = _known(name)
            words = settings()[name] + (f" Known: {', '.join(known)}." if known else "")
            width = _COMMENT_WIDTH - len(indent)
            yield from _comment(
                textwrap.wrap(_markdown(words), width, break_on_hyphens=False), indent
            )
            yield from textwrap.indent(_yaml({key: value}), indent).splitlines()


def _comment(lines: Sequence[str], indent: str) -> list[str]:
    return [f"{indent}# {line}".rstrip() for line in lines]


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True)


def _meaning(cls: type) -> str:
    """Return the class's docstring in Markdown."""
    return _markdown(inspect.cleandoc(cls.__doc__ or ""))


def _markdown(text: str) -> str:
    return text.replace("``", "`")


def _table(path: str, cls: type) -> str:
    rows = ["| Key | Default | Values | Meaning |", "| --- | --- | --- | --- |"]
    hints, fields = typing.get_type_hints(cls), names_by_key(cls)
    defaults = to_dict(cls())
    for name, words in settings().items():
        section, _, key = name.rpartition(".")
        if section == path:
            shown = json.dumps(defaults.get(key, ""), ensure_ascii=False).strip('"') or "(empty)"
            kind = hints[fields[key]] if key in fields else str
            values = ", ".join(f"`{known}`" for known in _known(name)) or _values(kind)
            rows.append(f"| `{key}` | {shown} | {values} | {_markdown(words)} |")
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


def _known(name: str) -> list[str]:
    """Return the names in the registry that the setting ``name`` chooses from."""
    return _TABLES[name]() if name in _TABLES else []


def _planners() -> list[str]:
    from elastictool.packing.stream import known_planners

    return known_planners()


def _backends() -> list[str]:
    from elastictool.models.attention.base import ATTENTION

    return list(ATTENTION)


def _formats() -> list[str]:
    from elastictool.checkpoint.weights import weight_formats

    return weight_formats()


_TABLES: Mapping[str, Callable[[], list[str]]] = {
    MODEL_SIZE: lambda: list(SIZES),
    "packing.planner": _planners,
    "train.attention": _backends,
    "init.from": _formats,
}
