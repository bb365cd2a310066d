"""Defines a named table of interchangeable parts: corpora, planners, attention backends.

A part registers itself where it is defined; the table imports the modules that define parts
only when it is first asked, so that listing a planner never imports torch.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from elastictool.utils.errors import UsageError

T = TypeVar("T")


class Registry(Generic[T]):
    """Maps names to parts.

    Args:
        kind: What the parts are, in words, for messages ("packing planner").
        modules: Modules that register parts when imported.
    """

    def __init__(self, kind: str, modules: tuple[str, ...]) -> None:
        self.kind = kind
        self._modules = modules
        self._parts: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Returns a decorator that registers a part under ``name``."""

        def add(part: T) -> T:
            if name in self._parts:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._parts[name] = part
            return part

        return add

    def __getitem__(self, name: str) -> T:
        """Returns the part called ``name``.

        Raises:
            UsageError: There is none; the hint names the nearest.
        """
        self._load()
        if name not in self._parts:
            raise UsageError(
                f"unknown {self.kind} {name!r}", nearest_hint(name, sorted(self._parts))
            )
        return self._parts[name]

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(sorted(self._parts))

    def _load(self) -> None:
        for module in self._modules:
            importlib.import_module(module)


def nearest_hint(name: str, known: list[str]) -> str:
    """Returns a hint that lists ``known`` and names the closest."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    listing = ", ".join(known)
    return f"did you mean {close[0]!r}? (known: {listing})" if close else f"known: {listing}"
