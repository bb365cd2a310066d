"""VGGSound: 309 classes, one per clip, 10 s excerpts of YouTube videos."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from elastictool.corpora.audio_lists import CLASS_TABLE, ClassTable
from elastictool.corpora.base import (
    CORPORA,
    SPLIT_NAMES,
    CorpusOptions,
    Listing,
    SourceClip,
    chosen_task,
    require_root,
)
from elastictool.corpora.join import FileIndex, file_clip, first_file, first_folder
from elastictool.errors import UsageError

TABLE = "vggsound.csv"
_EXPECTED = {"train": 183_730, "test": 15_446}
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
        place = require_root(root, self)
        table = first_file(place, [TABLE], _FOLDERS)
        if table is None:
            raise UsageError(f"no {TABLE} in {place}", self.describe())
        index = FileIndex.scan(first_folder(place, ("audio", "wav", "video")), place)
        rows = list(_rows(table))
        classes = ClassTable.read(table.parent / CLASS_TABLE, [[row[2]] for row in rows])
        listing = Listing("vggsound", place, [], classes.names, expected=dict(_EXPECTED))
        for video, start, label, split in rows:
            stem = f"{video}_{start:06d}"
            path = index.find((("<id>_<start:06d>", stem), ("<id>_<start>", f"{video}_{start}")))
            labels = (classes.name(label, table),)
            clip = SourceClip(stem, path, None, None, labels, split, 0, video)
            file_clip(listing, clip, f"audio/{stem}.wav")
        listing.notes.append(index.note(len(rows)))
        return listing


def _rows(table: Path) -> Iterator[tuple[str, int, str, str]]:
    """(video, start second, label, split) of each row; the table has no header."""
    try:
        with table.open(encoding="utf-8", newline="") as file:
            reader = csv.reader(file, skipinitialspace=True)
            for row in reader:
                if not row:
                    continue
                video, start, label, split = row
                yield video, int(start), label, SPLIT_NAMES.get(split.lower(), split)
    except (ValueError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{table}, line {reader.line_num}: not id, start, label, split ({error})",
            "take vggsound.csv as it is published",
        ) from error


CORPORA.register("vggsound")(VGGSound())
