"""Loads the settings of a run: defaults < recipe YAML < repeated ``--set section.key=value``.

Settings are merged by dotted key, checked and converted by the dataclasses of this folder, and
checked together. Presets and sizes are replaced here by the settings that they stand for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from elastictool.config.coerce import dotted, flat_settings, from_dict, nested, to_dict
from elastictool.config.conflicts import check_together, made_idle
from elastictool.config.fbank import FRONTENDS, FbankConfig
from elastictool.config.model import PRESETS, SIZES
from elastictool.config.recipe_file import recipe_layers
from elastictool.config.run import RunConfig
from elastictool.config.words import MODEL_SIZE
from elastictool.config.yaml_text import parse_yaml
from elastictool.utils.errors import UsageError, shown
from elastictool.utils.registry import nearest_hint

_DECIDED_LATER = ("name", "data.dataset", "data.mean", "data.std", "model.", "train.precision")
"""What data, weights or machine decide where a run's settings leave it open."""


def load_run_config(recipe: Path | None, sets: Sequence[str] = ()) -> RunConfig:
    """Returns the defaults, over them the recipe, over both each ``section.key=value`` of ``sets``.

    Raises:
        UsageError: A file is missing or no YAML mapping, or a key or value is wrong.
    """
    return run_config(read_settings(recipe, sets))


def read_settings(recipe: Path | None, sets: Sequence[str] = ()) -> dict[str, Any]:
    """Returns the settings of the recipe file and ``sets`` by dotted key, without defaults.

    A layer takes back what it leaves without effect in the layers below it: who sets
    ``train.schedule.kind=constant`` over a recipe means the rest of its schedule, too.

    Raises:
        UsageError: A file is missing or no YAML mapping, a setting is not ``key=value``, or a key
            or value is wrong.
    """
    values: dict[str, Any] = {}
    for layer in [*(recipe_layers(recipe) if recipe else []), _assigned(sets)]:
        asked = dotted(layer)
        below, values = values, values | asked
        if below and asked:
            for setting in made_idle(run_config(values, complete=False), asked):
                values.pop(setting, None)
    return values


def run_config(values: Mapping[str, Any], complete: bool = True) -> RunConfig:
    """Returns the run that ``values`` over the defaults describe; presets and sizes are expanded.

    Args:
        values: Settings of a run, nested or dotted.
        complete: They are all that is asked for, so they are checked together too; a resumed run
            has others of its own, which may be what these belong to.

    Raises:
        UsageError: A key or value is wrong, or some do not go together.
    """
    config = from_dict(RunConfig, nested(_expanded(values)))
    if complete:
        check_together(config)
    return config


def with_settings(config: RunConfig, sets: Sequence[str]) -> RunConfig:
    """Returns ``config`` with each ``section.key=value`` of ``sets``; a preset sets its fields too.

    Raises:
        UsageError: A key or value is wrong.
    """
    return replaced_settings(config, _expanded(_assigned(sets), preset=""))


def replaced_settings(config: RunConfig, changes: Mapping[str, Any]) -> RunConfig:
    """Returns ``config`` with the values of ``changes``; nothing else follows from them."""
    return from_dict(RunConfig, nested(flat_settings(config) | dotted(changes)))


def frontend_config(name: str) -> FbankConfig:
    """Returns the default settings of a kind of filterbank.

    Raises:
        UsageError: There is no such kind.
    """
    return run_config({"fbank.frontend": name}).fbank


class Difference(NamedTuple):
    """A setting with the value that is asked for and the value that a run has."""

    asked: Any
    found: Any

    def text(self, key: str) -> str:
        """Returns ``section.key=value (the run: value)``."""
        return f"{key}={self.asked} (the run: {self.found})"


def other_settings(values: Mapping[str, Any], config: RunConfig) -> dict[str, Difference]:
    """Returns by dotted key which of ``values`` the resolved ``config`` of a run does not have.

    Values that mean themselves only until data, weights or machine decide (``auto``, no mean, no
    grid) are not compared with what was decided.

    Raises:
        UsageError: A key or value is wrong.
    """
    asked = run_config(values, complete=False)
    wanted, start, own = map(flat_settings, (asked, RunConfig(), config))
    return {
        key: Difference(wanted[key], own[key])
        for key in _expanded(values)
        if wanted[key] != own[key]
        and not (wanted[key] == start[key] and key.startswith(_DECIDED_LATER))
    }


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Difference]:
    """Returns by dotted key where two settings differ; what only one of them has does not count.

    ``asked`` is the value of ``now``, ``found`` that of ``before``.
    """
    old, new = dotted(before), dotted(now)
    keys = sorted(old.keys() & new.keys())
    return {key: Difference(new[key], old[key]) for key in keys if old[key] != new[key]}


def dump_yaml(config: Any) -> str:
    """Returns a configuration as YAML, in field order."""
    return yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True)


def _expanded(values: Mapping[str, Any], preset: str = "elasticast") -> dict[str, Any]:
    """Returns ``values`` by dotted key over the settings that presets and sizes stand for.

    Args:
        values: Settings, nested or dotted.
        preset: ``model.preset`` where they have none; empty is none.
    """
    given = dotted(values)
    implied = dict(PRESETS.get(str(given.get("model.preset", preset)), {}))
    size = given.pop(MODEL_SIZE, None)
    if size is not None:
        if not isinstance(size, str) or size not in SIZES:
            hint = nearest_hint(str(size), [*SIZES])
            raise UsageError(f"unknown {MODEL_SIZE} {shown(size)}", hint)
        implied["model.width"], implied["model.heads"] = SIZES[size]
    if "model.patch_size" in given:
        implied["model.patch_stride"] = given["model.patch_size"]
    if frontend := FRONTENDS.get(str(given.get("fbank.frontend"))):
        implied |= {f"fbank.{key}": value for key, value in frontend.defaults.items()}
    return given | {key: value for key, value in implied.items() if key not in given}


def _assigned(sets: Sequence[str]) -> dict[str, Any]:
    """Returns the settings of texts ``section.key=value`` by dotted key."""
    values: dict[str, Any] = {}
    for assignment in sets:
        key, separator, text = assignment.partition("=")
        if not separator or not key.strip():
            raise UsageError(
                f"--set {shown(assignment)} is not section.key=value", "e.g. train.lr=1e-4"
            )
        what = f"--set {shown(assignment)}: the value"
        values |= dotted({key.strip(): parse_yaml(text, what)})
    return values
