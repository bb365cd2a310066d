"""Makes torchaudio importable where its extension cannot load; no other file imports it.

Its wheels link CUDA libraries, so next to a CPU build of torch ``import torchaudio`` fails while
its extension loads. What elastictool and Hugging Face's pipelines use of it (``compliance.kaldi``,
``functional``) is pure Python. After ``make_importable``, which ``import elastictool`` calls, an
extension that cannot load is disabled when somebody imports torchaudio, and costs nothing before.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

from elastictool.utils.errors import ElasticToolError

PACKAGE = "torchaudio"
"""Its name; no other module writes it (a test holds that)."""
_EXTENSION = "torchaudio._extension"


def make_importable() -> None:
    """Lets Python import torchaudio with its extension disabled where that cannot load."""
    sys.meta_path.insert(0, _Finder())


def load_torchaudio() -> ModuleType:
    """Returns the torchaudio package.

    Raises:
        ElasticToolError: torchaudio is not installed.
    """
    if PACKAGE not in sys.modules and importlib.util.find_spec(PACKAGE) is None:
        raise ElasticToolError("torchaudio is not installed", "pip install torchaudio")
    return importlib.import_module(PACKAGE)


def torchaudio_state() -> str:
    """Returns ``native``, ``extension disabled`` or ``missing``."""
    try:
        load_torchaudio()
    except ElasticToolError:
        return "missing"
    native = getattr(sys.modules[_EXTENSION], "_IS_TORCHAUDIO_EXT_AVAILABLE", False)
    return "native" if native else "extension disabled"


class _Finder:
    """Finds torchaudio's extension where Python does, and has it loaded by ``_ExtensionLoader``.

    The abstract classes of finders and loaders would cost start-up 10 ms.
    """

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name == _EXTENSION else None
        if spec is not None and spec.loader is not None:
            loader: Any = _ExtensionLoader(spec.loader)
            spec.loader = loader
        return spec


class _ExtensionLoader:
    """Loads the extension; one that cannot load behaves as in a build without native code."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> Any:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        try:
            self._loader.exec_module(module)
        except (OSError, ImportError, RuntimeError):
            # A library that does not load (OSError), a part that is missing (ImportError) or built
            # for another CUDA version than torch (RuntimeError).
            vars(module).update(
                _IS_TORCHAUDIO_EXT_AVAILABLE=False,
                _IS_ALIGN_AVAILABLE=False,
                fail_if_no_align=_failing,
            )


def _failing(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function that says why ``function``, which needs the extension, cannot be used."""

    @functools.wraps(function)
    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError(f"{function.__name__} needs torchaudio's extension, which cannot load")

    return fail
