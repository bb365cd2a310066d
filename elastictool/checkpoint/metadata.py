"""Read and check the metadata in the header of weights files, without the weights.

A file may come from anywhere, so nothing in its header is trusted: every value is checked before
a model is built from it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from elastictool.config import RunConfig
from elastictool.config.coerce import from_dict, to_dict
from elastictool.utils.errors import CheckpointError, UsageError
from elastictool.utils.io import finite, require_readable

_SAVED_AT = ("epoch", "step")
"""Numbers that distinguish the weights of a run from its earlier and later ones."""


@dataclass(frozen=True)
class WeightsMetadata:
    """The metadata of a weights file.

    Attributes:
        config: The resolved configuration of their run.
        label_names: Class names in the order of the logits.
        multi_label: Whether a clip may have several classes.
        metrics: Numbers recorded with the weights.
        thresholds: Decision threshold of each class, NaN where it could not be chosen; empty if
            none were chosen.
    """

    config: RunConfig
    label_names: tuple[str, ...]
    multi_label: bool
    metrics: Mapping[str, Any]
    thresholds: tuple[float, ...] = ()

    def header(self) -> dict[str, str]:
        """Returns the header that ``parse_metadata`` reads."""
        values = {
            "config": to_dict(self.config),
            "label_names": self.label_names,
            "multi_label": self.multi_label,
            "metrics": dict(self.metrics),
        }
        if self.thresholds:
            values["thresholds"] = [finite(value) for value in self.thresholds]
        return {key: json.dumps(value) for key, value in values.items()}


def read_metadata(file: Path) -> WeightsMetadata:
    """Returns the metadata of a weights file; raises what ``parse_metadata`` does."""
    require_readable(file)
    try:
        with safe_open(str(file), framework="np") as opened:
            return parse_metadata(file, opened.metadata() or {})
    except SafetensorError as error:
        raise CheckpointError(f"{file} is damaged or no safetensors file: {error}") from error


def parse_metadata(file: Path, header: Mapping[str, str]) -> WeightsMetadata:
    """Returns the metadata in the ``header`` of ``file``.

    Raises:
        CheckpointError: They are incomplete or contradict one another.
    """
    names = _value(file, header, "label_names", list)
    thresholds = _value(file, header, "thresholds", list, "[]")
    try:
        config = from_dict(RunConfig, _value(file, header, "config", dict))
    except UsageError as error:
        raise CheckpointError(
            f"{file} holds a configuration that this version cannot read: {error}"
        ) from error
    classes = config.model.num_classes
    if not all(isinstance(name, str) for name in names) or len(names) != classes:
        raise _invalid(file, f"label_names are {len(names)} and should be {classes} names")
    if not all(value is None or type(value) in (int, float) for value in thresholds) or len(
        thresholds
    ) not in (0, classes):
        raise _invalid(file, f"thresholds are {len(thresholds)} and should be {classes} numbers")
    return WeightsMetadata(
        config,
        tuple(names),
        _value(file, header, "multi_label", bool),
        _value(file, header, "metrics", dict),
        tuple(math.nan if value is None else float(value) for value in thresholds),
    )


def saved_at(metrics: Any) -> dict[str, int]:
    """Returns epoch and step of ``metrics`` recorded with weights; empty where they are unknown."""
    if not isinstance(metrics, dict) or not all(type(metrics.get(n)) is int for n in _SAVED_AT):
        return {}
    return {name: metrics[name] for name in _SAVED_AT}


def describe_outdated(run_dir: Path, checkpoint: str, weights: Any) -> str:
    """Returns a note if the run has other weights than those of a result; else empty.

    Args:
        run_dir: The run.
        checkpoint: Which of its checkpoints.
        weights: What the result records of its weights.
    """
    then = saved_at(weights)
    now: dict[str, int] = {}
    file = run_dir / "checkpoints" / f"{checkpoint}.safetensors"
    failures = (SafetensorError, OSError, KeyError, ValueError)
    with suppress(*failures), safe_open(str(file), framework="np") as opened:
        now = saved_at(json.loads((opened.metadata() or {})["metrics"]))
    if not then or not now or then == now:
        return ""
    return f"earlier weights (step {then['step']}, now {now['step']})"


def _value(
    file: Path, header: Mapping[str, str], key: str, kind: type, default: str | None = None
) -> Any:
    text = header.get(key, default)
    if text is None:
        raise _invalid(file, f"{key} is missing")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _invalid(file, f"{key} is no JSON ({error})") from error
    if not isinstance(value, kind):
        word = {list: "list", bool: "truth value", dict: "object"}[kind]
        raise _invalid(file, f"{key} = {text[:40]!r} is no {word}")
    return value


def _invalid(file: Path, problem: str) -> CheckpointError:
    return CheckpointError(
        f"{file} is not a complete file of elastictool: of its metadata, {problem}",
        "it was changed after elastictool wrote it: take the original",
    )
