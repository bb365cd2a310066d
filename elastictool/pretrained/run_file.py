"""Our own runs and converted files: the names are ours, the configuration is in the metadata."""

from __future__ import annotations

import json

from elastictool.config import InitConfig, RunConfig
from elastictool.errors import CheckpointError, UsageError
from elastictool.pretrained.formats import FORMATS, Described, Format, Tensors
from elastictool.pretrained.source import Source
from elastictool.settings import from_dict


def _describe(source: Source, tensors: Tensors, init: InitConfig) -> Described:
    try:
        config = from_dict(RunConfig, json.loads(source.metadata["config"]))
        label_names = tuple(json.loads(source.metadata["label_names"]))
    except (KeyError, json.JSONDecodeError, UsageError) as error:
        raise CheckpointError(
            f"{source.file} holds a configuration that this version cannot read: {error}"
        ) from error
    return Described(config, label_names)


FORMATS.register("run")(
    Format(
        title="elastictool run or .safetensors",
        signature=(r"embedding\.kernel\.weight$", r"head_norm\.|norm\.weight$"),
        keys=(),
        describe=_describe,
        own=True,
    )
)
