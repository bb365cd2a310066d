"""Write ``docs/settings.md``: every setting with default, values and meaning.

All of it comes from the configuration classes (``config/words.py``), and the names of
interchangeable parts from their registries.
"""

from __future__ import annotations

import json
import types
import typing
from pathlib import Path
from typing import Any, Literal

from elastictool.cli.train import known_parts
from elastictool.config.coerce import to_dict
from elastictool.config.comments import markdown
from elastictool.config.words import names_by_key, sections, settings
from elastictool.utils.io import write_text

KINDS = {int: "whole number", float: "number", str: "text", bool: "true or false"}
HEAD = """# Settings

Made by `python scripts/settings.py`.

A run's settings are the defaults below, overridden by a recipe (`--recipe FILE`, YAML with
these sections), overridden by `--set section.key=value` (lists in quotes:
`--set 'flexi.sizes=[8,16]'`). A recipe that begins with `extends: OTHER` overrides another
one, a file in the same folder or one of `recipes/` by name, and takes over all its settings
except `name`. Single keys take precedence over `model.preset` and `model.size`.

`elastictool train --print-config` prints the result with these descriptions; the run
directory keeps it as `config.yaml`. A setting that another one leaves without effect is an
error. If it comes from a recipe and the other one overrides that recipe, it falls back to
its default instead.
"""


def settings_page() -> str:
    """Return the text of ``docs/settings.md``."""
    parts, known = [HEAD], known_parts()
    for path, cls in sections():
        hints, fields, defaults = typing.get_type_hints(cls), names_by_key(cls), to_dict(cls())
        rows = ["| Key | Default | Values | Meaning |", "| --- | --- | --- | --- |"]
        for name, words in settings().items():
            section, _, key = name.rpartition(".")
            if section == path:
                shown = json.dumps(defaults.get(key, ""), ensure_ascii=False).strip('"')
                kind = hints[fields[key]] if key in fields else str
                values = ", ".join(f"`{x}`" for x in known.get(name, ())) or values_of(kind)
                rows.append(f"| `{key}` | {shown or '(empty)'} | {values} | {markdown(words)} |")
        title = f"## `{path}`" if path else "## At the top"
        parts.append("\n\n".join((title, markdown(cls.__doc__ or ""), "\n".join(rows))) + "\n")
    return "\n".join(parts)


def values_of(hint: Any) -> str:
    """Return the values of a type in words."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (typing.Union, types.UnionType):
        kinds = [values_of(kind) for kind in arguments if kind is not type(None)]
        return " or ".join([*kinds, "null"])
    if origin is tuple:
        each = f"each {values_of(arguments[0])}"
        return f"list, {each}" if arguments[-1] is Ellipsis else f"{len(arguments)} values, {each}"
    return KINDS[hint]


if __name__ == "__main__":
    write_text(Path(__file__).resolve().parents[1] / "docs" / "settings.md", settings_page())
