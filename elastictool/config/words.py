"""Reads names and descriptions of settings, for pages, comments, hints and error messages.

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


def names_by_key(cls: type) -> dict[str, str]:
    """Returns field names by their key in YAML, which differs where the key is a Python keyword."""
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
            sizes = ", ".join(f"``{name}`` {size[0]} and {size[1]}" for name, size in SIZES.items())
            found[MODEL_SIZE] = f"Sets ``width`` and ``heads`` by name: {sizes} (as DeiT)."
        texts = descriptions(cls)
        names = {f"{path}.{key}" if path else key: key for key in names_by_key(cls)}
        found |= {name: texts.get(key, "") for name, key in names.items() if name not in paths}
    return found


def explained(name: str) -> str:
    """Returns ``name: what the setting means`` as plain text; empty where it is no setting."""
    text = settings().get(name, "").replace("``", "")
    return f"{name}: {text}" if text else ""


def unknown_key_hint(name: str) -> str:
    """Returns a hint with the setting that ``name`` may mean, or the settings of its section."""
    if name in RENAMED:
        return f"it is called {RENAMED[name]!r} now"
    if name == MODEL_SIZE:  # with settings below it
        return f"it is one of {', '.join(SIZES)}"
    section, _, word = name.rpartition(".")
    in_section = [known for known in _names() if known.rpartition(".")[0] == section]
    meant = settings_called(word)
    for among in () if meant else (in_section, _names()):
        words = [known.rpartition(".")[2] for known in among]
        if close := difflib.get_close_matches(word, words, 1, cutoff=0.7):
            meant = [known for known in among if known.rpartition(".")[2] == close[0]]
            break
    if meant:
        return f"did you mean {' or '.join(map(repr, meant))}?"
    return f"known: {', '.join(in_section)}"


def settings_called(word: str) -> list[str]:
    """Returns settings and sections with that name or last part; else by their descriptions."""
    called = [name for name in _names() if word in (name, name.rpartition(".")[2])]
    if called or not re.fullmatch(r"[a-z]+(_[a-z]+)+", word):
        return called
    words = re.compile(rf"\b({word}|{word.replace('_', ' ')})\b", re.IGNORECASE)
    return [name for name, text in settings().items() if words.search(text.split(". ")[0])]


def _names() -> list[str]:
    """Returns the names of all settings and of their sections."""
    return [*settings(), *(path for path, _ in sections() if path)]
