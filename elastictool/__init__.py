"""elastictool: audio spectrogram transformers for any length, resolution and patch size.

model = elastictool.load("runs/my-run")
for result in model.predict(["a.wav", "b.flac"], top=3):
    print(result.name, result.labels)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from elastictool.inference.model import ElasticModel, load
    from elastictool.inference.recordings import Array
    from elastictool.inference.results import Prediction, WindowRule, Windows

__version__ = "0.1.0"
__all__ = [
    "Array",
    "ElasticModel",
    "Prediction",
    "WindowRule",
    "Windows",
    "__version__",
    "load",
]

_PLACES = {
    "Array": "recordings",
    "ElasticModel": "model",
    "Prediction": "results",
    "WindowRule": "results",
    "Windows": "results",
    "load": "model",
}
"""Where in ``elastictool.inference`` the public names are; what needs torch waits for its use."""


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(importlib.import_module(f"elastictool.inference.{_PLACES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
