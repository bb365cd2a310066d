"""Settings by dotted key, so that later ones replace earlier ones with ``|``.

A recipe file nests its sections (``train: {lr: 1e-4}``), ``--set`` has dotted keys
(``train.lr=1e-4``), and both mean the same. Everything that merges or compares settings does so on
``{"train.lr": 1e-4}``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from elastictool.utils.errors import UsageError


def dotted(values: Mapping[str, Any], section: str = "") -> dict[str, Any]:
    """Returns settings, nested or dotted already, by dotted key.

    Raises:
        UsageError: A setting is given nested and dotted.
    """
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{section}.{key}" if section else str(key)
        inner = dotted(value, name) if isinstance(value, Mapping) else {name: value}
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
        place = found
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise UsageError(f"{key}: {section!r} is a value, not a section")
        place[last] = value
    return found


def merged(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Returns settings by dotted key; those of a later layer replace those of earlier ones."""
    return {key: value for layer in layers for key, value in dotted(layer).items()}
