"""Lists clips of a table: ``path,label``, optionally split, fold, start, stop, group.

The table is checked row by row before anything is decoded, and messages name file, line and
column. A path may also name a recording in an HDF5 file (``FILE/NAME``). Labels are joined by
``|``; their order is that of a ``labels.txt`` in the table's folder (one a line), without it
numerical if all are whole numbers, else alphabetical. Without splits and folds a seeded, stratified
80/10/10 split is drawn; with folds alone every clip is ``train``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from elastictool.corpora.base import (
    CORPORA,
    Corpus,
    CorpusOptions,
    Listing,
    SourceClip,
)
from elastictool.corpora.checks import some_of
from elastictool.corpora.classes import read_names
from elastictool.corpora.own_data import (
    counted_from_one,
    find_file,
    own_data,
    shared_file_warnings,
)
from elastictool.corpora.split_names import split_name
from elastictool.corpora.tables import MOST_DIGITS, Columns, Row, Table
from elastictool.utils.csv_files import from_text
from elastictool.utils.errors import UsageError
from elastictool.utils.io import as_argument, composed
from elastictool.utils.registry import nearest_hint

TABLE_NAME = "clips.csv"
LABELS_NAME = "labels.txt"
COLUMNS = Columns(
    ("path", "label"),
    ("split", "fold", "start", "stop", "group"),
    aliases={"end": "stop"},
    whole=False,
    options=("path", "label", "split", "group"),
)
EXPORTED = ("path", "label", "split", "fold", "group", "id", "source")
"""Columns of a table that ``data export`` wrote: by them it is known, and read with its writer's
counterpart."""
_SEPARATORS, _RARE_SEPARATORS = "|,;", "/+&"
"""What joins labels in other people's tables; the rare ones are part of many names (R&B)."""
_WHOLE_NUMBER = re.compile(r"([0-9]+)(\.0*)?")
"""pandas writes 2.0 for 2 in a column that lacks a number somewhere."""


class CsvList(Corpus):
    """Lists the rows of a table; paths are relative to the table's folder."""

    name = "csv"
    marks = (TABLE_NAME,)
    takes_file = own_table = True

    def describe(self) -> str:
        """Returns which table is wanted."""
        return (
            "--dataset csv --root TABLE.csv (or a folder with clips.csv). Its columns, divided by\n"
            "commas, semicolons or tabs:\n"
            "  path   of the audio file, relative to the table (in HDF5: FILE/NAME)\n"
            "  label  several are joined by | (--label-separator)\n"
            "  and optionally: split (train, val, test), fold (1, 2, ...), start and stop or end\n"
            "  (seconds), group (what must not be spread over splits)\n"
            "--path-column, --label-column, --split-column, --group-column take other names.\n"
            f"A {LABELS_NAME} next to it, one label a line, gives the order of the classes."
        )

    def find_clips(self, root: Path, options: CorpusOptions) -> Listing:
        """Lists the rows whose file exists; the others are ``missing``.

        Raises:
            UsageError: The table is absent, empty, lacks a column, or a row is wrong.
        """
        path = root / TABLE_NAME if root.is_dir() else root
        if not path.is_file():
            raise UsageError(f"no {TABLE_NAME} in {root}", self.describe())
        table = Table(path, _columns(options.table.columns))
        clips, warnings = _read_clips(table, options.table.label_separator)
        folder = path.parent
        is_drawn = "split" not in table.names and not any(clip.fold for clip in clips)
        listing = own_data(
            path.resolve().parent.name if path.name == TABLE_NAME else path.stem,
            folder,
            clips,
            partial(find_file, folder),
            "no split column: by label" if is_drawn else "",
            options.seed,
        )
        if (labels_file := folder / LABELS_NAME).is_file():
            _order_labels(listing, labels_file)
        listing.warnings += [*warnings, *shared_file_warnings(listing)]
        listing.warnings += _joined_labels(listing, options.table.label_separator)
        return listing


def _order_labels(listing: Listing, path: Path) -> None:
    """Gives the classes the order of the file of their names.

    Raises:
        UsageError: It lacks one.
    """
    names = read_names(path)
    forms = {composed(name): name for name in names}
    for label in listing.label_names:
        if composed(label) not in forms:
            raise UsageError(
                f"{path} does not list the label {label!r}", nearest_hint(label, names)
            )
    if not set(names).issuperset(listing.label_names):
        listing.clips = [
            clip._replace(labels=tuple(forms[composed(label)] for label in clip.labels))
            for clip in listing.clips
        ]
    listing.label_names = names


def _columns(called: Mapping[str, str]) -> Columns:
    """Returns the columns of a table in which the user has named some; these have to be there."""
    required = dict.fromkeys((*COLUMNS.required, *called))
    return replace(COLUMNS, required=tuple(required), called=called)


def _joined_labels(listing: Listing, separator: str) -> Iterator[str]:
    """Yields warnings on labels that look like several in one.

    Commas are usual in names ("Male speech, man speaking"): where clips do have several labels,
    only names that join labels of the data count.
    """
    known = set(listing.label_names)
    for other in _SEPARATORS + _RARE_SEPARATORS:
        joined = [label for label in listing.label_names if other in label and other != separator]
        if listing.multi_label or other in _RARE_SEPARATORS:
            joined = [label for label in joined if known.issuperset(_parts(label, other))]
        if joined:
            contain = "label contains" if len(joined) == 1 else "labels contain"
            yield (
                f"{len(joined)} {contain} {other!r}: each is one class, unless --label-separator "
                f"{as_argument(other)} divides it: {some_of(map(repr, joined))}"
            )


def _parts(label: str, separator: str) -> list[str]:
    return [part.strip() for part in label.split(separator)]


def _read_clips(table: Table, separator: str) -> tuple[list[SourceClip], list[str]]:
    """Returns one clip a row, and warnings on folds and columns that are read differently."""
    clips: list[SourceClip] = []
    folds: list[int | None] = []
    seen: set[str] = set()
    for row in table:
        if table.names == EXPORTED:
            row = row._replace(cells={name: from_text(cell) for name, cell in row.cells.items()})
        clip = _clip(row, separator)
        if clip.id in seen:
            clip = clip._replace(id=f"{clip.id}@row{row.number}")
        seen.add(clip.id)
        clips.append(clip)
        text = row.cells.get("fold", "")
        number = _WHOLE_NUMBER.fullmatch(text)
        if text and (not number or len(number[1]) > MOST_DIGITS):
            raise _wrong(row, "fold", "is not a whole number")
        folds.append(int(number[1]) if number else None)
    if not clips:
        raise UsageError(f"{table.path} has a header but no rows", "add one row per clip")
    counted, warnings = counted_from_one(folds)
    if table.ignored:
        warnings.append(f"columns that are not read: {', '.join(table.ignored)}")
    clips = [clip._replace(fold=fold) for clip, fold in zip(clips, counted, strict=True)]
    return clips, warnings


def _clip(row: Row, separator: str) -> SourceClip:
    """Returns the row's clip without its fold; its id is the path, with the slice if any."""
    for column in ("path", "split", "label"):
        if not row.cells.get(column, "train"):
            raise _wrong(row, column, "is empty")
    path = row.cells["path"]
    try:
        split = split_name(row.cells.get("split", "train"))
    except ValueError as error:
        raise _wrong(row, "split", str(error)) from None
    start, stop = _seconds(row, "start"), _seconds(row, "stop")
    if stop is not None and stop <= (start or 0.0):
        raise _wrong(row, "stop", "does not lie after start")
    labels = _parts(row.cells["label"], separator)
    if not all(labels):
        raise _wrong(row, "label", "holds an empty label")
    sliced = start is not None or stop is not None
    return SourceClip(
        id=f"{path}#{start or 0:g}-{'' if stop is None else f'{stop:g}'}" if sliced else path,
        path=path,
        start_s=start,
        stop_s=stop,
        labels=tuple(dict.fromkeys(labels)),
        split=split,
        group=row.cells.get("group", ""),
    )


def _wrong(row: Row, column: str, what: str) -> UsageError:
    value = row.cells.get(column, "")
    return UsageError(
        f"{row}, column {column!r}: {value!r} {what}", "correct the row or take it out"
    )


def _seconds(row: Row, column: str) -> float | None:
    text = row.cells.get(column, "")
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        raise _wrong(row, column, "is not a number of seconds") from None
    if not math.isfinite(value) or value < 0:
        raise _wrong(row, column, "is not a number of seconds of 0 or above")
    return value


CORPORA.register("csv")(CsvList())
