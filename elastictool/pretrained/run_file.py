"""Our own runs and converted files: the names are ours, the configuration is in the metadata."""

from __future__ import annotations

from elastictool.config import InitConfig
from elastictool.pretrained.formats import FORMATS, Described, Format, Tensors
from elastictool.pretrained.own_file import read_metadata
from elastictool.pretrained.source import Source


def _describe(source: Source, tensors: Tensors, init: InitConfig) -> Described:
    told = read_metadata(source.file, source.metadata)
    return Described(told.config, told.label_names, own=told)


FORMATS.register("run")(
    Format(
        title="elastictool run or .safetensors",
        signature=(r"embedding\.kernel\.weight$", r"fc_norm\.|norm\.weight$"),
        keys=(),
        describe=_describe,
        own=True,
    )
)
