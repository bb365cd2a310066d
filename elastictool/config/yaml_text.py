"""Reads YAML texts of settings: of recipes, of a run's ``config.yaml``, and of ``--set``.

A text may come from anywhere. Beyond its own errors PyYAML raises whatever the conversion of a
value raises (a date such as 2001-99-99, ``!!int abc``), recurses as deep as brackets are nested,
and hands out aliases that a few lines multiply to billions of values. So size and depth are bounded
before anything is converted, and each failure is one message with its line.
"""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any, cast

import yaml

from elastictool.utils.errors import UsageError, first_line, shown
from elastictool.utils.io import open_file

_MOST_BYTES = 1_000_000
_MOST_VALUES = 10_000
"""Keys and values of a text, aliases expanded; the largest recipe has 900."""
_MOST_LEVELS = 32
_MOST_BITS = 1_024
_CONVERSION = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


class _Loader(yaml.SafeLoader):
    """Safe loading within bounds; refuses a key given twice, of which PyYAML keeps the last."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._level = 0
        self._sizes: dict[yaml.Node, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Composes a value and counts those in it; an alias counts as what it stands for."""
        is_alias = self.check_event(yaml.AliasEvent)
        mark: yaml.Mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        if self._level == _MOST_LEVELS:
            raise _error(f"more than {_MOST_LEVELS} levels", mark)
        self._level += 1
        node = cast(yaml.Node, super().compose_node(parent, index))
        self._level -= 1
        if is_alias and node not in self._sizes:
            raise _error("a value that contains itself", mark)
        if not is_alias:
            inner = () if isinstance(node, yaml.ScalarNode) else node.value
            parts = chain.from_iterable(inner) if isinstance(node, yaml.MappingNode) else inner
            self._sizes[node] = 1 + sum(self._sizes[part] for part in parts)
        if max(self._sizes[node], len(self._sizes)) > _MOST_VALUES:
            raise _error(f"more than {_MOST_VALUES:,} keys and values", mark)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Converts a value; what its conversion raises becomes an error with its line."""
        try:
            value = super().construct_object(node, deep)
        except _CONVERSION as error:
            kind = node.tag.rpartition(":")[2]
            why = f": {first_line(error)}" if isinstance(error, ValueError) else ""
            raise _error(f"{shown(node.value)} is no {kind}{why}", node.start_mark) from error
        if isinstance(value, int) and value.bit_length() > _MOST_BITS:
            raise _error("a number of hundreds of digits", node.start_mark)
        return value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Converts a mapping."""
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    twice = f"the key {shown(key.value)} stands twice in one mapping"
                    raise _error(twice, key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _error(problem: str, mark: yaml.Mark) -> yaml.YAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


def parse_yaml(text: str, what: str) -> Any:
    """Returns the value of a YAML text, loaded safely.

    Args:
        text: The text.
        what: What it is, for messages.

    Raises:
        UsageError: It is not valid YAML, or larger than settings are.
    """
    if len(text) > _MOST_BYTES:
        raise UsageError(f"{what} is no file of settings: it has more than {_MOST_BYTES:,} bytes")
    try:
        return _Loader(text).get_single_data()
    except (yaml.YAMLError, *_CONVERSION) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark and "\n" in text.strip() else ""
        problem = getattr(error, "problem", None) or first_line(error)
        raise UsageError(f"{what} is not valid YAML{line}: {problem}") from error


def read_yaml(path: Path) -> dict[str, Any]:
    """Returns the mapping in a YAML file, loaded safely.

    Raises:
        UsageError: No such file, not YAML, or not a mapping.
    """
    try:
        with open_file(path) as file:
            text = file.read(_MOST_BYTES + 1).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text: {error.reason}", "save it as UTF-8") from error
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", "check the path") from error
    document = parse_yaml(text, str(path))
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise UsageError(f"{path} must hold a mapping of sections, not {type(document).__name__}")
    return document
