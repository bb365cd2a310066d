"""Reading AST-family lists, ``{"data": [{"wav": PATH, "labels": "mid,mid"}]}``, and their names.

A list's name says what it is for: a word in it the split, a number at its end the fold. The
repositories keep one pair of lists for each fold of ESC-50; its training lists say nothing that the
evaluation lists of the other folds do not say.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elastictool.corpora.base import SPLIT_NAMES
from elastictool.corpora.warnings import some_of
from elastictool.utils.errors import UsageError
from elastictool.utils.io import open_text

Entry = tuple[str, tuple[str, ...]]
"""Path of the recording, and its labels."""
_FORM = '{"data": [{"wav": …, "labels": …}]}'
_WORD = re.compile(r"[a-z]+")
_NUMBER = re.compile(r"\d+$")


@dataclass(frozen=True)
class ListFile:
    """One list.

    Attributes:
        path: The file.
        entries: What it lists.
        split: What its name says; empty if it says nothing.
    """

    path: Path
    entries: list[Entry]
    split: str

    @property
    def pair(self) -> tuple[str, int] | None:
        """Its name without split and number, and the number; None if it has not both."""
        stem = self.path.stem.lower()
        number = _NUMBER.search(stem)
        if not number or not self.split:
            return None
        words = [word for word in _WORD.findall(stem) if word not in SPLIT_NAMES]
        return " ".join(words), int(number[0])


def read_lists(paths: Sequence[Path]) -> tuple[list[ListFile], list[str]]:
    """The lists among ``paths``, and warnings on what is none or does not say its split.

    Raises:
        UsageError: None of them is a list, or one is damaged.
    """
    documents = [(path, _document(path)) for path in paths]
    lists = [
        ListFile(path, _entries(path, document["data"]), _split(path))
        for path, document in documents
        if _is_list(document)
    ]
    others = [path.name for path, document in documents if not _is_list(document)]
    if not lists:
        raise UsageError(
            f"{', '.join(map(str, paths[:3]))}: not of the form {_FORM}",
            "see elastictool prep --dataset json",
        )
    warnings = []
    if others:
        warnings.append(f"no lists of recordings, left out: {some_of(others)}")
    if silent := [one.path.name for one in lists if not one.split]:
        warnings.append(
            f"no split in the names of {len(silent)} lists, all train: {some_of(silent)}"
        )
    return lists, warnings


def fold_lists(lists: Sequence[ListFile]) -> dict[Path, int]:
    """Number of each evaluation list that is a fold; empty if the lists are no folds.

    They are if each number has one list to train on and one to evaluate on, and no recording is
    evaluated on twice.
    """
    named = [(one.pair, one) for one in lists if one.pair is not None]
    training = sorted(pair for pair, one in named if one.split == "train")
    folds = {one.path: pair[1] for pair, one in named if one.split != "train"}
    if len(folds) < 2 or len({name for name, _ in training}) > 1:
        return {}
    if training != sorted(pair for pair, one in named if one.path in folds):
        return {}
    evaluated = [wav for one in lists if one.path in folds for wav, _ in one.entries]
    return folds if len(set(evaluated)) == len(evaluated) else {}


def _document(path: Path) -> Any:
    with open_text(path) as file:
        text = file.read()
    try:
        return json.loads(text)
    except ValueError as error:
        raise UsageError(f"{path} is not JSON: {error}", "fetch or write it again") from error


def _is_list(document: Any) -> bool:
    return isinstance(document, dict) and isinstance(document.get("data"), list)


def _entries(path: Path, data: Sequence[Any]) -> list[Entry]:
    """(wav, labels) of each entry; labels that stand there twice count once."""
    entries = []
    for number, entry in enumerate(data):
        try:
            wav, labels = entry["wav"], entry["labels"].split(",")
        except (KeyError, TypeError, AttributeError) as error:
            raise UsageError(
                f"{path}, entry {number}: not of the form {_FORM}: {error!r}",
                "see elastictool prep --dataset json",
            ) from error
        mids = tuple(dict.fromkeys(filter(None, map(str.strip, labels))))
        if not isinstance(wav, str) or not wav or not mids:
            raise UsageError(
                f"{path}, entry {number}: an empty path or no label", "mend or remove it"
            )
        entries.append((wav, mids))
    return entries


def _split(path: Path) -> str:
    words = _WORD.findall(path.stem.lower())
    return next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), "")
