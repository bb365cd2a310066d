"""What Hugging Face's ``config.json`` says, where it matters for the function of the model."""

from __future__ import annotations

import re
from typing import Any

from elastictool.errors import CheckpointError
from elastictool.pretrained.source import Source


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


def number(source: Source, key: str) -> Any:
    """A number of ``config.json``.

    Raises:
        CheckpointError: It is not there or no number.
    """
    value = source.config.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise CheckpointError(
            f"{source.file.parent}/config.json has no usable {key} (found {value!r})"
        )
    return value


def encoder(source: Source) -> dict[str, Any]:
    """Width, depth, heads, MLP ratio and eps for a ``ModelConfig``."""
    width = number(source, "hidden_size")
    return {
        "width": width,
        "depth": number(source, "num_hidden_layers"),
        "heads": number(source, "num_attention_heads"),
        "mlp_ratio": number(source, "intermediate_size") / width,
        "norm_eps": float(number(source, "layer_norm_eps")),
        "head_norm_eps": float(number(source, "layer_norm_eps")),
    }


def label_names(source: Source, num_classes: int) -> tuple[str, ...]:
    """Class names in order; empty where they are missing or placeholders (``LABEL_0``)."""
    table = source.config.get("id2label") or {}
    names = tuple(str(table.get(str(index), "")) for index in range(num_classes))
    if not all(names) or all(re.fullmatch(r"LABEL_\d+", name) for name in names):
        return ()
    return names
