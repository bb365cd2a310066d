"""Lists AudioSet: 527 classes, several per clip, 10 s excerpts of YouTube videos.

Users download the excerpts themselves under several naming schemes, and never all of them:
videos vanish, which shifts mAP by points, so missing ones are counted and reported.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from elastictool.corpora.base import CORPORA, Corpus, CorpusOptions, Listing, SourceClip
from elastictool.corpora.classes import CLASS_TABLE, ClassTable
from elastictool.corpora.listing import FileIndex, ListingBuilder, first_file
from elastictool.corpora.tables import Columns, Table
from elastictool.utils.errors import UsageError

TABLES = {
    "balanced": ("balanced_train_segments.csv", "train"),
    "unbalanced": ("unbalanced_train_segments.csv", "train"),
    "eval": ("eval_segments.csv", "test"),
}
_EXPECTED = {"balanced": 22_160, "unbalanced": 2_041_789, "eval": 20_371}
_CLASSES = 527
_FOLDERS = ("metadata", "annotations", "csv")
_COLUMNS = Columns(
    ("YTID", "start", "end", "mids"),
    header=False,
    comment="#",
    hint="take the segment tables as they are published",
)


class AudioSet(Corpus):
    """Lists the segments whose excerpt is on disk."""

    name = "audioset"
    subsets = ("full", "balanced")
    default_root = Path("data/raw/audioset")
    marks = tuple(name for name, _ in TABLES.values())

    def describe(self) -> str:
        """Returns what to fetch, in one screen."""
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

    def find_clips(self, root: Path, options: CorpusOptions) -> Listing:
        """Lists segments of the training lists and of the evaluation list, grouped by video.

        Raises:
            UsageError: No table, one that cannot be read, or no class table.
        """
        wanted = [part for part in TABLES if part != "unbalanced" or options.subset == "full"]
        found = {part: first_file(root, [TABLES[part][0]], _FOLDERS) for part in wanted}
        tables = {part: path for part, path in found.items() if path is not None}
        classes_file = first_file(root, [CLASS_TABLE], _FOLDERS)
        if not tables or classes_file is None:
            what = CLASS_TABLE if tables else "segment tables (…_segments.csv)"
            raise UsageError(f"no {what} in {root}", self.describe())
        classes = ClassTable.read(classes_file)
        name = self.name if options.subset == self.subsets[0] else f"audioset-{options.subset}"
        listing = Listing(
            name, root, label_names=classes.names, multi_label=True, expected_classes=_CLASSES
        )
        builder = ListingBuilder(listing, FileIndex.scan(root, ("audio", "wav", "audios")))
        for part, table in tables.items():
            split = TABLES[part][1]
            listing.expected[split] = listing.expected.get(split, 0) + _EXPECTED[part]
            for row in Table(table, _COLUMNS):
                video = row.cells["YTID"]
                try:
                    start, stop = float(row.cells["start"]), float(row.cells["end"])
                except ValueError as error:
                    raise row.error(
                        f"start or end is no number ({error})", _COLUMNS.hint
                    ) from error
                mids = dict.fromkeys(row.cells["mids"].replace(" ", "").split(","))
                labels = tuple(classes.name(mid, table) for mid in mids)
                clip = SourceClip(f"{video}_{start:g}", "", None, None, labels, split, group=video)
                stems = _stems(video, start, stop)
                builder.add(row, clip, f"audio/Y{video}.wav", partial(builder.index.find, stems))
        return builder.finish()


def _stems(video: str, start: float, stop: float) -> Iterator[tuple[str, str]]:
    """Yields (template, stem) of names in use, the most frequent first."""
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
    for prefix in ("", "Y"):
        for template, tail in tails:
            yield f"{prefix}<id>_{template}", f"{prefix}{video}_{tail}"


CORPORA.register("audioset")(AudioSet())
