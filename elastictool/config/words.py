"""Names and descriptions of settings, for pages, comments, hints and error messages.

A setting's description is the text below its field. Python keeps no such texts, so they are read
from the source of the class.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import re
import textwrap
import typing
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import pairwise

from elastictool.config.model import SIZES
from elastictool.config.run import RunConfig

MODEL_SIZE = "model.size"
"""The one setting without a field: it stands for two others."""
_SIZES_IN_WORDS = ", ".join(
    f"``{name}`` {width} and {heads}" for name, (width, heads) in SIZES.items()
)
_MODEL_SIZE_MEANS = f"Sets ``width`` and ``heads`` by name: {_SIZES_IN_WORDS} (as DeiT)."
RENAMED: Mapping[str, str] = {
    "init.positions": "init.pos_embed",
    "model.beyond_positions": "model.pos_embed_overflow",
    "model.head_norm": "model.fc_norm",
    "model.head_norm_eps": "model.fc_norm_eps",
    "model.position_fit": "model.pos_embed_fit",
    "model.positions": "model.pos_embed",
    "packing.token_multiple": "packing.pad_to_multiple_of",
}
"""Settings that had another name: an old one is an error that names the new one."""
_SIMILAR = 0.7
"""Least similarity of two names of which one may be a misspelling of the other."""


def names_by_key(cls: type) -> dict[str, str]:
    """Field names by their key in YAML, which differs where the key is a Python keyword."""
    return {field.metadata.get("key", field.name): field.name for field in dataclasses.fields(cls)}


def sections(cls: type = RunConfig, path: str = "") -> Iterator[tuple[str, type]]:
    """Yields each configuration class under ``cls``, itself first, with its path."""
    yield path, cls
    hints = typing.get_type_hints(cls)
    for key, name in names_by_key(cls).items():
        if dataclasses.is_dataclass(hints[name]):
            yield from sections(hints[name], f"{path}.{key}" if path else key)


def descriptions(cls: type) -> Mapping[str, str]:
    """Returns the texts below the fields of ``cls`` by key; none without its source."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    except OSError:  # installed as compiled code only
        return {}
    keys = {name: key for key, name in names_by_key(cls).items()}
    texts = {}
    for field, below in pairwise(typing.cast(ast.ClassDef, tree.body[0]).body):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
            name = typing.cast(ast.Name, field.target).id
            texts[keys[name]] = " ".join(ast.literal_eval(below.value).split())
    return texts


@lru_cache(maxsize=1)
def settings() -> Mapping[str, str]:
    """Returns every setting of a run, ``section.key``, and what it means."""
    found: dict[str, str] = {}
    paths = dict(sections())
    for path, cls in paths.items():
        if path == MODEL_SIZE.partition(".")[0]:
            found[MODEL_SIZE] = _MODEL_SIZE_MEANS
        texts = descriptions(cls)
        names = {f"{path}.{key}" if path else key: key for key in names_by_key(cls)}
        found |= {name: texts.get(key, "") for name, key in names.items() if name not in paths}
    return found


def explained(name: str) -> str:
    """Returns ``name: what the setting means`` as plain text; empty where it is no setting."""
    text = settings().get(name, "").replace("``", "")
    return f"{name}: {text}" if text else ""


def unknown_key_hint(name: str) -> str:
    """Returns which setting the unknown ``name`` may mean, or which ones its section has."""
    if name in RENAMED:
        return f"it is called {RENAMED[name]!r} now"
    if meant := _nearest(name):
        return f"did you mean {' or '.join(map(repr, meant))}?"
    return f"known: {', '.join(_names_in(name.rpartition('.')[0]))}"


def settings_called(word: str) -> list[str]:
    """Returns settings and sections with that name or last part; else by their descriptions."""
    called = [name for name in _names() if word in (name, _last(name))]
    if called or not re.fullmatch(r"[a-z]+(_[a-z]+)+", word):
        return called
    words = re.compile(rf"\b({word}|{word.replace('_', ' ')})\b", re.IGNORECASE)
    return [name for name, text in settings().items() if words.search(text.split(". ")[0])]


def _nearest(name: str) -> list[str]:
    """Returns settings with the same last part as ``name``, else those of similar spelling."""
    word = _last(name)
    if called := settings_called(word):
        return called
    for among in (_names_in(name.rpartition(".")[0]), _names()):
        close = difflib.get_close_matches(word, [_last(other) for other in among], 1, _SIMILAR)
        if close:
            return [other for other in among if _last(other) == close[0]]
    return []


def _names_in(section: str) -> list[str]:
    """Returns the settings and sections directly in ``section``; empty is the top."""
    return [name for name in _names() if name.rpartition(".")[0] == section]


def _names() -> list[str]:
    """Returns all settings, and the sections that they stand in."""
    return [*settings(), *(path for path, _ in sections() if path)]


def _last(name: str) -> str:
    return name.rpartition(".")[2]
