"""VoxCeleb1 speaker identification: 1,251 speakers, 4 to 145 s of speech.

The identification split is not the verification one: a list of trial pairs has no training part,
so where only such a list lies there, the message names the file that is wanted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from elastictool.corpora.base import (
    CORPORA,
    CorpusOptions,
    Listing,
    SourceClip,
    chosen_task,
    require_folder,
)
from elastictool.corpora.listing import FileIndex, ListingBuilder, first_file
from elastictool.utils.errors import UsageError
from elastictool.utils.io import open_text

SPLIT_FILES = ("iden_split.txt", "veri_test_class.txt")
_VERIFICATION = (
    *("veri_test.txt", "veri_test2.txt", "list_test_hard.txt", "list_test_hard2.txt"),
    *("list_test_all.txt", "list_test_all2.txt"),
)
_SPLITS = {"1": "train", "2": "val", "3": "test"}
_EXPECTED = {"train": 138_361, "val": 6_904, "test": 8_251}
_SPEAKERS = 1_251
_PATH = re.compile(r"(?P<speaker>id\d{5})/(?P<video>[^/]+)/(?P<number>[^/]+)\.\w+")


@dataclass(frozen=True)
class VoxCeleb:
    """Lists the utterances of the identification split."""

    name: str = "voxceleb"
    tasks: tuple[str, ...] = ()
    subsets: tuple[str, ...] = ()
    default_root: Path | None = Path("data/raw/voxceleb")

    def describe(self) -> str:
        """What to fetch, in one screen."""
        return (
            "VoxCeleb1 (speaker identification), to be fetched by hand:\n"
            "1. iden_split.txt (some copies: veri_test_class.txt), not veri_test.txt,\n"
            "     from www.robots.ox.ac.uk/~vgg/data/voxceleb/vox1.html\n"
            f"     to {self.default_root}/iden_split.txt\n"
            "2. the audio of dev and test (16 kHz, about 30 GB unpacked; CC BY-SA 4.0; the\n"
            "   address asks for registration), merged under one folder\n"
            f"     to {self.default_root}/wav/idXXXXX/<video>/NNNNN.wav\n"
            "     (dev/wav, test/wav or any other folders, and any audio format, are taken, too)\n"
            "then: elastictool prep --dataset voxceleb\n"
            "Utterances are 4 to 145 s; the papers use the first 30 s: --max-seconds 30."
        )

    def list_clips(self, root: Path | None, options: CorpusOptions) -> Listing:
        """Utterances of training, validation and test, grouped by video.

        Raises:
            UsageError: No split file, the verification list instead of it, or a wrong line.
        """
        chosen_task(self, options)
        place = require_folder(root, self)
        folders = ("", "metadata", "meta")
        file = first_file(place, SPLIT_FILES, folders)
        if file is None:
            other = first_file(place, _VERIFICATION, folders)
            found = f"; {other.name} lists verification pairs, not this task" if other else ""
            raise UsageError(f"no {SPLIT_FILES[0]} in {place}{found}", self.describe())
        index = FileIndex.scan(place, ("wav",), depth=3)
        listing = Listing(
            "voxceleb", place, [], [], expected=dict(_EXPECTED), expected_classes=_SPEAKERS
        )
        builder = ListingBuilder(listing)
        speakers: set[str] = set()
        for line, split, path in _utterances(file):
            match = _PATH.fullmatch(path)
            if match is None:
                raise UsageError(
                    f"{file}, line {line}: {path!r} is not idXXXXX/<video>/NNNNN.wav",
                    f"take {SPLIT_FILES[0]} as it is published",
                )
            speakers.add(match["speaker"])
            clip_id = path.rpartition(".")[0]
            clip = SourceClip(
                id=clip_id,
                path="" if clip_id in builder else index.find_listed(path),
                start_s=None,
                stop_s=None,
                labels=(match["speaker"],),
                split=split,
                group=f"{match['speaker']}/{match['video']}",
            )
            builder.add(clip, f"wav/{path}", file, line)
        listing.label_names = sorted(speakers)
        listing.warnings += [*builder.warnings(), *index.warnings(listing)]
        return listing


def _utterances(file: Path) -> Iterator[tuple[int, str, str]]:
    """(line number, split, path) of each line ``1|2|3 path``."""
    with open_text(file) as lines:
        for number, line in enumerate(lines, start=1):
            cells = line.split()
            if not cells:
                continue
            if len(cells) != 2 or cells[0] not in _SPLITS:
                pairs = len(cells) == 3 and cells[0] in ("0", "1")
                raise UsageError(
                    f"{file}, line {number}: {line.strip()!r} is not '1|2|3 path'"
                    + (" but a verification pair" if pairs else ""),
                    f"the identification split is {SPLIT_FILES[0]}",
                )
            yield number, _SPLITS[cells[0]], cells[1]


CORPORA.register("voxceleb")(VoxCeleb())
