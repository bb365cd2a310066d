"""elastictool: audio spectrogram transformers for any length, resolution and patch size.

    features = [fbank(waveform, sample_rate) for waveform in waveforms]  # (T, 128) each
    batch = pack(features, targets, patch_size=16)
    logits = ElasticAST("tiny", num_classes=10)(batch)

    model = load("runs/my-run")
    for result in model.predict(["a.wav", "b.flac"], top=3):
        print(result.name, result.labels)

All public names are here; what needs torch is imported when it is first used. Importing this
package also makes torchaudio importable next to a CPU build of torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from elastictool.audio.torchaudio_compat import make_importable

if TYPE_CHECKING:
    from elastictool.audio.features import fbank
    from elastictool.config import FbankConfig, ModelConfig
    from elastictool.data.pack import pack
    from elastictool.inference.model import ElasticModel, load
    from elastictool.inference.recordings import Array
    from elastictool.inference.results import Prediction, WindowRule, Windows
    from elastictool.models.presets import AST, ElasticAST, FlexiAST
    from elastictool.models.resize import pi_resize
    from elastictool.models.transformer import SpectrogramTransformer
    from elastictool.packing.batch import PackedBatch

__version__ = "0.1.0"
__all__ = [
    "AST",
    "Array",
    "ElasticAST",
    "ElasticModel",
    "FbankConfig",
    "FlexiAST",
    "ModelConfig",
    "PackedBatch",
    "Prediction",
    "SpectrogramTransformer",
    "WindowRule",
    "Windows",
    "__version__",
    "fbank",
    "load",
    "pack",
    "pi_resize",
]

_MODULES = {
    "AST": "models.presets",
    "Array": "inference.recordings",
    "ElasticAST": "models.presets",
    "ElasticModel": "inference.model",
    "FbankConfig": "config",
    "FlexiAST": "models.presets",
    "ModelConfig": "config",
    "PackedBatch": "packing.batch",
    "Prediction": "inference.results",
    "SpectrogramTransformer": "models.transformer",
    "WindowRule": "inference.results",
    "Windows": "inference.results",
    "fbank": "audio.features",
    "load": "inference.model",
    "pack": "data.pack",
    "pi_resize": "models.resize",
}

make_importable()


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"elastictool.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
