"""How text becomes a ``RunConfig``, and a configuration text again.

Defaults < recipe YAML < repeated ``--set section.key=value``. A key that does not exist or a
value of the wrong type is an error that names the nearest valid key. Presets and sizes are
replaced here by the fields that they stand for.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import yaml

from elastictool.config import FRONTENDS, PATCH_SIZES, SIZES, FbankConfig, RunConfig
from elastictool.config.conflicts import check_together, made_idle
from elastictool.config.words import (
    MODEL_SIZE,
    RENAMED,
    meaning,
    names_by_key,
    names_in,
    nearest_settings,
    sections,
)
from elastictool.utils.errors import UsageError
from elastictool.utils.registry import nearest_hint

C = TypeVar("C")


def from_dict(cls: type[C], values: Mapping[str, Any], where: str = "") -> C:
    """Build the dataclass ``cls`` from plain values, coercing each by its field's type.

    Raises:
        UsageError: An unknown key (the hint names the nearest) or a value of the wrong type.
    """
    if not isinstance(values, Mapping):
        raise UsageError(f"{where or 'the configuration'} must be a mapping, not {values!r}")
    hints, names = typing.get_type_hints(cls), names_by_key(cls)
    built: dict[str, Any] = {}
    for key, value in values.items():
        path = f"{where}.{key}" if where else str(key)
        if key not in names:
            raise UsageError(f"unknown configuration key {path!r}", _key_hint(cls, path, where))
        built[names[key]] = _coerce(hints[names[key]], value, path)
    try:
        return cls(**built)
    except UsageError as error:
        raise _with_meaning(error) from None


def _with_meaning(error: UsageError) -> UsageError:
    """A refused setting with what it means, if its name begins the message and no hint is given."""
    name = error.message.partition(" ")[0]
    return UsageError(error.message, error.hint or _explained(name))


def _explained(name: str) -> str:
    text = meaning(name)
    return f"{name}: {text}" if text else ""


def to_dict(config: Any) -> dict[str, Any]:
    """Plain values of a configuration, tuples as lists, ready for YAML or JSON."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            names = names_by_key(type(value))
            return {key: plain(getattr(value, name)) for key, name in names.items()}
        if isinstance(value, dict):
            return {key: plain(inner) for key, inner in value.items()}
        return [plain(inner) for inner in value] if isinstance(value, (tuple, list)) else value

    return typing.cast(dict[str, Any], plain(config))


def load_run_config(recipe: Path | None, sets: Sequence[str] = ()) -> RunConfig:
    """Defaults, then the recipe file, then each ``section.key=value`` of ``sets``.

    Raises:
        UsageError: The file is missing or no YAML mapping, or a key or value is wrong.
    """
    return run_config(read_settings(recipe, sets))


def read_settings(recipe: Path | None, sets: Sequence[str] = ()) -> dict[str, Any]:
    """What the recipe file and ``sets`` say, nested, without defaults.

    What ``sets`` leaves without effect in the recipe is left out: who sets
    ``train.schedule.kind=constant`` over a recipe means the rest of its schedule, too.

    Raises:
        UsageError: The file is missing or no YAML mapping, a setting is not ``key=value``, or a key
            or value is wrong.
    """
    values = {} if recipe is None else read_yaml(recipe)
    if {"title", "scales"} <= values.keys():
        name = f"{recipe.parent.name}/{recipe.stem}" if recipe else ""
        raise UsageError(
            f"{recipe} is the recipe of a figure or table, not of a training",
            f"elastictool recipe run {name}",
        )
    asked = {_assign(values, assignment) for assignment in sets}
    if recipe and asked:
        for setting in made_idle(run_config(values, complete=False), asked):
            *sections, last = setting.split(".")
            reduce(getitem, sections, values).pop(last, None)
    return values


def run_config(values: Mapping[str, Any], complete: bool = True) -> RunConfig:
    """The run that nested ``values`` over the defaults describe; presets and sizes are expanded.

    Args:
        values: Settings of a run.
        complete: They are all that is asked for, so they are judged together too; a resumed run
            has others of its own, which may be what these belong to.

    Raises:
        UsageError: A key or value is wrong, or some do not go together.
    """
    config = from_dict(RunConfig, _expanded(values))
    if complete:
        check_together(config)
    return config


def _expanded(values: Mapping[str, Any]) -> dict[str, Any]:
    """``values`` with presets and sizes replaced by what they stand for."""
    model = _expand_model(values.get("model", {}))
    flexi = _expand_flexi(model, values.get("flexi", {}))
    fbank = _expand_fbank(values.get("fbank", {}))
    return {**values, "model": model, "flexi": flexi, "fbank": fbank}


class Difference(NamedTuple):
    """A setting that is asked for and another one that a run has."""

    asked: Any
    found: Any

    def told(self, key: str) -> str:
        """``section.key=value (the run: value)``."""
        return f"{key}={self.asked} (the run: {self.found})"


def other_settings(values: Mapping[str, Any], config: RunConfig) -> dict[str, Difference]:
    """Which of the nested ``values`` the resolved ``config`` of a run does not have.

    Values that stand for themselves only until data, weights or machine decide (``auto``, no mean,
    no grid) are not held against what was decided.

    Returns:
        By dotted key.

    Raises:
        UsageError: A key or value is wrong.
    """
    wanted, start, own = (
        to_dict(c) for c in (run_config(values, complete=False), RunConfig(), config)
    )

    def compare(given: Any, path: str, *kinds: Any) -> Iterator[tuple[str, Difference]]:
        asked, default, found = kinds
        if isinstance(given, Mapping) and isinstance(asked, Mapping):
            for key in given:
                if key in asked:  # model.size is gone: it stands for others
                    below = f"{path}.{key}" if path else key
                    yield from compare(given[key], below, *(kind[key] for kind in kinds))
        elif asked != found and not (asked == default and path.startswith(_DECIDED_LATER)):
            yield path, Difference(asked, found)

    return dict(compare(_expanded(values), "", wanted, start, own))


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Difference]:
    """Where two nested settings differ, by dotted key; what only one of them has does not count.

    ``asked`` is the value of ``now``, ``found`` that of ``before``.
    """
    changed: dict[str, Difference] = {}
    for key in before.keys() & now.keys():
        old, new = before[key], now[key]
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            inner = differences(old, new)
            changed |= {f"{key}.{below}": difference for below, difference in inner.items()}
        elif old != new:
            changed[key] = Difference(new, old)
    return dict(sorted(changed.items()))


def replaced_settings(config: RunConfig, changes: Mapping[str, Any]) -> RunConfig:
    """``config`` with the values of ``changes``, by dotted key; nothing else follows from them."""
    values = to_dict(config)
    for key, value in changes.items():
        *sections, last = key.split(".")
        place = values
        for section in sections:
            place = place[section]
        place[last] = value
    return from_dict(RunConfig, values)


_DECIDED_LATER = ("name", "data.dataset", "data.mean", "data.std", "model.", "train.precision")
"""What data, weights or machine decide where a run's settings leave it open."""


def with_settings(config: RunConfig, sets: Sequence[str]) -> RunConfig:
    """``config`` with each ``section.key=value`` of ``sets``; a preset sets its own fields too.

    Raises:
        UsageError: A key or value is wrong.
    """
    changes: dict[str, Any] = {}
    for assignment in sets:
        _assign(changes, assignment)
    if "model" in changes:
        changes["model"] = _expand_model(changes["model"], preset="")
        changes["flexi"] = _expand_flexi(changes["model"], changes.get("flexi", {}))
    if "fbank" in changes:
        changes["fbank"] = _expand_fbank(changes["fbank"])
    return from_dict(RunConfig, merged(to_dict(config), changes))


def merged(values: Any, changes: Any) -> Any:
    """``changes`` over ``values``, mappings key by key."""
    if not (isinstance(values, Mapping) and isinstance(changes, Mapping)):
        return changes
    return dict(values) | {
        key: merged(values.get(key, {}), value) for key, value in changes.items()
    }


class _NoKeyTwice(yaml.SafeLoader):
    """Safe loading that refuses a key given twice; YAML forbids it, PyYAML keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"the key {key!r} stands twice in one mapping")
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, loaded safely.

    Raises:
        UsageError: No such file, not YAML, or not a mapping.
    """
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), _NoKeyTwice)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", "check the path") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid YAML: {error}") from error
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise UsageError(f"{path} must hold a mapping of sections, not {type(document).__name__}")
    return document


def dump_yaml(config: Any) -> str:
    """A configuration as YAML, in field order."""
    return yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True)


_AST = {"pos_embed": "grid", "prefix_tokens": 1, "pooling": "prefix", "fc_norm_eps": 1e-5}

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "elasticast": {
        "pos_embed": "factorised",
        "prefix_tokens": 0,
        "pooling": "attention",
        "fc_norm_eps": 1e-6,
    },
    "ast": _AST,
    "flexiast": _AST,
}
"""What a preset means, field by field; single fields can still be set beside it. ``flexiast`` is
a standard AST whose ``flexi.sizes`` are ``PATCH_SIZES`` where none are given."""


def _expand_fbank(values: Any) -> Any:
    """Fill in what a front end sets otherwise than ``FbankConfig``."""
    if not isinstance(values, Mapping) or str(values.get("frontend")) not in FRONTENDS:
        return values
    return {**FRONTENDS[str(values["frontend"])].defaults, **values}


def frontend_config(name: str) -> FbankConfig:
    """The filterbank of a front end as it comes.

    Raises:
        UsageError: There is no such front end.
    """
    return from_dict(FbankConfig, _expand_fbank({"frontend": name}), "fbank")


def _expand_model(values: Any, preset: str = "elasticast") -> Any:
    """Replace ``preset`` and ``size`` by the fields that they stand for."""
    if not isinstance(values, Mapping):
        return values
    values = dict(values)
    expanded: dict[str, Any] = dict(PRESETS.get(str(values.get("preset", preset)), {}))
    size = values.pop("size", None)
    if size is not None:
        if size not in SIZES:
            raise UsageError(f"unknown {MODEL_SIZE} {size!r}", nearest_hint(str(size), [*SIZES]))
        expanded["width"], expanded["heads"] = SIZES[size]
    if "patch_size" in values:
        expanded["patch_stride"] = values["patch_size"]
    return values | {key: value for key, value in expanded.items() if key not in values}


def _expand_flexi(model: Any, values: Any) -> Any:
    """FlexiAST's patch sizes, where the preset asks for them and no others are given."""
    if not (isinstance(model, Mapping) and isinstance(values, Mapping)):
        return values
    return ({"sizes": PATCH_SIZES} if model.get("preset") == "flexiast" else {}) | dict(values)


def _assign(values: dict[str, Any], assignment: str) -> str:
    """Write ``section.key=value`` into nested ``values``; returns the key."""
    key, separator, text = assignment.partition("=")
    if not separator or not key:
        raise UsageError(f"--set {assignment!r} is not section.key=value", "e.g. train.lr=1e-4")
    *sections, last = key.strip().split(".")
    place = values
    for section in sections:
        inner = place.setdefault(section, {})
        if not isinstance(inner, dict):
            raise UsageError(f"--set {key}: {section!r} is a value, not a section")
        place = inner
    try:
        place[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"--set {assignment!r}: the value is not valid YAML") from error
    return key.strip()


def _coerce(kind: Any, value: Any, path: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin is Mapping:
        if not isinstance(value, Mapping):
            raise UsageError(f"{path} must be a mapping, not {value!r}")
        return {str(k): _coerce(arguments[1], v, f"{path}.{k}") for k, v in value.items()}
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        (kind,) = (argument for argument in arguments if argument is not type(None))
        return _coerce(kind, value, path)
    if origin is Literal:
        if value not in arguments:
            known = [str(argument) for argument in arguments]
            raise UsageError(
                f"{path} = {value!r} is not one of its values",
                ". ".join(filter(None, (nearest_hint(str(value), known), _explained(path)))),
            )
        return value
    if origin is tuple:
        return _coerce_tuple(arguments, value, path)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return from_dict(kind, value, path)
    return _coerce_scalar(kind, value, path)


def _coerce_tuple(kinds: tuple[Any, ...], value: Any, path: str) -> tuple[Any, ...]:
    """A list, or text with commas, as a tuple; one value stands for each of a pair."""
    if isinstance(value, str) and "," in value:
        value = [part.strip() for part in value.strip("[]() ").split(",")]
    if kinds[-1] is Ellipsis:
        items = value if isinstance(value, (list, tuple)) else [value]
        return tuple(_coerce(kinds[0], item, path) for item in items)
    items = value if isinstance(value, (list, tuple)) else [value] * len(kinds)
    if len(items) != len(kinds):
        raise UsageError(f"{path} = {value!r} must have {len(kinds)} values", _explained(path))
    return tuple(_coerce(kind, item, path) for kind, item in zip(kinds, items, strict=True))


def _coerce_scalar(kind: Any, value: Any, path: str) -> Any:
    """PyYAML reads ``1e-5`` as text (YAML 1.1 wants a dot), hence strings become numbers here."""
    wrong = UsageError(f"{path} = {value!r} is not {_KINDS.get(kind, kind)}", _explained(path))
    if kind is str:  # YAML reads yes and no as true and false, and nothing as null
        if isinstance(value, (dict, list, bool)):
            raise wrong
        return "" if value is None else str(value)
    if value is None:
        raise UsageError(f"{path} has no value, but needs {_KINDS[kind]}", _explained(path))
    if kind is bool:
        if not isinstance(value, bool):
            raise wrong
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise wrong
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise wrong from None
    if not math.isfinite(number) or (kind is int and number != int(number)):
        raise wrong
    return int(number) if kind is int else number


_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def _key_hint(cls: type, path: str, where: str) -> str:
    """The settings that may be meant; beside other classes than a run's, the nearest key."""
    if dict(sections()).get(where) is not cls:
        return nearest_hint(path, [f"{where}.{key}" if where else key for key in names_by_key(cls)])
    if path in RENAMED:
        return f"it is called {RENAMED[path]!r} now"
    if meant := nearest_settings(path):
        return f"did you mean {' or '.join(map(repr, meant))}?"
    return f"known: {', '.join(names_in(where))}"
