"""Speech Commands v0.02: 35 spoken words of up to a second.

The published lists name validation and test; all else is training, except the background noise,
which is no word. They were drawn by speaker, so the speaker's hash is the group.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from elastictool.corpora.archives import Archive, fetch
from elastictool.corpora.base import (
    CORPORA,
    CorpusOptions,
    Listing,
    MissingClip,
    SourceClip,
    chosen_task,
    require_root,
)
from elastictool.errors import UsageError
from elastictool.progress import SILENT, Progress

ARCHIVE_URL = "http://download.tensorflow.org/data/speech_commands_v0.02.tar.gz"
ARCHIVE_CHECKSUM = "sha256:af14739ee7dc311471de98f5f9d2c9191b18aedfe957f4a6ff791c709868ff58"
LISTS = {"val": "validation_list.txt", "test": "testing_list.txt"}
NOISE_FOLDER = "_background_noise_"
_EXPECTED = {"train": 84_843, "val": 9_981, "test": 11_005}


@dataclass(frozen=True)
class SpeechCommands:
    """Lists all words; ``url`` is where ``--download`` fetches them."""

    name: str = "speech-commands"
    tasks: tuple[str, ...] = ()
    subsets: tuple[str, ...] = ()
    default_root: Path | None = Path("data/raw/speech-commands")
    url: str = ARCHIVE_URL
    checksum: str = ARCHIVE_CHECKSUM

    def describe(self) -> str:
        """Where the corpus comes from and where it goes."""
        return (
            "Speech Commands v0.02: 105,829 words of up to 1 s, 16 kHz mono, 2.4 GB.\n"
            "Licence: CC BY 4.0.\n"
            "  fetch it:    elastictool prep --dataset speech-commands --download\n"
            f"  or by hand:  {self.url}\n"
            f"               unpacked so that {self.default_root}/<word>/*.wav and\n"
            f"               {self.default_root}/{LISTS['val']} and {LISTS['test']} exist\n"
            "  elsewhere:   --root FOLDER"
        )

    def list_clips(self, root: Path | None, options: CorpusOptions) -> Listing:
        """All words, sorted by path, grouped by speaker.

        Raises:
            UsageError: A list is absent, or there is no word.
        """
        chosen_task(self, options)
        place = require_root(root, self)
        listed: dict[str, str] = {}
        for split, name in LISTS.items():
            if not (place / name).is_file():
                raise UsageError(f"no {name} in {place}", self.describe())
            lines = (place / name).read_text(encoding="utf-8").split()
            listed.update(dict.fromkeys(lines, split))
        clips = [
            SourceClip(
                id=path.removesuffix(".wav"),
                path=path,
                start_s=None,
                stop_s=None,
                labels=(path.partition("/")[0],),
                split=listed.pop(path, "train"),
                group=path.rpartition("/")[2].partition("_nohash_")[0],
            )
            for path in _words(place)
        ]
        noise = len(list((place / NOISE_FOLDER).glob("*.wav")))
        return Listing(
            name="speech-commands",
            root=place,
            clips=clips,
            label_names=sorted({clip.labels[0] for clip in clips}),
            missing=[MissingClip(path, path, split) for path, split in sorted(listed.items())],
            expected=dict(_EXPECTED),
            notes=[f"{noise} recordings of background noise left out"] if noise else [],
        )

    def download(self, root: Path, progress: Progress = SILENT) -> None:
        """Fetch and unpack the archive into ``root``."""
        fetch(Archive(self.url, "speech_commands_v0.02.tar.gz", self.checksum), root, progress)


def _words(root: Path) -> list[str]:
    return [
        f"{folder.name}/{path.name}"
        for folder in sorted(root.iterdir())
        if folder.is_dir() and folder.name != NOISE_FOLDER and folder.name[0] != "."
        for path in sorted(folder.glob("*.wav"))
    ]


CORPORA.register("speech-commands")(SpeechCommands())
