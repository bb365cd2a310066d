"""Lists VGGSound: 309 classes, one per clip, 10 s excerpts of YouTube videos."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from elastictool.corpora.base import (
    CORPORA,
    Corpus,
    CorpusOptions,
    Listing,
    SourceClip,
)
from elastictool.corpora.classes import CLASS_TABLE, ClassTable
from elastictool.corpora.listing import FileIndex, ListingBuilder, first_file
from elastictool.corpora.split_names import split_name
from elastictool.corpora.tables import Columns, Table
from elastictool.utils.errors import UsageError

TABLE = "vggsound.csv"
_EXPECTED = {"train": 183_730, "test": 15_446}
_CLASSES = 309
_FOLDERS = ("metadata", "annotations", "csv")
_COLUMNS = Columns(
    ("id", "start", "label", "split"), header=False, hint=f"take {TABLE} as it is published"
)


class VGGSound(Corpus):
    """Lists the clips of ``vggsound.csv`` that are on disk."""

    name = "vggsound"
    default_root = Path("data/raw/vggsound")
    marks = (TABLE,)

    def describe(self) -> str:
        """Returns what to fetch, in one screen."""
        return (
            "VGGSound has two parts, to be fetched by hand:\n"
            "1. vggsound.csv (CC BY 4.0), from www.robots.ox.ac.uk/~vgg/data/vggsound\n"
            f"     to {self.default_root}/vggsound.csv\n"
            "2. the 10 s excerpts of the YouTube videos (each under its own licence)\n"
            f"     to {self.default_root}/audio/<id>_<start, six digits>.wav (or .flac, .mp4),\n"
            "     in any subfolders\n"
            "then: elastictool prep --dataset vggsound\n"
            f"With a {CLASS_TABLE} next to the table its order of classes is kept; otherwise\n"
            "classes are alphabetical. Vanished videos are counted as missing."
        )

    def find_clips(self, root: Path, options: CorpusOptions) -> Listing:
        """Lists clips of training and test, grouped by video.

        Raises:
            UsageError: No table, or one that cannot be read.
        """
        table = first_file(root, [TABLE], _FOLDERS)
        if table is None:
            raise UsageError(f"no {TABLE} in {root}", self.describe())
        rows = list(Table(table, _COLUMNS))
        class_file = table.parent / CLASS_TABLE
        labels = (row.cells["label"] for row in rows)
        classes = (
            ClassTable.read(class_file) if class_file.is_file() else ClassTable.of_labels(labels)
        )
        listing = Listing(
            self.name,
            root,
            label_names=classes.names,
            expected=dict(_EXPECTED),
            expected_classes=_CLASSES,
        )
        builder = ListingBuilder(listing, FileIndex.scan(root, ("audio", "wav", "video")))
        for row in rows:
            video, start = row.cells["id"], row.number_in("start", _COLUMNS.hint)
            stem, label = f"{video}_{start:06d}", classes.name(row.cells["label"], table)
            try:
                split = split_name(row.cells["split"])
            except ValueError as error:
                raise row.error(f"split {row.cells['split']!r} {error}", _COLUMNS.hint) from None
            clip = SourceClip(stem, "", None, None, (label,), split, group=video)
            names = (("<id>_<start:06d>", stem), ("<id>_<start>", f"{video}_{start}"))
            builder.add(row, clip, f"audio/{stem}.wav", partial(builder.index.find, names))
        return builder.finish()


CORPORA.register("vggsound")(VGGSound())
