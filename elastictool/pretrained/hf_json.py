"""Reads Hugging Face's ``config.json``, as far as the function of the model depends on it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from elastictool.pretrained.source import Source
from elastictool.utils.errors import CheckpointError


def need_config(source: Source, *model_types: str) -> None:
    """Checks that a ``config.json`` of one of ``model_types`` lies next to the weights.

    Raises:
        CheckpointError: There is none, it is of another model, or of one that computes
            something else than ours.
    """
    if not source.config:
        raise CheckpointError(
            f"there is no config.json next to {source.file}: strides, eps and labels are in it",
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


def count(source: Source, key: str, document: str = "config.json") -> int:
    """Returns a whole number above 0 of ``config.json``, or of the JSON file ``document``.

    Raises:
        CheckpointError: It is missing or not such a number.
    """
    return int(_value(source, key, document, int, 1))


def number(source: Source, key: str, document: str = "config.json") -> float:
    """Returns a finite number of ``config.json``, or of the JSON file ``document``.

    Raises:
        CheckpointError: It is missing or not such a number.
    """
    return float(_value(source, key, document, (int, float), 1 - _LIMIT))


_LIMIT = 2**31
"""Above every size, rate and length; JSON also knows NaN, which is not below it."""


def _value(source: Source, key: str, document: str, kinds: Any, least: int) -> Any:
    value: Any = (source.config if document == "config.json" else source.preprocessor).get(key)
    if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value < _LIMIT:
        found = f"{value!r}"[:40]
        raise CheckpointError(
            f"{source.file.parent}/{document} has no usable {key} (found {found})"
        )
    return value


def encoder(source: Source) -> dict[str, Any]:
    """Returns width, depth, heads, MLP ratio and eps for a ``ModelConfig``."""
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
    """Returns class names in order; empty where they are missing or placeholders (``LABEL_0``)."""
    table = source.config.get("id2label")
    if not isinstance(table, Mapping):
        return ()
    names = tuple(str(table.get(str(index), "")) for index in range(num_classes))
    if not all(names) or all(re.fullmatch(r"LABEL_\d+", name) for name in names):
        return ()
    return names
