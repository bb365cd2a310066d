"""ESC-50: 2,000 environmental sounds of 5 s, 50 classes, five folds.

Many clips are shorter sounds filled up with digital silence; ``--trim-silence`` gives them back
their own length.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from elastictool.corpora.archives import Archive, fetch
from elastictool.corpora.base import (
    CORPORA,
    CorpusOptions,
    Listing,
    SourceClip,
    chosen_subset,
    chosen_task,
    require_folder,
)
from elastictool.corpora.listing import FileIndex, ListingBuilder, first_file
from elastictool.corpora.tables import NumberedClasses, records
from elastictool.utils.errors import UsageError
from elastictool.utils.progress import SILENT, Progress

ARCHIVE_URL = "https://github.com/karolpiczak/ESC-50/archive/refs/heads/master.zip"
ARCHIVE_CHECKSUM = "md5:7771e4b9d86d0945acce719c7a59305a"
"""Of the one state that the archive has had for years; Source: soundata and HEAR, which agree."""
TABLE = "esc50.csv"
_COLUMNS = ("filename", "fold", "target", "category", "esc10", "src_file")
_ARCHIVE_FOLDER = "ESC-50-master"
_EXPECTED = {"esc50": 2_000, "esc10": 400}
_CLASSES = {"esc50": 50, "esc10": 10}


@dataclass(frozen=True)
class ESC50:
    """Lists ESC-50 or its part ESC-10; ``url`` is where ``--download`` fetches it."""

    name: str = "esc50"
    tasks: tuple[str, ...] = ()
    subsets: tuple[str, ...] = ("esc50", "esc10")
    default_root: Path | None = Path("data/raw/esc50")
    url: str = ARCHIVE_URL
    checksum: str = ARCHIVE_CHECKSUM

    def describe(self) -> str:
        """Where ESC-50 comes from and where it goes."""
        return (
            "ESC-50: 2,000 clips of 5 s, 44.1 kHz mono, 600 MB. Licence: CC BY-NC 3.0 (ESC-10,\n"
            "--subset esc10: CC BY 3.0).\n"
            "  fetch it:    elastictool prep --dataset esc50 --download\n"
            f"  or by hand:  {self.url}\n"
            f"               unpacked so that {self.default_root}/meta/esc50.csv and\n"
            f"               {self.default_root}/audio/*.wav (or audio_16k/*.wav) exist\n"
            "Five folds: train with --set data.test_fold=1, then 2, ... and average. Many clips\n"
            "end in digital silence: --trim-silence stores them at their own length."
        )

    def list_clips(self, root: Path | None, options: CorpusOptions) -> Listing:
        """All clips with their folds, grouped by source recording.

        Raises:
            UsageError: No table, or one that cannot be read.
        """
        chosen_task(self, options)
        subset = chosen_subset(self, options)
        place = _inside(require_folder(root, self))
        table = first_file(place, [TABLE], ["meta"])
        if table is None:
            raise UsageError(f"no meta/{TABLE} in {place}", self.describe())
        index = FileIndex.scan(place, ("audio", "audio_16k"))
        classes = NumberedClasses()
        expected = {"train": _EXPECTED[subset]}
        listing = Listing(
            subset, place, [], [], expected=expected, expected_classes=_CLASSES[subset]
        )
        builder = ListingBuilder(listing)
        for line, row in _rows(table):
            if subset == "esc10" and row["esc10"].lower() != "true":
                continue
            classes.add(int(row["target"]), row["category"], table, line)
            clip_id = row["filename"].rpartition(".")[0]
            clip = SourceClip(
                id=clip_id,
                path="" if clip_id in builder else index.find_listed(row["filename"]),
                start_s=None,
                stop_s=None,
                labels=(row["category"],),
                split="train",
                fold=int(row["fold"]),
                group=row["src_file"],
            )
            builder.add(clip, f"audio/{row['filename']}", table, line)
        listing.label_names = classes.names
        listing.warnings += [*builder.warnings(), *index.warnings(listing)]
        return listing

    def download(self, root: Path, progress: Progress = SILENT) -> None:
        """Fetch and unpack the archive; ``root/meta`` and ``root/audio`` exist afterwards."""
        wanted = ("meta/esc50.csv", "audio/*.wav")
        fetch(Archive(self.url, "esc50.zip", self.checksum, wanted, strip=1), root, progress)


def _inside(root: Path) -> Path:
    """``root``, or the folder in it that the archive unpacks to."""
    inside = root / _ARCHIVE_FOLDER
    return root if first_file(root, [TABLE], ["meta"]) or not inside.is_dir() else inside


def _rows(table: Path) -> Iterator[tuple[int, dict[str, str]]]:
    hint = f"take {TABLE} as it is published"
    for line, row in records(table, _COLUMNS, hint):
        if not (row["fold"].isdecimal() and row["target"].isdecimal()):
            raise UsageError(
                f"{table}, line {line}: fold {row['fold']!r} or target {row['target']!r} is no "
                "number",
                hint,
            )
        yield line, row


CORPORA.register("esc50")(ESC50())
