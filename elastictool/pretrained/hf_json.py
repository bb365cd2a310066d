"""What Hugging Face's ``config.json`` says, where it matters for the function of the model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from elastictool.pretrained.source import Source
from elastictool.utils.errors import CheckpointError


def need_config(source: Source, *model_types: str) -> None:
    """Require a ``config.json`` of one of ``model_types`` beside the weights.

    Raises:
        CheckpointError: There is none, it is of another model, or of one that differs in
            function from ours.
    """
    if not source.config:
        raise CheckpointError(
            f"there is no config.json beside {source.file}: strides, eps and labels are in it",
            "copy it from where the weights came, into the same folder",
        )
    kind = source.config.get("model_type")
    if kind not in model_types:
        raise CheckpointError(
            f"{source.file.parent}/config.json is of a {kind!r}, not of {' or '.join(model_types)}",
            "name the right format with --from",
        )
    wanted = {"hidden_act": "gelu", "qkv_bias": True}
    for key, value in wanted.items():
        if source.config.get(key, value) != value:
            raise CheckpointError(
                f"{source.file.parent}/config.json has {key} = {source.config[key]!r}; "
                f"only {value!r} is supported"
            )


def count(source: Source, key: str, beside: str = "config.json") -> int:
    """A whole number above 0 of ``config.json``, or of another file ``beside`` the weights.

    Raises:
        CheckpointError: It is not there or no such number.
    """
    value = _held(source, beside).get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < _MOST:
        raise _unusable(source, beside, key, value)
    return value


def number(source: Source, key: str, beside: str = "config.json") -> float:
    """A finite number of ``config.json``, or of another file ``beside`` the weights.

    Raises:
        CheckpointError: It is not there or no such number.
    """
    value = _held(source, beside).get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < _MOST:
        raise _unusable(source, beside, key, value)
    return float(value)


_MOST = 2**31
"""Beyond every size, rate and length; JSON also knows NaN, which is not below it."""


def _held(source: Source, beside: str) -> Mapping[str, Any]:
    return source.config if beside == "config.json" else source.preprocessor


def _unusable(source: Source, beside: str, key: str, value: object) -> CheckpointError:
    found = f"{value!r}"[:40]
    return CheckpointError(f"{source.file.parent}/{beside} has no usable {key} (found {found})")


def encoder(source: Source) -> dict[str, Any]:
    """Width, depth, heads, MLP ratio and eps for a ``ModelConfig``."""
    width, eps = count(source, "hidden_size"), number(source, "layer_norm_eps")
    return {
        "width": width,
        "depth": count(source, "num_hidden_layers"),
        "heads": count(source, "num_attention_heads"),
        "mlp_ratio": count(source, "intermediate_size") / width,
        "norm_eps": eps,
        "fc_norm_eps": eps,
    }


def label_names(source: Source, num_classes: int) -> tuple[str, ...]:
    """Class names in order; empty where they are missing or placeholders (``LABEL_0``)."""
    table = source.config.get("id2label")
    if not isinstance(table, Mapping):
        return ()
    names = tuple(str(table.get(str(index), "")) for index in range(num_classes))
    if not all(names) or all(re.fullmatch(r"LABEL_\d+", name) for name in names):
        return ()
    return names
