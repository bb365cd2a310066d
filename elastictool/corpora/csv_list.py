"""Any data, described by one table: ``path,label`` and optionally split, fold, start, stop, group.

The table is checked row by row before anything is decoded, and a message names file, row and
column, because a table is where a user's mistakes are. A path may also name a recording in an HDF5
file (``FILE/NAME``). Labels are joined by ``|``; their order is that of a ``labels.txt`` beside the
table (one a line), without it numerical if all are whole numbers, else alphabetical. Without splits
and folds a seeded, stratified 80/10/10 split is drawn; with folds alone every clip is ``train``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from elastictool.corpora.base import (
    CORPORA,
    SPLIT_NAMES,
    CorpusOptions,
    Listing,
    MissingClip,
    SourceClip,
    chosen_task,
    ordered_labels,
    require_root,
    source_files,
    stratified_split,
)
from elastictool.corpora.csv_table import CsvTable
from elastictool.corpora.folds import counted_from_one
from elastictool.corpora.listing import is_there
from elastictool.corpora.warnings import drawn_split, files_of_several_groups, repeated_slices
from elastictool.utils.errors import UsageError
from elastictool.utils.io import open_text
from elastictool.utils.registry import nearest_hint

TABLE_NAME = "clips.csv"
LABELS_NAME = "labels.txt"
_DRAWN = "no split column: drew 80/10/10 by label with seed {}"
_WHOLE_NUMBER = re.compile(r"([0-9]+)(\.0*)?")
"""Of a column that lacks a number somewhere, pandas writes the others as 2.0."""


@dataclass(frozen=True)
class CsvList:
    """Lists the rows of a table; paths are relative to the table's folder."""

    name: str = "csv"
    tasks: tuple[str, ...] = ()
    subsets: tuple[str, ...] = ()
    default_root: Path | None = None

    def describe(self) -> str:
        """The table that is wanted."""
        return (
            "--dataset csv --root TABLE.csv (or a folder with clips.csv). Its columns, divided by\n"
            "commas, semicolons or tabs:\n"
            "  path   of the audio file, relative to the table (in HDF5: FILE/NAME)\n"
            "  label  several are joined by |\n"
            "  and optionally: split (train, val, test), fold (1, 2, ...), start and stop or end\n"
            "  (seconds), group (what must not be spread over splits)\n"
            f"A {LABELS_NAME} beside it, one label a line, gives the order of the classes."
        )

    def list_clips(self, root: Path | None, options: CorpusOptions) -> Listing:
        """The rows whose file exists; the others are ``missing``.

        Raises:
            UsageError: The table is absent, empty, lacks a column, or a row is wrong.
        """
        chosen_task(self, options)
        place = require_root(root, self)
        path = place / TABLE_NAME if place.is_dir() else place
        if not path.is_file():
            raise UsageError(f"no {TABLE_NAME} in {place}", self.describe())
        table = CsvTable.open(path)
        clips, warnings = _read_clips(table)
        label_names = _label_names(path.parent / LABELS_NAME, clips)
        files = source_files(clips, path.parent)
        is_drawn = "split" not in table.columns and not any(clip.fold for clip in clips)
        if is_drawn:
            clips = stratified_split(clips, options.seed, files)
        found = [clip for clip in clips if is_there(path.parent / clip.path)]
        here = {clip.id for clip in found}
        how = (drawn_split("no split column", "label", found, options.seed),)
        return Listing(
            name=_dataset_name(path),
            root=path.parent,
            clips=found,
            label_names=label_names,
            multi_label=any(len(clip.labels) > 1 for clip in clips),
            missing=[
                MissingClip(clip.id, clip.path, clip.split) for clip in clips if clip.id not in here
            ],
            warnings=[
                *(how if is_drawn and found else ()),
                *warnings,
                *repeated_slices(found, files),
                *files_of_several_groups(found, files),
            ],
            drawn=_DRAWN.format(options.seed) if is_drawn else "",
        )


def _dataset_name(table: Path) -> str:
    return table.resolve().parent.name if table.name == TABLE_NAME else table.stem


def _label_names(path: Path, clips: list[SourceClip]) -> list[str]:
    """Labels in the order of the file at ``path``, if it is there; it may list unused ones."""
    used = [label for clip in clips for label in clip.labels]
    if not path.is_file():
        return ordered_labels(used)
    with open_text(path) as file:
        lines = file.read().splitlines()
    names = list(dict.fromkeys(stripped for line in lines if (stripped := line.strip())))
    known = set(names)
    for label in used:
        if label not in known:
            raise UsageError(
                f"{path} does not list the label {label!r}", nearest_hint(label, names)
            )
    return names


def _read_clips(table: CsvTable) -> tuple[list[SourceClip], list[str]]:
    """One clip a row, and warnings on what was not taken as it stands there."""
    clips: list[SourceClip] = []
    folds: list[int | None] = []
    seen: set[str] = set()
    for number, cells in table.rows():
        row = _Row(table.path, number, cells)
        clip = row.clip()
        if clip.id in seen:
            clip = clip._replace(id=f"{clip.id}@row{number}")
        seen.add(clip.id)
        clips.append(clip)
        folds.append(row.fold())
    if not clips:
        raise UsageError(f"{table.path} has a header but no rows", "add one row per clip")
    counted, warnings = counted_from_one(folds)
    if table.ignored:
        warnings.append(f"columns that are not read: {', '.join(table.ignored)}")
    clips = [clip._replace(fold=fold) for clip, fold in zip(clips, counted, strict=True)]
    return clips, warnings


@dataclass(frozen=True)
class _Row:
    """One row of the table, and where it is for messages."""

    table: Path
    number: int
    cells: Mapping[str, str]

    def clip(self) -> SourceClip:
        """The row's clip without its fold; its id is the path, with the slice if there is one."""
        path = self._required("path")
        start, stop = self._seconds("start"), self._seconds("stop")
        if stop is not None and stop <= (start or 0.0):
            raise self._wrong("stop", "does not lie after start")
        sliced = start is not None or stop is not None
        return SourceClip(
            id=f"{path}#{start or 0:g}-{'' if stop is None else f'{stop:g}'}" if sliced else path,
            path=path,
            start_s=start,
            stop_s=stop,
            labels=self._labels(),
            split=self._split(),
            group=self.cells.get("group", ""),
        )

    def _wrong(self, column: str, what: str) -> UsageError:
        value = self.cells.get(column, "")
        return UsageError(
            f"{self.table}, row {self.number}, column {column!r}: {value!r} {what}",
            "correct the row or take it out",
        )

    def _required(self, column: str) -> str:
        if not self.cells[column]:
            raise self._wrong(column, "is empty")
        return self.cells[column]

    def _labels(self) -> tuple[str, ...]:
        labels = tuple(label.strip() for label in self._required("label").split("|"))
        if not all(labels):
            raise self._wrong("label", "holds an empty label")
        return tuple(dict.fromkeys(labels))

    def _split(self) -> str:
        if "split" not in self.cells:
            return "train"
        name = self._required("split")
        return SPLIT_NAMES.get(name.lower(), name)

    def fold(self) -> int | None:
        """The fold as it stands there; None if none does."""
        text = self.cells.get("fold", "")
        if not text:
            return None
        number = _WHOLE_NUMBER.fullmatch(text)
        if not number:
            raise self._wrong("fold", "is not a whole number")
        return int(number[1])

    def _seconds(self, column: str) -> float | None:
        text = self.cells.get(column, "")
        if not text:
            return None
        try:
            value = float(text)
        except ValueError:
            raise self._wrong(column, "is not a number of seconds") from None
        if not math.isfinite(value) or value < 0:
            raise self._wrong(column, "is not a number of seconds of 0 or above")
        return value


CORPORA.register("csv")(CsvList())
