"""EPIC-SOUNDS: 44 classes of sounds in untrimmed kitchen videos, 0.2 s to 13 minutes long.

Clips are slices of one long file per video. Timestamps decide; the sample columns (which count at
24 kHz) were wrong in early releases, so they are compared and disagreements are reported. The
authors' class order (``class_id``) is kept.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from elastictool.audio.formats import AUDIO_SUFFIXES
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

ANNOTATED_RATE_HZ = 24_000
TABLES = {"train": "EPIC_Sounds_train.csv", "val": "EPIC_Sounds_validation.csv"}
_EXPECTED = {"train": 60_055, "val": 8_035}
_PREFERRED = (".wav", ".flac")
_COLUMNS = ("annotation_id", "video_id", "start_timestamp", "stop_timestamp", "class", "class_id")
_TOLERANCE_SAMPLES = ANNOTATED_RATE_HZ // 100


@dataclass(frozen=True)
class EpicSounds:
    """Lists the annotated segments whose video's audio is on disk."""

    name: str = "epic-sounds"
    tasks: tuple[str, ...] = ()
    subsets: tuple[str, ...] = ()
    default_root: Path | None = Path("data/raw/epic-sounds")

    def describe(self) -> str:
        """What to fetch, in one screen."""
        return (
            "EPIC-SOUNDS has two parts, to be fetched by hand:\n"
            "1. annotations (7 MB; CC BY-NC 4.0, not for commercial use)\n"
            "     from  https://github.com/epic-kitchens/epic-sounds-annotations\n"
            f"     to    {self.default_root}/EPIC_Sounds_train.csv and EPIC_Sounds_validation.csv\n"
            "2. audio of the EPIC-KITCHENS-100 videos (100 hours; the videos are about 1 TB,\n"
            "   their 24 kHz mono audio 17 GB; CC BY-NC 4.0)\n"
            "     from  https://github.com/epic-kitchens/epic-kitchens-download-scripts  (videos)\n"
            "     how   extract the audio as "
            "https://github.com/ekazakos/auditory-slow-fast describes\n"
            f"     to    {self.default_root}/audio/<video_id>.wav (or .flac, or with the extra av "
            ".mp4),\n           one untrimmed file per video\n"
            "           for example: ffmpeg -i P01_11.MP4 -vn -ac 1 -ar 24000 P01_11.wav\n"
            "then: elastictool prep --dataset epic-sounds    (elsewhere: --root FOLDER)\n"
            "A part of the videos is enough to begin with: segments without audio are counted as "
            "missing."
        )

    def list_clips(self, root: Path | None, options: CorpusOptions) -> Listing:
        """Segments of training (``train``) and validation (``val``), grouped by video.

        Raises:
            UsageError: No annotations, or a table that cannot be read.
        """
        chosen_task(self, options)
        place = require_root(root, self)
        tables = _tables(place)
        if not tables:
            raise UsageError(f"no {' or '.join(TABLES.values())} in {place}", self.describe())
        audio = _audio_files(place)
        listing = Listing("epic-sounds", place, [], [], expected=dict(_EXPECTED))
        classes: dict[int, str] = {}
        disagreeing: list[str] = []
        for split, table in tables.items():
            for row in _rows(table):
                clip = _clip(row, split, audio.get(row["video_id"], ""))
                classes[int(row["class_id"])] = row["class"]
                if not _samples_agree(row, clip):
                    disagreeing.append(clip.id)
                _file(listing, clip, row["video_id"])
        listing.label_names = [classes[index] for index in sorted(classes)]
        if disagreeing:
            listing.notes.append(
                f"{len(disagreeing)} segments whose sample columns disagree with their timestamps "
                f"(timestamps are used): {', '.join(disagreeing[:5])}"
            )
        return listing


def _file(listing: Listing, clip: SourceClip, video_id: str) -> None:
    if clip.path:
        listing.clips.append(clip)
    else:
        listing.missing.append(MissingClip(clip.id, f"audio/{video_id}.wav", clip.split))


def _tables(root: Path) -> dict[str, Path]:
    """Annotation files, in the root or in ``annotations``."""
    return {
        split: path
        for split, name in TABLES.items()
        for path in (root / "annotations" / name, root / name)
        if path.is_file()
    }


def _audio_files(root: Path) -> dict[str, str]:
    """Path of each video's audio relative to ``root``; wav goes before flac, flac before others."""
    folder = root / "audio" if (root / "audio").is_dir() else root
    found = [path for path in folder.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES]
    found.sort(key=lambda path: (_rank(path), path), reverse=True)
    return {path.stem: path.relative_to(root).as_posix() for path in found}


def _rank(path: Path) -> int:
    suffix = path.suffix.lower()
    return _PREFERRED.index(suffix) if suffix in _PREFERRED else len(_PREFERRED)


def _rows(table: Path) -> Iterator[dict[str, str]]:
    with table.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        absent = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
        if absent:
            raise UsageError(
                f"{table} lacks the columns {', '.join(absent)}",
                "take the csv files of epic-sounds-annotations as they are",
            )
        for row in reader:
            try:
                seconds(row["start_timestamp"])
                seconds(row["stop_timestamp"])
                int(row["class_id"])
            except (ValueError, TypeError, AttributeError) as error:
                raise UsageError(
                    f"{table}, row {reader.line_num}: {error}",
                    "take the csv files of epic-sounds-annotations as they are",
                ) from error
            yield row


def seconds(timestamp: str) -> float:
    """Seconds of ``hh:mm:ss.mmm``.

    Raises:
        ValueError: It is no such timestamp.
    """
    parts = timestamp.split(":")
    if len(parts) != 3:
        raise ValueError(f"{timestamp!r} is not a timestamp hh:mm:ss.mmm")
    return int(parts[0]) * 3600 + int(parts[1]) * 60 + float(parts[2])


def _clip(row: Mapping[str, str], split: str, path: str) -> SourceClip:
    return SourceClip(
        id=row["annotation_id"],
        path=path,
        start_s=seconds(row["start_timestamp"]),
        stop_s=seconds(row["stop_timestamp"]),
        labels=(row["class"],),
        split=split,
        group=row["video_id"],
    )


def _samples_agree(row: Mapping[str, str], clip: SourceClip) -> bool:
    """Whether the sample columns say the same as the timestamps, to a hundredth of a second."""
    pairs = ((clip.start_s, row.get("start_sample")), (clip.stop_s, row.get("stop_sample")))
    return all(
        abs(float(stated) - (at or 0.0) * ANNOTATED_RATE_HZ) <= _TOLERANCE_SAMPLES
        for at, stated in pairs
        if stated
    )


CORPORA.register("epic-sounds")(EpicSounds())
