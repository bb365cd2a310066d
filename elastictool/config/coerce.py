"""Converts dataclasses to plain values (YAML, JSON) and back, nested or by dotted key.

A recipe file nests its sections (``train: {lr: 1e-4}``), ``--set`` has dotted keys
(``train.lr=1e-4``), and both mean the same. Everything that merges or compares settings does so on
``{"train.lr": 1e-4}``, where later ones replace earlier ones with ``|``.

Values are converted by the type of their field, because YAML's types are not the reader's: PyYAML
reads ``1e-5`` as text (YAML 1.1 wants a dot), ``yes`` as true and nothing as null. A version with
pydantic 2.14 was tried: with validators against true for 1 and for pairs given as one number, and
with its errors translated into messages with the nearest name and the meaning of the setting, it
had 114 lines of code instead of 75 and added 0.09 s to the start of every command that reads a
configuration.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from datetime import date
from typing import Any, Literal, TypeVar

from elastictool.config.words import explained, names_by_key, sections, unknown_key_hint
from elastictool.utils.errors import UsageError, shown
from elastictool.utils.registry import nearest_hint

C = TypeVar("C")
_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
_MOST_WHOLE = 2.0**63
"""Numbers from here on do not fit into numpy's and torch's."""


def from_dict(cls: type[C], values: Mapping[str, Any], where: str = "") -> C:
    """Builds the dataclass ``cls`` from plain values, converting each by its field's type.

    Raises:
        UsageError: An unknown key (the hint names the nearest) or a value of the wrong type.
    """
    if not isinstance(values, Mapping):
        raise UsageError(f"{where or 'the configuration'} must be a mapping, not {shown(values)}")
    hints, names = typing.get_type_hints(cls), names_by_key(cls)
    prefix = f"{where}." if where else ""
    built: dict[str, Any] = {}
    for key, value in values.items():
        path = f"{prefix}{key}"
        if key not in names:
            is_setting = dict(sections()).get(where) is cls
            known = [prefix + name for name in names]
            hint = unknown_key_hint(path) if is_setting else nearest_hint(path, known)
            raise UsageError(f"unknown configuration key {shown(path)}", hint)
        built[names[key]] = _convert(hints[names[key]], value, path)
    try:
        return cls(**built)
    except UsageError as error:  # its message begins with the name of the setting
        hint = error.hint or explained(error.message.partition(" ")[0])
        raise UsageError(error.message, hint) from None


def to_dict(config: Any) -> dict[str, Any]:
    """Returns the plain values of a configuration, tuples as lists, ready for YAML or JSON."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            names = names_by_key(type(value))
            return {key: plain(getattr(value, name)) for key, name in names.items()}
        if isinstance(value, dict):
            return {key: plain(inner) for key, inner in value.items()}
        return [plain(inner) for inner in value] if isinstance(value, (tuple, list)) else value

    return typing.cast(dict[str, Any], plain(config))


def flat_settings(config: Any) -> dict[str, Any]:
    """Returns the plain values of a configuration by dotted key."""
    return dotted(to_dict(config))


def _convert(kind: Any, value: Any, path: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return from_dict(kind, value, path)
    if origin in (Mapping, dict):
        if not isinstance(value, Mapping):
            raise UsageError(f"{path} must be a mapping, not {shown(value)}")
        return {str(k): _convert(arguments[1], v, f"{path}.{k}") for k, v in value.items()}
    if origin in (typing.Union, types.UnionType):
        (inner,) = (argument for argument in arguments if argument is not type(None))
        return None if value is None else _convert(inner, value, path)
    if origin is Literal:
        if value not in arguments:
            hint = nearest_hint(str(value), [str(argument) for argument in arguments])
            raise UsageError(
                f"{path} = {shown(value)} is not one of its values",
                ". ".join(filter(None, (hint, explained(path)))),
            )
        return value
    if origin is list and isinstance(value, list):
        return [_convert(arguments[0], item, path) for item in value]
    if origin is tuple:
        return _convert_tuple(arguments, value, path)
    return _convert_scalar(kind, value, path)


def _convert_tuple(kinds: tuple[Any, ...], value: Any, path: str) -> tuple[Any, ...]:
    """Returns a list, or text with commas, as a tuple; one value stands for each of a pair."""
    if isinstance(value, str) and "," in value:
        value = [part.strip() for part in value.strip("[]() ").split(",")]
    many = kinds[-1] is Ellipsis
    items = value if isinstance(value, (list, tuple)) else [value] * (1 if many else len(kinds))
    kinds = kinds[:1] * len(items) if many else kinds
    if len(items) != len(kinds):
        raise UsageError(f"{path} = {shown(value)} must have {len(kinds)} values", explained(path))
    return tuple(_convert(kind, item, path) for kind, item in zip(kinds, items, strict=True))


def _convert_scalar(kind: Any, value: Any, path: str) -> Any:
    if value is None and kind is not str:
        raise UsageError(f"{path} has no value, but needs {_KINDS[kind]}", explained(path))
    if isinstance(value, bool):
        if kind is bool:
            return value
    elif kind is str and isinstance(value, (str, int, float, date, type(None))):
        return "" if value is None else str(value)
    elif kind in (int, float):
        with contextlib.suppress(ValueError, OverflowError, TypeError):
            number = float(value)
            if kind is float and math.isfinite(number):
                return number
            if kind is int and number == int(number):
                if abs(number) >= _MOST_WHOLE:
                    raise UsageError(f"{path} = {shown(value)} is too large", explained(path))
                return value if isinstance(value, int) else int(number)
    raise UsageError(f"{path} = {shown(value)} is not {_KINDS.get(kind, kind)}", explained(path))


def dotted(values: Mapping[str, Any], section: str = "") -> dict[str, Any]:
    """Returns settings, nested or dotted already, by dotted key.

    Raises:
        UsageError: A setting is given nested and dotted.
    """
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{section}.{key}" if section else str(key)
        is_section = isinstance(value, Mapping) and (value or name in dict(sections()))
        inner = dotted(value, name) if is_section else {name: value}
        if twice := sorted(found.keys() & inner.keys()):
            raise UsageError(f"{twice[0]} is given twice", "take one of them out")
        found |= inner
    return found


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns settings with dotted keys as a mapping of sections.

    Raises:
        UsageError: One key is a value and a section.
    """
    found: dict[str, Any] = {}
    for key, value in values.items():
        *sections, last = key.split(".")
        node = found
        for section in sections:
            node = node.setdefault(section, {})
            if not isinstance(node, dict):
                raise UsageError(f"{key}: {section!r} is a value, not a section")
        node[last] = value
    return found


def merged(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Returns settings by dotted key; those of a later layer replace those of earlier ones."""
    return {key: value for layer in layers for key, value in dotted(layer).items()}
