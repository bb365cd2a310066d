"""AST-family lists: ``{"data": [{"wav": PATH, "labels": "mid,mid"}]}`` with a class table.

This is what the AST, SSAST and published ElasticAST repositories train from, so their users can
move over with the files they have: one list for each split and ``class_labels_indices.csv``.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from elastictool.corpora.base import (
    CORPORA,
    CorpusOptions,
    Listing,
    MissingClip,
    SourceClip,
    chosen_task,
    require_root,
    source_files,
)
from elastictool.corpora.class_table import CLASS_TABLE, CLASS_TABLES, ClassTable
from elastictool.corpora.folds import counted_from_one
from elastictool.corpora.list_files import Entry, ListFile, fold_lists, read_lists
from elastictool.corpora.listing import is_there
from elastictool.corpora.warnings import repeated_slices, some_of
from elastictool.utils.errors import UsageError
from elastictool.utils.io import is_hidden


@dataclass(frozen=True)
class AudioLists:
    """Lists the entries of JSON lists; each file's name says its split."""

    name: str = "json"
    tasks: tuple[str, ...] = ()
    subsets: tuple[str, ...] = ()
    default_root: Path | None = None

    def describe(self) -> str:
        """The files that are wanted."""
        return (
            "--dataset json --root FOLDER (or one list): the lists of the AST repositories,\n"
            '  {"data": [{"wav": PATH, "labels": "mid,mid"}]}, one file for each split; a name\n'
            "  that holds train, val, dev, test or eval says which (else: train); numbered pairs\n"
            "  of lists to train and to evaluate on (esc_train_data_1.json, ...) are folds\n"
            f"  {CLASS_TABLE} (or {CLASS_TABLES}: index,mid,display_name) beside them\n"
            "  or one folder above; without it labels are taken as they are, alphabetically\n"
            "Relative paths start at the folder of the list, where you stand, or above the list.\n"
            "Such lists are also written by elastictool data export --lists."
        )

    def list_clips(self, root: Path | None, options: CorpusOptions) -> Listing:
        """The entries whose file exists; the others are ``missing``.

        Raises:
            UsageError: No list, a damaged list, or a label that the table lacks.
        """
        chosen_task(self, options)
        place = require_root(root, self)
        paths = _visible(place, "*.json") if place.is_dir() else [place]
        if not paths:
            raise UsageError(f"no .json list in {place}", self.describe())
        folder = place if place.is_dir() else place.parent
        lists, warnings = read_lists(paths)
        entries, fold_warnings = _placed(lists)
        several = [labels for _, (_, labels), _ in entries]
        classes, class_warning = _classes(folder, {label for labels in several for label in labels})
        listing = Listing(
            name=folder.resolve().name if place.is_dir() else place.stem,
            root=folder,
            clips=[],
            label_names=classes.names,
            multi_label=any(len(labels) > 1 for labels in several),
            warnings=[class_warning, *warnings, *fold_warnings],
        )
        _fill(listing, entries, classes)
        listing.warnings += repeated_slices(listing.clips, source_files(listing.clips, folder))
        return listing


def _fill(
    listing: Listing, entries: Sequence[tuple[ListFile, Entry, int]], classes: ClassTable
) -> None:
    """Each entry as a clip, or as a missing one where its file is not there."""
    paths = _Paths(listing.root)
    seen: set[str] = set()
    for one, (named, labels), fold in entries:
        short = paths.short(named)
        clip_id = short if short not in seen else f"{short}@{one.path.stem}{len(seen)}"
        seen.add(clip_id)
        names = tuple(classes.name(label, one.path) for label in labels)
        split = "train" if fold else one.split or "train"
        path = paths.find(named)
        if path:
            listing.clips.append(SourceClip(clip_id, path, None, None, names, split, fold))
        else:
            listing.missing.append(MissingClip(clip_id, short, split))
    listing.warnings += paths.warnings()


def _classes(folder: Path, labels: Collection[str]) -> tuple[ClassTable, str]:
    """The class table for lists in ``folder``, and which it is.

    One beside the lists counts whatever it says; one above them, which may belong to other data,
    only if it has all labels.

    Raises:
        UsageError: There are several beside the lists, or it is no such table.
    """
    beside = _tables(folder)
    if len(beside) > 1:
        raise UsageError(
            f"several class tables in {folder}: {some_of(path.name for path in beside)}",
            f"keep one, or call the right one {CLASS_TABLE}",
        )
    for path in beside or _tables(Path(os.path.abspath(folder)).parent):
        table = ClassTable.read(path)
        if beside or all(map(table.knows, labels)):
            return table, f"classes and their order are those of {path}"
    return (
        ClassTable.of_labels(labels),
        f"no {CLASS_TABLES} with these labels beside the lists or above: classes are the labels, "
        "in alphabetical order",
    )


def _tables(folder: Path) -> list[Path]:
    usual = folder / CLASS_TABLE
    return [usual] if usual.is_file() else _visible(folder, CLASS_TABLES)


def _visible(folder: Path, pattern: str) -> list[Path]:
    return sorted(path for path in folder.glob(pattern) if not is_hidden(path.name))


def _placed(lists: Sequence[ListFile]) -> tuple[list[tuple[ListFile, Entry, int]], list[str]]:
    """Each entry with its list and fold (0: none), and a warning if lists are folds.

    Then every clip is training data, and what training lists only repeat is passed over.
    """
    numbers = fold_lists(lists)
    folds, warnings = counted_from_one([numbers.get(one.path) for one in lists])
    known = {entry for one in lists if one.path in numbers for entry in one.entries}
    placed = []
    for one, fold in zip(lists, folds, strict=True):
        repeats = bool(numbers) and not fold and one.pair is not None
        for entry in one.entries:
            if not (repeats and entry in known):
                placed.append((one, entry, fold))
            if repeats:
                known.add(entry)
    if numbers:
        warnings.append(
            f"{len(numbers)} evaluation lists are folds; their training lists only repeat them"
        )
    return placed, warnings


class _Paths:
    """Paths as lists have them, looked for below the lists and where their own code finds them.

    That stands at the top of its recipe (``egs/esc50``), above the lists; so may the user.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._absolute = Path(os.path.abspath(folder))
        self._bases = (Path.cwd(), *self._absolute.parents)
        self._used: dict[Path, int] = {}

    def short(self, named: str) -> str:
        """A path below the lists' folder from there on: where that lies changes nothing."""
        path = Path(named)
        if path.is_absolute() and path.is_relative_to(self._absolute):
            return path.relative_to(self._absolute).as_posix()
        return named

    def find(self, named: str) -> str:
        """Path from the lists' folder, or an absolute one; empty where nothing is."""
        short = self.short(named)
        if is_there(self._folder / short):
            return short
        bases = () if os.path.isabs(named) else self._bases
        base = next((base for base in bases if is_there(base / named)), None)
        if base is None:
            return ""
        self._used[base] = self._used.get(base, 0) + 1
        return str(base / named)

    def warnings(self) -> list[str]:
        """Where paths begin that do not begin at the lists' folder."""
        return [
            f"{count:,} paths begin at {base}, not at the folder of the lists"
            for base, count in self._used.items()
        ]


CORPORA.register("json")(AudioLists())
