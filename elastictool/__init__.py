"""elastictool: audio spectrogram transformers for any length, resolution and patch size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from elastictool.inference.model import load

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def __getattr__(name: str) -> Any:
    """``elastictool.load``, which needs torch, is imported when it is asked for."""
    if name == "load":
        from elastictool.inference.model import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
