"""Defines the configuration of a run: frozen typed dataclasses, a module for each subject.

Each class rejects values that make no sense when it is built, so later code never checks them
again. Every setting is described by the text below its field and nowhere else (``words.py`` reads
it for pages, comments and hints).
``recipe_file.py`` reads recipes, ``coerce.py`` makes dataclasses of them, ``conflicts.py`` finds
settings that do not go together, and ``loader.py`` merges recipes with ``--set`` and calls these
three in order.
"""

from elastictool.config.augment import (
    AugmentConfig,
    LengthDiversityConfig,
    Reduction,
    ResolutionConfig,
)
from elastictool.config.data import COMPILED_MULTIPLE, DataConfig, Edge, LengthConfig, PackingConfig
from elastictool.config.fbank import FRONTENDS, FbankConfig
from elastictool.config.model import (
    PATCH_SIZES,
    SIZES,
    FlexiConfig,
    GridFit,
    InitConfig,
    ModelConfig,
    PatchAxes,
    PoolKind,
    PositionFit,
    Resize,
)
from elastictool.config.run import RunConfig
from elastictool.config.train import DistillConfig, ScheduleConfig, TrainConfig

__all__ = [
    "COMPILED_MULTIPLE",
    "FRONTENDS",
    "PATCH_SIZES",
    "SIZES",
    "AugmentConfig",
    "DataConfig",
    "DistillConfig",
    "Edge",
    "FbankConfig",
    "FlexiConfig",
    "GridFit",
    "InitConfig",
    "LengthConfig",
    "LengthDiversityConfig",
    "ModelConfig",
    "PackingConfig",
    "PatchAxes",
    "PoolKind",
    "PositionFit",
    "Reduction",
    "Resize",
    "ResolutionConfig",
    "RunConfig",
    "ScheduleConfig",
    "TrainConfig",
]
