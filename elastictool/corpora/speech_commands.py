"""Lists Speech Commands v0.02: 35 spoken words of up to a second.

The published lists name validation and test; all else is training, except the background noise,
which is no word. They were drawn by speaker, so the speaker's hash is the group.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from elastictool.corpora.base import (
    CORPORA,
    Corpus,
    CorpusOptions,
    Listing,
    MissingClip,
    SourceClip,
)
from elastictool.corpora.checks import some_of
from elastictool.corpora.download import fetch_archive
from elastictool.corpora.listing import FileIndex
from elastictool.utils.errors import UsageError
from elastictool.utils.io import FoundFile, composed, open_text, walk_files
from elastictool.utils.progress import SILENT, Progress

ARCHIVE_URL = "http://download.tensorflow.org/data/speech_commands_v0.02.tar.gz"
ARCHIVE_CHECKSUM = "sha256:af14739ee7dc311471de98f5f9d2c9191b18aedfe957f4a6ff791c709868ff58"
LISTS = {"val": "validation_list.txt", "test": "testing_list.txt"}
NOISE_FOLDER = "_background_noise_"
_WORDS = 35
_EXPECTED = {"train": 84_843, "val": 9_981, "test": 11_005}


@dataclass(frozen=True)
class SpeechCommands(Corpus):
    """Lists all words; ``url`` is where ``--download`` fetches them."""

    name = "speech-commands"
    default_root = Path("data/raw/speech-commands")
    marks = tuple(LISTS.values())
    url: str = ARCHIVE_URL
    checksum: str = ARCHIVE_CHECKSUM

    def describe(self) -> str:
        """Returns where the corpus comes from and where it goes."""
        return (
            "Speech Commands v0.02: 105,829 words of up to 1 s, 16 kHz mono, 2.4 GB.\n"
            "Licence: CC BY 4.0.\n"
            "  fetch it:    elastictool prep --dataset speech-commands --download\n"
            f"  or by hand:  {self.url}\n"
            f"               unpacked so that {self.default_root}/<word>/*.wav and\n"
            f"               {self.default_root}/{LISTS['val']} and {LISTS['test']} exist\n"
            "  elsewhere:   --root FOLDER"
        )

    def find_clips(self, root: Path, options: CorpusOptions) -> Listing:
        """Lists all words, sorted by path, grouped by speaker.

        Raises:
            UsageError: A list is absent, or there is no word.
        """
        listed: dict[str, str] = {}
        for split, name in LISTS.items():
            if not (root / name).is_file():
                raise UsageError(f"no {name} in {root}", self.describe())
            with open_text(root / name) as opened:
                listed.update(dict.fromkeys(composed(opened.read()).split(), split))
        splits = {os.path.splitext(path)[0]: split for path, split in listed.items()}
        words: list[FoundFile] = []
        noises: list[FoundFile] = []
        for file in walk_files(root):
            if file.path.count("/") == 1:
                (noises if file.path.startswith(f"{NOISE_FOLDER}/") else words).append(file)
        noise = len(FileIndex.of(noises, root).paths)
        index = FileIndex.of(words, root, depth=2)
        clips = []
        for key, path in index.paths.items():
            word, _, name = key.partition("/")
            split, speaker = splits.get(key, "train"), name.partition("_nohash_")[0]
            clips.append(SourceClip(key, path, None, None, (word,), split, group=speaker))
        listing = Listing(
            name="speech-commands",
            root=root,
            clips=clips,
            label_names=sorted({clip.labels[0] for clip in clips}),
            missing=[
                MissingClip(path, path, split)
                for path, split in sorted(listed.items())
                if os.path.splitext(path)[0] not in index.paths
            ],
            expected=dict(_EXPECTED),
            expected_classes=_WORDS,
            notes=[f"{noise} recordings of background noise left out"] if noise else [],
        )
        named = {clip.path.partition("/")[0] for clip in listing.missing}
        if lost := sorted(named - set(listing.label_names)):
            listing.warnings.append(
                f"the lists name {len(lost)} words that no recording is of: {some_of(lost)}"
            )
        listing.warnings += index.warnings(listing)
        return listing

    def download(self, root: Path, progress: Progress = SILENT) -> None:
        """Fetches and unpacks the archive into ``root``."""
        name = "speech_commands_v0.02.tar.gz"
        fetch_archive(self.url, root, name, self.checksum, progress=progress)


CORPORA.register("speech-commands")(SpeechCommands())
