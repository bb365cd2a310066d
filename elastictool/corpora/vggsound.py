"""VGGSound: 309 classes, one per clip, 10 s excerpts of YouTube videos."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from elastictool.corpora.base import (
    CORPORA,
    SPLIT_NAMES,
    CorpusOptions,
    Listing,
    SourceClip,
    chosen_task,
    require_folder,
)
from elastictool.corpora.class_table import CLASS_TABLE, ClassTable
from elastictool.corpora.listing import FileIndex, ListingBuilder, first_file
from elastictool.corpora.tables import table_rows
from elastictool.utils.errors import UsageError

TABLE = "vggsound.csv"
_EXPECTED = {"train": 183_730, "test": 15_446}
_CLASSES = 309
_FOLDERS = ("metadata", "annotations", "csv")


@dataclass(frozen=True)
class VGGSound:
    """Lists the clips of ``vggsound.csv`` that are on disk."""

    name: str = "vggsound"
    tasks: tuple[str, ...] = ()
    subsets: tuple[str, ...] = ()
    default_root: Path | None = Path("data/raw/vggsound")

    def describe(self) -> str:
        """What to fetch, in one screen."""
        return (
            "VGGSound has two parts, to be fetched by hand:\n"
            "1. vggsound.csv (CC BY 4.0), from www.robots.ox.ac.uk/~vgg/data/vggsound\n"
            f"     to {self.default_root}/vggsound.csv\n"
            "2. the 10 s excerpts of the YouTube videos (each under its own licence)\n"
            f"     to {self.default_root}/audio/<id>_<start, six digits>.wav (or .flac, .mp4),\n"
            "     in any subfolders\n"
            "then: elastictool prep --dataset vggsound\n"
            f"With a {CLASS_TABLE} beside the table its order of classes is kept; otherwise\n"
            "classes are alphabetical. Vanished videos are counted as missing."
        )

    def list_clips(self, root: Path | None, options: CorpusOptions) -> Listing:
        """Clips of training and test, grouped by video.

        Raises:
            UsageError: No table, or one that cannot be read.
        """
        chosen_task(self, options)
        place = require_folder(root, self)
        table = first_file(place, [TABLE], _FOLDERS)
        if table is None:
            raise UsageError(f"no {TABLE} in {place}", self.describe())
        index = FileIndex.scan(place, ("audio", "wav", "video"))
        rows = list(_rows(table))
        beside = table.parent / CLASS_TABLE
        labels = (label for _, _, _, label, _ in rows)
        classes = ClassTable.read(beside) if beside.is_file() else ClassTable.of_labels(labels)
        listing = Listing(
            "vggsound",
            place,
            [],
            classes.names,
            expected=dict(_EXPECTED),
            expected_classes=_CLASSES,
        )
        builder = ListingBuilder(listing)
        for line, video, start, label, split in rows:
            stem = f"{video}_{start:06d}"
            names = (("<id>_<start:06d>", stem), ("<id>_<start>", f"{video}_{start}"))
            path = "" if stem in builder else index.find(names)
            name = classes.name(label, table)
            clip = SourceClip(stem, path, None, None, (name,), split, 0, video)
            builder.add(clip, f"audio/{stem}.wav", table, line)
        listing.notes.append(index.note(len(listing.clips) + len(listing.missing)))
        listing.warnings += [*builder.warnings(), *index.warnings(listing)]
        return listing


def _rows(table: Path) -> Iterator[tuple[int, str, int, str, str]]:
    """(line, video, start second, label, split) of each row; the table has no header."""
    for line, row in table_rows(table):
        try:
            video, start, label, split = row
            second = int(start)
        except ValueError as error:
            raise UsageError(
                f"{table}, line {line}: not id, start, label, split ({error})",
                "take vggsound.csv as it is published",
            ) from error
        yield line, video, second, label, SPLIT_NAMES.get(split.lower(), split)


CORPORA.register("vggsound")(VGGSound())
