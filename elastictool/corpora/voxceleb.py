"""Lists VoxCeleb1 for speaker identification: 1,251 speakers, 4 to 145 s of speech.

The identification split is not the verification one: a list of trial pairs has no training part,
so where only such a list is found, the message names the file that is needed.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from elastictool.corpora.base import CORPORA, Corpus, CorpusOptions, Listing, SourceClip
from elastictool.corpora.listing import FileIndex, ListingBuilder, first_file
from elastictool.corpora.tables import Columns, Table
from elastictool.utils.errors import UsageError

SPLIT_FILES = ("iden_split.txt", "veri_test_class.txt")
_VERIFICATION = (
    *("veri_test.txt", "veri_test2.txt", "list_test_hard.txt", "list_test_hard2.txt"),
    *("list_test_all.txt", "list_test_all2.txt"),
)
_SPLITS = {"1": "train", "2": "val", "3": "test"}
_EXPECTED = {"train": 138_361, "val": 6_904, "test": 8_251}
_SPEAKERS = 1_251
_COLUMNS = Columns(
    ("split", "path"),
    header=False,
    divider=" ",
    hint=f"the identification split is {SPLIT_FILES[0]}, as it is published: its lines are "
    "'1|2|3 path'; three cells are a verification pair",
)
_PATH = re.compile(r"(?P<speaker>id\d{5})/(?P<video>[^/]+)/(?P<number>[^/]+)\.\w+")


class VoxCeleb(Corpus):
    """Lists the utterances of the identification split."""

    name = "voxceleb"
    default_root = Path("data/raw/voxceleb")
    marks = SPLIT_FILES

    def describe(self) -> str:
        """Returns what to fetch, in one screen."""
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

    def find_clips(self, root: Path, options: CorpusOptions) -> Listing:
        """Lists utterances of training, validation and test, grouped by video.

        Raises:
            UsageError: No split file, the verification list instead of it, or a wrong line.
        """
        folders = ("", "metadata", "meta")
        file = first_file(root, SPLIT_FILES, folders)
        if file is None:
            other = first_file(root, _VERIFICATION, folders)
            found = f"; {other.name} lists verification pairs, not this task" if other else ""
            raise UsageError(f"no {SPLIT_FILES[0]} in {root}{found}", self.describe())
        listing = Listing(self.name, root, expected=dict(_EXPECTED), expected_classes=_SPEAKERS)
        builder = ListingBuilder(listing, FileIndex.scan(root, ("wav",), depth=3))
        speakers: set[str] = set()
        for row in Table(file, _COLUMNS):
            split, path = row.cells["split"], row.cells["path"]
            match = _PATH.fullmatch(path)
            if match is None or split not in _SPLITS:
                raise row.error(
                    f"'{split} {path}' is not '1|2|3 idXXXXX/<video>/NNNNN.wav'", _COLUMNS.hint
                )
            speaker, video = match["speaker"], match["video"]
            speakers.add(speaker)
            clip = SourceClip(
                id=path.rpartition(".")[0],
                path="",
                start_s=None,
                stop_s=None,
                labels=(speaker,),
                split=_SPLITS[split],
                group=f"{speaker}/{video}",
            )
            builder.add(row, clip, f"wav/{path}", partial(builder.index.find_listed, path))
        listing.label_names = sorted(speakers)
        return builder.finish()


CORPORA.register("voxceleb")(VoxCeleb())
