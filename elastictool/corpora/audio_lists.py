"""Lists clips of AST's JSON lists: ``{"data": [{"wav": PATH, "labels": "mid,mid"}]}``.

The AST, SSAST and published ElasticAST repositories train from one list for each split and
``class_labels_indices.csv``. A word in a list's name gives the split, a number at its end the fold.
The repositories keep one pair of lists for each fold of ESC-50; its training lists repeat the
evaluation lists of the other folds.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elastictool.corpora.base import (
    CORPORA,
    Corpus,
    CorpusOptions,
    Listing,
    MissingClip,
    SourceClip,
)
from elastictool.corpora.checks import some_of
from elastictool.corpora.classes import CLASS_TABLE, CLASS_TABLES, ClassTable
from elastictool.corpora.own_data import counted_from_one, find_file, shared_file_warnings
from elastictool.corpora.split_names import SPLIT_NAMES
from elastictool.utils.errors import UsageError
from elastictool.utils.io import is_hidden, open_text

Entry = tuple[str, tuple[str, ...]]
"""Path of the recording, and its labels."""
_FORM = '{"data": [{"wav": …, "labels": …}]}'
_HINT = f"a list is {_FORM}: see elastictool prep --dataset json"


class AudioLists(Corpus):
    """Lists the entries of JSON lists; each file's name gives its split."""

    name = "json"
    marks = ("train.json", "*train_data*.json")
    takes_file = True

    def describe(self) -> str:
        """Returns which files are wanted."""
        return (
            "--dataset json --root FOLDER (or one list): the lists of the AST repositories,\n"
            '  {"data": [{"wav": PATH, "labels": "mid,mid"}]}, one file for each split; a name\n'
            "  that holds train, val, dev, test or eval says which (else: train); numbered pairs\n"
            "  of lists to train and to evaluate on (esc_train_data_1.json, ...) are folds\n"
            f"  {CLASS_TABLE} (or {CLASS_TABLES}: index,mid,display_name) next to them\n"
            "  or one folder above; without it labels are taken as they are, alphabetically\n"
            "Relative paths start at the folder of the list, where you stand, or above the list.\n"
            "Such lists are also written by elastictool data export --lists."
        )

    def find_clips(self, root: Path, options: CorpusOptions) -> Listing:
        """Lists the entries whose file exists; the others are ``missing``.

        Raises:
            UsageError: No list, a damaged list, or a label that the table lacks.
        """
        paths = _visible(root, "*.json") if root.is_dir() else [root]
        if not paths:
            raise UsageError(f"no .json list in {root}", self.describe())
        folder = root if root.is_dir() else root.parent
        lists, warnings = _read_lists(paths)
        entries, fold_warnings = _with_folds(lists)
        several = [labels for _, (_, labels), _ in entries]
        classes, class_warning = _classes(folder, {label for labels in several for label in labels})
        listing = Listing(
            name=folder.resolve().name if root.is_dir() else root.stem,
            root=folder,
            label_names=classes.names,
            multi_label=any(len(labels) > 1 for labels in several),
            warnings=[class_warning, *warnings, *fold_warnings],
        )
        finder = _Finder(folder)
        seen: set[str] = set()
        for one, (named, labels), fold in entries:
            short, path = finder.find(named)
            clip_id = short if short not in seen else f"{short}@{one.path.stem}{len(seen)}"
            seen.add(clip_id)
            names = tuple(classes.name(label, one.path) for label in labels)
            split = "train" if fold else one.split or "train"
            if path:
                listing.clips.append(SourceClip(clip_id, path, None, None, names, split, fold))
            else:
                listing.missing.append(MissingClip(clip_id, short, split))
        listing.warnings += [
            f"{count:,} paths begin at {base}, not at the folder of the lists"
            for base, count in finder.found_at.items()
        ]
        listing.warnings += shared_file_warnings(listing)
        return listing


@dataclass(frozen=True)
class _ListFile:
    """A JSON list of clips, and the split and fold that its name gives.

    Attributes:
        path: The file.
        entries: Its entries.
        split: The split in its name; empty if there is none.
        pair: Name without split and number, and the number; None without a split or number.
    """

    path: Path
    entries: list[Entry]
    split: str
    pair: tuple[str, int] | None

    @classmethod
    def read(cls, path: Path) -> _ListFile | None:
        """Reads a list; repeated labels of an entry count once.

        Returns:
            None if the document is no list.

        Raises:
            UsageError: It is no JSON document, or an entry lacks a path or labels.
        """
        with open_text(path) as file:
            text = file.read()
        try:
            document = json.loads(text, object_pairs_hook=_without_repeats)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{path} is not JSON: {error}", "fetch or write it again") from error
        if not isinstance(document, dict) or not isinstance(document.get("data"), list):
            return None
        entries = []
        for number, entry in enumerate(document["data"]):
            try:
                wav, mids = entry["wav"].strip(), map(str.strip, entry["labels"].split(","))
            except (KeyError, TypeError, AttributeError) as error:
                raise UsageError(
                    f"{path}, entry {number}: has no text wav and labels ({error!r})", _HINT
                ) from error
            labels = tuple(dict.fromkeys(filter(None, mids)))
            if not wav or not labels:
                raise UsageError(
                    f"{path}, entry {number}: an empty path or no label", "mend or remove it"
                )
            if broken := [text for text in (wav, *labels) if not {*text}.isdisjoint("\r\n")]:
                raise UsageError(
                    f"{path}, entry {number}: {broken[0]!r} contains a line break", "mend it"
                )
            entries.append((wav, labels))
        words = re.findall(r"[a-z]+", path.stem.lower())
        split = next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), "")
        ending = re.search(r"(?<!\d)\d{1,9}$", path.stem)
        name = " ".join(word for word in words if word not in SPLIT_NAMES)
        return cls(path, entries, split, (name, int(ending[0])) if ending and split else None)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Returns the object of ``pairs``; Python would keep the last of two values for one key."""
    found = dict(pairs)
    if len(found) < len(pairs):
        key = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"an object has the key {key!r} twice")
    return found


def _read_lists(paths: Sequence[Path]) -> tuple[list[_ListFile], list[str]]:
    """Reads the lists among ``paths``; returns warnings on other files and on unknown splits."""
    read = {path: _ListFile.read(path) for path in paths}
    lists = [one for one in read.values() if one is not None]
    if not lists:
        raise UsageError(f"{', '.join(map(str, paths[:3]))}: not of the form {_FORM}", _HINT)
    warnings = []
    if others := [path.name for path, one in read.items() if one is None]:
        warnings.append(f"no lists of recordings, left out: {some_of(others)}")
    if silent := [one.path.name for one in lists if not one.split]:
        warnings.append(
            f"no split in the names of {len(silent)} lists, all train: {some_of(silent)}"
        )
    return lists, warnings


def _fold_lists(lists: Sequence[_ListFile]) -> dict[Path, int]:
    """Returns the number of each evaluation list that is a fold; empty if the lists are no folds.

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


def _with_folds(
    lists: Sequence[_ListFile],
) -> tuple[list[tuple[_ListFile, Entry, int]], list[str]]:
    """Returns each entry with its list and fold (0: none), and a warning if lists are folds.

    With folds every clip is training data, and repeats in training lists are skipped.
    """
    numbers = _fold_lists(lists)
    folds, warnings = counted_from_one([numbers.get(one.path) for one in lists])
    known = {entry for one in lists if one.path in numbers for entry in one.entries}
    entries = []
    for one, fold in zip(lists, folds, strict=True):
        repeats = bool(numbers) and not fold and one.pair is not None
        for entry in one.entries:
            if not (repeats and entry in known):
                entries.append((one, entry, fold))
            if repeats:
                known.add(entry)
    if numbers:
        warnings.append(
            f"{len(numbers)} evaluation lists are folds; their training lists only repeat them"
        )
    return entries, warnings


def _classes(folder: Path, labels: Collection[str]) -> tuple[ClassTable, str]:
    """Returns the class table for lists in ``folder``, and a warning that names its file.

    One in the folder of the lists is always used; one in the folder above, which may belong to
    other data, only if it has all labels.
    """
    own = _class_tables(folder)
    if len(own) > 1:
        raise UsageError(
            f"several class tables in {folder}: {some_of(path.name for path in own)}",
            f"keep one, or call the right one {CLASS_TABLE}",
        )
    for path in own or _class_tables(Path(os.path.abspath(folder)).parent):
        table = ClassTable.read(path)
        if own or table.by_mid.keys() | set(table.names) >= set(labels):
            return table, f"classes and their order are those of {path}"
    return (
        ClassTable.of_labels(labels),
        f"no {CLASS_TABLES} with these labels next to the lists or above: classes are the labels, "
        "in alphabetical order",
    )


def _class_tables(folder: Path) -> list[Path]:
    usual = folder / CLASS_TABLE
    return [usual] if usual.is_file() else _visible(folder, CLASS_TABLES)


def _visible(folder: Path, pattern: str) -> list[Path]:
    return sorted(path for path in folder.glob(pattern) if not is_hidden(path.name))


class _Finder:
    """Finds the paths of lists below the lists, above them and in the working directory.

    The AST repositories run at the top of a recipe (``egs/esc50``), above its lists.

    Attributes:
        found_at: Number of paths that begin elsewhere than at the lists, by where they begin.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._absolute = folder, Path(os.path.abspath(folder))
        self._bases = (Path.cwd(), *self._absolute.parents)
        self.found_at: Counter[Path] = Counter()

    def find(self, named: str) -> tuple[str, str]:
        """Returns the path relative to the lists if it is below them, and that of the file.

        The latter starts at the lists, or is absolute; it is empty where there is no file.
        """
        path = Path(named)
        if path.is_absolute() and path.is_relative_to(self._absolute):
            named = path.relative_to(self._absolute).as_posix()
        if found := find_file(self._folder, named):
            return named, found
        for base in () if path.is_absolute() else self._bases:
            if found := find_file(base, named):
                self.found_at[base] += 1
                return named, str(base / found)
        return named, ""


CORPORA.register("json")(AudioLists())
