"""What the metadata of our own weights files say, checked: a file may come from anywhere."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from elastictool.config import ModelConfig, RunConfig
from elastictool.config.loader import from_dict
from elastictool.models.transformer import tensor_shapes
from elastictool.pretrained.shapes import number_of_blocks
from elastictool.pretrained.source import require_floats
from elastictool.utils.errors import CheckpointError, UsageError


@dataclass(frozen=True)
class OwnMetadata:
    """What a file of ours tells about its weights.

    Attributes:
        config: The resolved configuration of their run.
        label_names: Class names in the order of the logits.
        multi_label: Whether a clip may have several classes.
        metrics: Numbers recorded with the weights.
        thresholds: Decision threshold of each class, NaN where there is none; empty if nobody
            chose any.
    """

    config: RunConfig
    label_names: tuple[str, ...]
    multi_label: bool
    metrics: Mapping[str, Any]
    thresholds: tuple[float, ...] = ()


def read_metadata(file: Path, metadata: Mapping[str, str]) -> OwnMetadata:
    """The metadata of ``file``, which must be whole and agree with one another.

    Raises:
        CheckpointError: They are not.
    """
    names = _value(file, metadata, "label_names", list)
    thresholds = _value(file, metadata, "thresholds", list, "[]")
    config = _config(file, metadata)
    classes = config.model.num_classes
    if not all(isinstance(name, str) for name in names) or len(names) != classes:
        raise _wrong(file, f"label_names are {len(names)} and should be {classes} names")
    if not all(value is None or type(value) in (int, float) for value in thresholds) or len(
        thresholds
    ) not in (0, classes):
        raise _wrong(file, f"thresholds are {len(thresholds)} and should be {classes} numbers")
    return OwnMetadata(
        config,
        tuple(names),
        _value(file, metadata, "multi_label", bool),
        _value(file, metadata, "metrics", dict),
        tuple(math.nan if value is None else float(value) for value in thresholds),
    )


def require_fit(file: Path, config: ModelConfig, tensors: Mapping[str, Tensor]) -> None:
    """The tensors must be those of ``config``, which is known before a model of it is built.

    Raises:
        CheckpointError: They are not.
    """
    depth = number_of_blocks(tensors, r"blocks\.(\d+)\.", file)
    problems = [] if depth == config.depth else [f"{depth} blocks, and model.depth {config.depth}"]
    if not problems:
        expected = tensor_shapes(config)
        problems += [f"missing {name}" for name in expected if name not in tensors]
        problems += [f"unexpected {name}" for name in tensors if name not in expected]
        problems += [
            f"{name} is {tuple(tensors[name].shape)} and should be {shape}"
            for name, shape in expected.items()
            if name in tensors and tuple(tensors[name].shape) != shape
        ]
    if problems:
        raise CheckpointError(
            f"{file} does not fit the model that it describes: {'; '.join(problems[:4])}"
        )
    require_floats(file, tensors)


def _config(file: Path, metadata: Mapping[str, str]) -> RunConfig:
    try:
        return from_dict(RunConfig, _value(file, metadata, "config", dict))
    except UsageError as error:
        raise CheckpointError(
            f"{file} holds a configuration that this version cannot read: {error}"
        ) from error


def _value(
    file: Path, metadata: Mapping[str, str], key: str, kind: type, default: str | None = None
) -> Any:
    text = metadata.get(key, default)
    if text is None:
        raise _wrong(file, f"{key} is missing")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _wrong(file, f"{key} is no JSON ({error})") from error
    if not isinstance(value, kind):
        raise _wrong(file, f"{key} = {text[:40]!r} is no {_WORDS[kind]}")
    return value


_WORDS = {list: "list", bool: "truth value", dict: "object"}


def _wrong(file: Path, problem: str) -> CheckpointError:
    return CheckpointError(
        f"{file} is no whole file of elastictool: of its metadata, {problem}",
        "it was changed after elastictool wrote it: take the original",
    )
