"""Imports torchaudio, with its extension disabled where that cannot load; no other file does.

Its wheels link CUDA libraries, so next to a CPU build of torch ``import torchaudio`` fails while
its extension loads. What we compare against (``compliance.kaldi``) is pure Python, hence where
the extension cannot load, torchaudio is imported with a stand-in for ``torchaudio._extension``.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any

from elastictool.utils.errors import ElasticToolError

PACKAGE = "torchaudio"
"""Its name; no other module writes it (a test holds that)."""
_EXTENSION = "torchaudio._extension"


def load_torchaudio() -> ModuleType:
    """Returns the torchaudio package, with its extension disabled where that cannot load.

    Raises:
        ElasticToolError: torchaudio is not installed.
    """
    if PACKAGE in sys.modules:
        return sys.modules[PACKAGE]
    if importlib.util.find_spec(PACKAGE) is None:
        raise ElasticToolError("torchaudio is not installed", "pip install torchaudio")
    try:
        return importlib.import_module(PACKAGE)
    except (OSError, ImportError, RuntimeError):
        # A library that does not load (OSError), a part that is missing (ImportError) or built
        # for another CUDA version than torch (RuntimeError).
        for name in [name for name in sys.modules if name.split(".")[0] == PACKAGE]:
            del sys.modules[name]
    sys.modules[_EXTENSION] = _Disabled(_EXTENSION)
    return importlib.import_module(PACKAGE)


def torchaudio_state() -> str:
    """Returns ``native``, ``extension disabled`` or ``missing``."""
    try:
        load_torchaudio()
    except ElasticToolError:
        return "missing"
    disabled = isinstance(sys.modules.get(_EXTENSION), _Disabled)
    return "extension disabled" if disabled else "native"


class _Disabled(ModuleType):
    """Replaces torchaudio's extension module; behaves as in a build without native code."""

    _IS_TORCHAUDIO_EXT_AVAILABLE = False
    _IS_ALIGN_AVAILABLE = False

    @staticmethod
    def fail_if_no_align(function: Any) -> Any:
        """Decorator that torchaudio puts on forced alignment; never used here."""
        return function
