"""Recognises which corpus reads a file or folder, so that users need not name it."""

from __future__ import annotations

import os
from pathlib import Path

from elastictool.audio.formats import AUDIO_SUFFIXES
from elastictool.corpora.base import CORPORA
from elastictool.utils.io import as_argument, walk_files

_TABLES = (".csv", ".tsv")


def recognised(path: Path) -> tuple[str, Path] | None:
    """Returns the corpus that reads ``path``, and the root to give it; None if none does.

    A folder is a published corpus or a user's lists if it has their files, else class folders of
    audio. Where all audio lies in one folder next to a table, it is the table.
    """
    if path.is_file():
        suffix = path.suffix.lower()
        name = "json" if suffix == ".json" else "csv" if suffix in _TABLES else ""
        return (name, path) if name else None
    if not path.is_dir():
        return None
    for name in sorted(CORPORA, key=lambda name: name in ("csv", "json")):
        corpus = CORPORA[name]
        below = () if corpus.takes_file else ("*/",)
        patterns = [f"{above}{mark}" for mark in corpus.marks for above in ("", *below)]
        if any(file.is_file() for pattern in patterns for file in path.glob(pattern)):
            return name, path
    audio = [file.path for file in walk_files(path) if _is_audio(file.path)]
    tables = [file for file in sorted(path.iterdir()) if file.suffix.lower() in _TABLES]
    if len(tables) == 1 and len({os.path.dirname(name) for name in audio}) == 1:
        return "csv", tables[0]
    return ("folder", path) if audio else None


def _is_audio(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in AUDIO_SUFFIXES


def prep_line(path: Path) -> str:
    """Returns the command that prepares ``path``; empty if no corpus reads it."""
    found = recognised(path)
    if found is None:
        return ""
    return f"elastictool prep --dataset {found[0]} --root {as_argument(found[1])}"
