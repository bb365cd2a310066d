"""ESC-50: 2,000 environmental sounds of 5 s, 50 classes, five folds.

Many clips are shorter sounds filled up with digital silence; ``--trim-silence`` gives them back
their own length.
"""

from __future__ import annotations

import csv
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
    require_root,
)
from elastictool.corpora.join import file_clip, first_file
from elastictool.errors import UsageError
from elastictool.progress import SILENT, Progress

ARCHIVE_URL = "https://github.com/karolpiczak/ESC-50/archive/refs/heads/master.zip"
ARCHIVE_CHECKSUM = "md5:7771e4b9d86d0945acce719c7a59305a"
"""Of the one state that the archive has had for years; Source: soundata and HEAR, which agree."""
TABLE = "esc50.csv"
_COLUMNS = ("filename", "fold", "target", "category", "esc10", "src_file")
_EXPECTED = {"esc50": 2_000, "esc10": 400}


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
            f"               {self.default_root}/audio/*.wav exist\n"
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
        place = require_root(root, self)
        table = first_file(place, [TABLE], ["meta"])
        if table is None:
            raise UsageError(f"no meta/{TABLE} in {place}", self.describe())
        rows = [r for r in _rows(table) if subset != "esc10" or r["esc10"].lower() == "true"]
        classes = {int(row["target"]): row["category"] for row in rows}
        listing = Listing(
            name=subset,
            root=place,
            clips=[],
            label_names=[classes[target] for target in sorted(classes)],
            expected={"train": _EXPECTED[subset]},
        )
        for row in rows:
            path = f"audio/{row['filename']}"
            clip = SourceClip(
                id=row["filename"].rpartition(".")[0],
                path=path if (place / path).is_file() else "",
                start_s=None,
                stop_s=None,
                labels=(row["category"],),
                split="train",
                fold=int(row["fold"]),
                group=row["src_file"],
            )
            file_clip(listing, clip, path)
        return listing

    def download(self, root: Path, progress: Progress = SILENT) -> None:
        """Fetch and unpack the archive; ``root/meta`` and ``root/audio`` exist afterwards."""
        wanted = ("meta/esc50.csv", "audio/*.wav")
        fetch(Archive(self.url, "esc50.zip", self.checksum, wanted, strip=1), root, progress)


def _rows(table: Path) -> Iterator[dict[str, str]]:
    with table.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        absent = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
        if absent:
            raise UsageError(
                f"{table} lacks the columns {', '.join(absent)}", f"take {TABLE} as it is published"
            )
        for row in reader:
            if not (str(row["fold"]).isdigit() and str(row["target"]).isdigit()):
                raise UsageError(
                    f"{table}, row {reader.line_num}: fold {row['fold']!r} or target "
                    f"{row['target']!r} is no number",
                    f"take {TABLE} as it is published",
                )
            yield row


CORPORA.register("esc50")(ESC50())
