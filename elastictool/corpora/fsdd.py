"""Lists Free Spoken Digit Dataset: 3,000 spoken digits, ten classes (or six speakers), very short.

Files are ``recordings/{digit}_{speaker}_{index}.wav``; the official test split is index 0 to 4.
It is not disjoint in speakers, so clips carry no group.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from elastictool.corpora.base import CORPORA, Corpus, CorpusOptions, Listing, SourceClip
from elastictool.corpora.checks import some_of
from elastictool.corpora.download import fetch_archive
from elastictool.corpora.listing import FileIndex
from elastictool.utils.errors import UsageError
from elastictool.utils.io import walk_files
from elastictool.utils.progress import SILENT, Progress

VERSION = "1.0.10"
ARCHIVE_URL = (
    f"https://github.com/Jakobovski/free-spoken-digit-dataset/archive/refs/tags/v{VERSION}.tar.gz"
)
_NAME = re.compile(r"(?P<digit>\d)_(?P<speaker>[^_]+)_(?P<index>\d+)")
_TEST_INDICES = range(5)
_EXPECTED = {"train": 2700, "test": 300}


@dataclass(frozen=True)
class Fsdd(Corpus):
    """Lists FSDD; ``url`` is where ``--download`` fetches it."""

    name = "fsdd"
    tasks = ("digit", "speaker")
    default_root = Path("data/raw/fsdd")
    marks = ("recordings/[0-9]_*_[0-9].wav",)
    url: str = ARCHIVE_URL
    checksum: str = ""

    def describe(self) -> str:
        """Returns where FSDD comes from and where it goes."""
        return (
            f"Free Spoken Digit Dataset v{VERSION}: 3,000 recordings of 6 speakers, 8 kHz mono, "
            "30 MB.\nLicence: CC BY-SA 4.0.\n"
            "  fetch it:    elastictool prep --dataset fsdd --download\n"
            f"  or by hand:  {self.url}\n"
            f"               unpacked so that {self.default_root}/recordings/*.wav exist\n"
            "  elsewhere:   --root FOLDER (FOLDER or FOLDER/recordings holds the wav files)"
        )

    def find_clips(self, root: Path, options: CorpusOptions) -> Listing:
        """Lists clips by digit, speaker, index; labels are digits 0 to 9 or speakers sorted.

        Raises:
            UsageError: No recording under ``root``.
        """
        inside = "recordings/" if (root / "recordings").is_dir() else ""
        folder = root / inside
        index = FileIndex.of((f for f in walk_files(folder) if "/" not in f.path), folder)
        named = [(_NAME.fullmatch(stem), inside + path) for stem, path in index.paths.items()]
        numbered = []
        for match, path in named:
            if match:
                split = "test" if int(match["index"]) in _TEST_INDICES else "train"
                clip = SourceClip(match[0], path, None, None, (match[options.task],), split)
                numbered.append(((match["digit"], match["speaker"], int(match["index"])), clip))
        clips = [clip for _, clip in sorted(numbered)]
        if not clips:
            raise UsageError(
                f"no FSDD recordings ({{digit}}_{{speaker}}_{{index}}.wav) in {folder}",
                self.describe(),
            )
        listing = Listing(
            name=f"fsdd-{options.task}",
            root=root,
            clips=clips,
            label_names=sorted({label for clip in clips for label in clip.labels}),
            expected=dict(_EXPECTED),
        )
        if others := [path for match, path in named if not match]:
            listing.warnings.append(
                f"{len(others)} files with other names left out: {some_of(others)}"
            )
        listing.warnings += index.warnings(listing)
        return listing

    def download(self, root: Path, progress: Progress = SILENT) -> None:
        """Fetches and unpacks the archive; ``root/recordings`` exists afterwards."""
        name = f"fsdd-{VERSION}.tar.gz"
        fetch_archive(self.url, root, name, self.checksum, ("recordings/*.wav",), 1, progress)


CORPORA.register("fsdd")(Fsdd())
