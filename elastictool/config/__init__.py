"""The configuration of a run: frozen typed dataclasses, a module for each subject.

Each class rejects values that make no sense when it is built, so later code never checks them
again. Every setting is described by the text below its field and nowhere else; ``words.py`` reads
it for pages, comments and hints. ``conflicts.py`` finds settings that do not go together, and
``elastictool/config/loader.py`` makes configurations out of recipes and the command line.
"""

from elastictool.config.augment import (
    AugmentConfig,
    LengthDiversityConfig,
    Reduction,
    ResolutionConfig,
)
from elastictool.config.data import DataConfig
from elastictool.config.distill import DistillConfig
from elastictool.config.fbank import FRONTENDS, FbankConfig, FrontendTraits
from elastictool.config.flexi import PATCH_SIZES, FlexiConfig, PatchAxes
from elastictool.config.init import GridFit, InitConfig, PoolingStart, Rgb
from elastictool.config.length import Edge, LengthConfig
from elastictool.config.model import SIZES, ModelConfig, PoolKind, PositionFit, Resize
from elastictool.config.packing import COMPILED_MULTIPLE, PackingConfig
from elastictool.config.run import RunConfig
from elastictool.config.schedule import ScheduleConfig
from elastictool.config.train import TrainConfig

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
    "FrontendTraits",
    "GridFit",
    "InitConfig",
    "LengthConfig",
    "LengthDiversityConfig",
    "ModelConfig",
    "PackingConfig",
    "PatchAxes",
    "PoolKind",
    "PoolingStart",
    "PositionFit",
    "Reduction",
    "Resize",
    "ResolutionConfig",
    "Rgb",
    "RunConfig",
    "ScheduleConfig",
    "TrainConfig",
]
