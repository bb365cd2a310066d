"""Lists ESC-50: 2,000 environmental sounds of 5 s, 50 classes, five folds.

Many clips are shorter sounds padded with digital silence; ``--trim-silence`` restores their own
length.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from elastictool.corpora.base import CORPORA, Corpus, CorpusOptions, Listing, SourceClip
from elastictool.corpora.classes import NumberedClasses
from elastictool.corpora.download import fetch_archive
from elastictool.corpora.listing import FileIndex, ListingBuilder, first_file
from elastictool.corpora.tables import Columns, Table
from elastictool.utils.errors import UsageError
from elastictool.utils.progress import SILENT, Progress

ARCHIVE_URL = "https://github.com/karolpiczak/ESC-50/archive/refs/heads/master.zip"
ARCHIVE_CHECKSUM = "md5:7771e4b9d86d0945acce719c7a59305a"
"""Of the one state that the archive has had for years; Source: soundata and HEAR, which agree."""
TABLE = "esc50.csv"
_COLUMNS = Columns(
    ("filename", "fold", "target", "category", "esc10", "src_file"),
    hint=f"take {TABLE} as it is published",
)
_EXPECTED = {"esc50": 2_000, "esc10": 400}
_CLASSES = {"esc50": 50, "esc10": 10}


@dataclass(frozen=True)
class ESC50(Corpus):
    """Lists ESC-50 or its part ESC-10; ``url`` is where ``--download`` fetches it."""

    name = "esc50"
    subsets = ("esc50", "esc10")
    default_root = Path("data/raw/esc50")
    marks = (TABLE,)
    url: str = ARCHIVE_URL
    checksum: str = ARCHIVE_CHECKSUM

    def describe(self) -> str:
        """Returns where ESC-50 comes from and where it goes."""
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

    def find_clips(self, root: Path, options: CorpusOptions) -> Listing:
        """Lists all clips with their folds, grouped by source recording.

        Raises:
            UsageError: No table, or one that cannot be read.
        """
        subset, inside = options.subset, root / "ESC-50-master"  # the archive's folder
        table = first_file(root, [TABLE], ["meta"])
        if table is None and inside.is_dir():
            root, table = inside, first_file(inside, [TABLE], ["meta"])
        if table is None:
            raise UsageError(f"no meta/{TABLE} in {root}", self.describe())
        expected = {"train": _EXPECTED[subset]}
        listing = Listing(subset, root, expected=expected, expected_classes=_CLASSES[subset])
        builder = ListingBuilder(listing, FileIndex.scan(root, ("audio", "audio_16k")))
        classes = NumberedClasses()
        for row in Table(table, _COLUMNS):
            name, label, group = (row.cells[key] for key in ("filename", "category", "src_file"))
            fold, target = (row.number_in(key, _COLUMNS.hint) for key in ("fold", "target"))
            if subset == "esc10" and row.cells["esc10"].lower() != "true":
                continue
            classes.add(target, label, row)
            clip_id = name.rpartition(".")[0]
            clip = SourceClip(clip_id, "", None, None, (label,), "train", fold, group)
            builder.add(row, clip, f"audio/{name}", partial(builder.index.find_listed, name))
        listing.label_names = classes.names
        return builder.finish()

    def download(self, root: Path, progress: Progress = SILENT) -> None:
        """Fetches and unpacks the archive; ``root/meta`` and ``root/audio`` exist afterwards."""
        wanted = ("meta/esc50.csv", "audio/*.wav")
        fetch_archive(self.url, root, "esc50.zip", self.checksum, wanted, 1, progress)


CORPORA.register("esc50")(ESC50())
