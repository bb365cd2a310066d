"""What settings are called and what they mean, for pages, comments and hints.

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
_ALIKE = 0.7
"""From here on two names are taken for a slip of the pen."""


def names_by_key(cls: type) -> dict[str, str]:
    """Field names by their key in YAML: the same, but where the key is a Python keyword."""
    return {field.metadata.get("key", field.name): field.name for field in dataclasses.fields(cls)}


def sections(cls: type = RunConfig, path: str = "") -> Iterator[tuple[str, type]]:
    """Each configuration class under ``cls``, itself first, with its path."""
    yield path, cls
    hints = typing.get_type_hints(cls)
    for key, name in names_by_key(cls).items():
        if dataclasses.is_dataclass(hints[name]):
            yield from sections(hints[name], f"{path}.{key}" if path else key)


@lru_cache(maxsize=64)
def descriptions(cls: type) -> Mapping[str, str]:
    """By key, the texts below the fields of ``cls``; none where its source is not at hand."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    except OSError:  # installed as compiled code only
        return {}
    keys = {name: key for key, name in names_by_key(cls).items()}
    body = typing.cast(ast.ClassDef, tree.body[0]).body
    texts = {}
    for field, below in pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
            name = typing.cast(ast.Name, field.target).id
            texts[keys[name]] = " ".join(ast.literal_eval(below.value).split())
    return texts


@lru_cache(maxsize=1)
def settings() -> Mapping[str, str]:
    """Every setting of a run, ``section.key``, and what it means."""
    found: dict[str, str] = {}
    paths = dict(sections())
    for path, cls in paths.items():
        texts = descriptions(cls)
        if path == MODEL_SIZE.partition(".")[0]:
            found[MODEL_SIZE] = _MODEL_SIZE_MEANS
        for key in names_by_key(cls):
            name = f"{path}.{key}" if path else key
            if name not in paths:
                found[name] = texts.get(key, "")
    return found


def meaning(name: str) -> str:
    """What the setting ``name`` means, as plain text; empty where there is none."""
    return settings().get(name, "").replace("``", "")


def settings_called(word: str) -> list[str]:
    """Settings and sections of that name or last part; else those described by its words."""
    names = _names()
    called = [name for name in names if word in (name, _last(name))]
    if called or not re.fullmatch(r"[a-z]+(_[a-z]+)+", word):
        return called
    words = re.compile(rf"\b{word.replace('_', ' ')}\b", re.IGNORECASE)
    return [name for name, text in settings().items() if words.search(text.split(". ")[0])]


def nearest_settings(name: str) -> list[str]:
    """What somebody may have meant who wrote ``name``: by its last part, then by its spelling."""
    word = _last(name)
    if called := settings_called(word):
        return called
    for among in (names_in(name.rpartition(".")[0]), _names()):
        close = difflib.get_close_matches(word, [_last(other) for other in among], 1, _ALIKE)
        if close:
            return [other for other in among if _last(other) == close[0]]
    return []


def names_in(section: str) -> list[str]:
    """Settings and sections that stand directly in ``section``; empty is the top."""
    return [name for name in _names() if name.rpartition(".")[0] == section]


def _names() -> list[str]:
    """All settings, and the sections that they stand in."""
    return [*settings(), *(path for path, _ in sections() if path)]


def _last(name: str) -> str:
    return name.rpartition(".")[2]
