"""Writes settings as YAML with the meaning of each as a comment, for ``train --print-config``.

All texts come from the configuration classes (``words.py``). Names of interchangeable parts
(planners, attention backends) are passed in, because their packages import this one.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from elastictool.config.coerce import to_dict
from elastictool.config.run import RunConfig
from elastictool.config.words import sections, settings
from elastictool.utils.text import printable

_WIDTH = 96


def commented_yaml(config: RunConfig, known: Mapping[str, Sequence[str]]) -> str:
    """Returns ``config`` as YAML with the meaning of each section and setting as comments.

    Args:
        config: The settings.
        known: Names that a setting chooses from, by setting.
    """
    lines = _commented(to_dict(config), dict(sections()), known)
    return "".join(f"{line}\n" for line in lines)


def markdown(text: str) -> str:
    """Returns text of a docstring in Markdown."""
    return inspect.cleandoc(text).replace("``", "`")


def _commented(
    values: Mapping[str, Any],
    classes: Mapping[str, type],
    known: Mapping[str, Sequence[str]],
    path: str = "",
) -> Iterator[str]:
    indent = "  " * (path.count(".") + 1) if path else ""
    for key, value in values.items():
        name = f"{path}.{key}" if path else key
        if name in classes:
            yield ""
            for line in markdown(classes[name].__doc__ or "").splitlines():
                yield f"{indent}# {line}".rstrip()
            yield f"{indent}{key}:"
            yield from _commented(value, classes, known, name)
        else:
            names = f" Known: {', '.join(known[name])}." if name in known else ""
            words, width = markdown(settings()[name] + names), _WIDTH - len(indent)
            for line in textwrap.wrap(words, width, break_on_hyphens=False):
                yield f"{indent}# {line}"
            yield from textwrap.indent(_plain_yaml({key: value}), indent).splitlines()


def _plain_yaml(values: Mapping[str, Any]) -> str:
    """Returns YAML that a terminal can show: with escapes where a value needs any."""
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    if printable(text, kept="\n") == text:
        return text
    return yaml.safe_dump(values, sort_keys=False)
