"""AudioSet: 527 classes, several per clip, 10 s excerpts of YouTube videos.

Users download the excerpts themselves under several naming schemes, and never all of them:
videos vanish, which shifts mAP by points, so what is missing is counted and told.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from elastictool.corpora.base import (
    CORPORA,
    CorpusOptions,
    Listing,
    SourceClip,
    chosen_subset,
    chosen_task,
    require_folder,
)
from elastictool.corpora.class_table import CLASS_TABLE, ClassTable
from elastictool.corpora.listing import FileIndex, ListingBuilder, first_file
from elastictool.corpora.tables import table_rows
from elastictool.utils.errors import UsageError

TABLES = {
    "balanced": ("balanced_train_segments.csv", "train"),
    "unbalanced": ("unbalanced_train_segments.csv", "train"),
    "eval": ("eval_segments.csv", "test"),
}
_EXPECTED = {"balanced": 22_160, "unbalanced": 2_041_789, "eval": 20_371}
_CLASSES = 527
_FOLDERS = ("metadata", "annotations", "csv")


@dataclass(frozen=True)
class AudioSet:
    """Lists the segments whose excerpt is on disk."""

    name: str = "audioset"
    tasks: tuple[str, ...] = ()
    subsets: tuple[str, ...] = ("full", "balanced")
    default_root: Path | None = Path("data/raw/audioset")

    def describe(self) -> str:
        """What to fetch, in one screen."""
        return (
            "AudioSet has two parts, to be fetched by hand:\n"
            "1. segments and classes (CC BY 4.0), from research.google.com/audioset:\n"
            f"     {', '.join(name for name, _ in TABLES.values())},\n"
            f"     {CLASS_TABLE}\n"
            f"     to {self.default_root}/\n"
            "2. the 10 s excerpts of the YouTube videos (2 million, each under its own licence;\n"
            "   balanced and evaluation alone are 42,531), with a downloader of your choice,\n"
            f"   to {self.default_root}/audio/ in any subfolders, named\n"
            "     <id>.wav, or <id> with start, or start and end, in seconds or milliseconds\n"
            "     (<id>_30.wav, <id>_30000_40000.flac), each also as Y<id>\n"
            "then: elastictool prep --dataset audioset [--subset balanced]\n"
            "full trains on balanced and unbalanced segments, balanced on the former alone; test\n"
            "is the evaluation set. Vanished videos are counted as missing."
        )

    def list_clips(self, root: Path | None, options: CorpusOptions) -> Listing:
        """Segments of the training lists and of the evaluation list, grouped by video.

        Raises:
            UsageError: No table, one that cannot be read, or no class table.
        """
        chosen_task(self, options)
        subset = chosen_subset(self, options)
        place = require_folder(root, self)
        tables = _tables(place, subset)
        classes_file = first_file(place, [CLASS_TABLE], _FOLDERS)
        if not tables or classes_file is None:
            wanted = CLASS_TABLE if tables else "segment tables (…_segments.csv)"
            raise UsageError(f"no {wanted} in {place}", self.describe())
        classes = ClassTable.read(classes_file)
        index = FileIndex.scan(place, ("audio", "wav", "audios"))
        listing = Listing(
            "audioset" if subset == self.subsets[0] else f"audioset-{subset}",
            place,
            [],
            classes.names,
            multi_label=True,
            expected_classes=_CLASSES,
        )
        builder = ListingBuilder(listing)
        for part, table in tables.items():
            split = TABLES[part][1]
            listing.expected[split] = listing.expected.get(split, 0) + _EXPECTED[part]
            for line, video, start, stop, mids in _segments(table):
                labels = tuple(classes.name(mid, table) for mid in mids)
                clip_id = f"{video}_{start:g}"
                path = "" if clip_id in builder else index.find(_stems(video, start, stop))
                clip = SourceClip(clip_id, path, None, None, labels, split, 0, video)
                builder.add(clip, f"audio/Y{video}.wav", table, line)
        listing.notes.append(index.note(len(listing.clips) + len(listing.missing)))
        listing.warnings += [*builder.warnings(), *index.warnings(listing)]
        return listing


def _tables(root: Path, subset: str) -> dict[str, Path]:
    """The segment tables that are there, of those that the subset wants."""
    wanted = [part for part in TABLES if part != "unbalanced" or subset == "full"]
    found = {part: first_file(root, [TABLES[part][0]], _FOLDERS) for part in wanted}
    return {part: path for part, path in found.items() if path is not None}


def _stems(video: str, start: float, stop: float) -> Iterator[tuple[str, str]]:
    """File names in the wild by template, the most frequent first (made only when asked for)."""
    yield "Y<id>", f"Y{video}"
    yield "<id>", video
    tails = (
        ("<startms>_<endms>", f"{start * 1000:.0f}_{stop * 1000:.0f}"),
        ("<start>", f"{start:.0f}"),
        ("<start>_<end>", f"{start:.0f}_{stop:.0f}"),
        ("<start.000>", f"{start:.3f}"),
        ("<start.000>_<end.000>", f"{start:.3f}_{stop:.3f}"),
        ("<startms>", f"{start * 1000:.0f}"),
    )
    for template, tail in tails:
        yield f"<id>_{template}", f"{video}_{tail}"
    for template, tail in tails:
        yield f"Y<id>_{template}", f"Y{video}_{tail}"


def _segments(table: Path) -> Iterator[tuple[int, str, float, float, tuple[str, ...]]]:
    """(line, video, start, stop, mids) of each row; comments begin with #.

    Ids may begin with '-' or hold anything but a comma; the mids are one quoted cell.
    """
    for line, row in table_rows(table):
        if row[0].startswith("#"):
            continue
        try:
            video, start, stop, mids = row
            times = float(start), float(stop)
        except ValueError as error:
            raise UsageError(
                f"{table}, line {line}: not YTID, start, end, mids ({error})",
                "take the segment tables as they are published",
            ) from error
        yield line, video, *times, tuple(dict.fromkeys(mids.replace(" ", "").split(",")))


CORPORA.register("audioset")(AudioSet())
