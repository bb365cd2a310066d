"""EPIC-SOUNDS: 44 classes of sounds in untrimmed kitchen videos, 0.2 s to 13 minutes long.

Clips are slices of one long recording per video: of a file, or of an array in one HDF5 file.
Timestamps decide; the sample columns (which count at 24 kHz) were wrong in early releases, so they
are compared and the agreement is reported. The authors' class order (``class_id``) is kept. The
test table has no labels: its clips have none either, and scores on them are refused.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from elastictool.audio.formats import AUDIO_SUFFIXES, HEAD_BYTES, sniff
from elastictool.audio.hdf5 import members
from elastictool.corpora.base import (
    CORPORA,
    CorpusOptions,
    Listing,
    SourceClip,
    chosen_task,
    require_root,
)
from elastictool.corpora.join import file_clip
from elastictool.errors import UsageError

ANNOTATED_RATE_HZ = 24_000
TABLES = {"train": "EPIC_Sounds_train.csv", "val": "EPIC_Sounds_validation.csv"}
TEST_TABLE = "EPIC_Sounds_recognition_test_timestamps.csv"
_EXPECTED = {"train": 60_055, "val": 8_035}
_HDF5_SUFFIXES = (".hdf5", ".h5")
_PREFERRED = (".wav", ".flac", *_HDF5_SUFFIXES)
_PLACES = ("annotation_id", "video_id", "start_timestamp", "stop_timestamp")
_LABELS = ("class", "class_id")
_TOLERANCE_SAMPLES = ANNOTATED_RATE_HZ // 100
_SHOWN = 5


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
            f"     or    {self.default_root}/<any name>.hdf5, one 1-D array per <video_id> (extra "
            "h5py)\n"
            "then: elastictool prep --dataset epic-sounds    (elsewhere: --root FOLDER)\n"
            "A part of the videos is enough to begin with: segments without audio are counted as "
            "missing."
        )

    def list_clips(self, root: Path | None, options: CorpusOptions) -> Listing:
        """Segments of training (``train``), validation (``val``) and, unlabelled, ``test``.

        They are grouped by video.

        Raises:
            UsageError: No annotations, or a table that cannot be read.
            ElasticToolError: An HDF5 file that cannot be read.
        """
        chosen_task(self, options)
        place = require_root(root, self)
        tables = _tables(place)
        if not tables.keys() & TABLES.keys():
            raise UsageError(f"no {' or '.join(TABLES.values())} in {place}", self.describe())
        audio = _audio_files(place)
        listing = Listing("epic-sounds", place, [], [], expected=dict(_EXPECTED))
        classes: dict[int, str] = {}
        agreement = Agreement()
        for split, table in tables.items():
            for row in _rows(table, labelled=split in TABLES):
                clip = _clip(row, split, audio.get(row["video_id"], ""))
                if clip.labels:
                    classes[int(row["class_id"])] = row["class"]
                agreement.add(row, clip)
                file_clip(listing, clip, f"audio/{row['video_id']}.wav")
        listing.label_names = [classes[index] for index in sorted(classes)]
        listing.notes += agreement.notes()
        return listing


@dataclass
class Agreement:
    """Whether the sample columns say the same as the timestamps, to a hundredth of a second.

    Attributes:
        compared: Segments that have sample columns.
        disagreeing: Ids of those that disagree, by what is wrong with them.
    """

    compared: int = 0
    disagreeing: dict[str, list[str]] = field(default_factory=dict)

    def add(self, row: Mapping[str, str], clip: SourceClip) -> None:
        """Compare one segment."""
        stated = [_number(row.get(name)) for name in ("start_sample", "stop_sample")]
        if all(value is None for value in stated):
            return
        self.compared += 1
        pairs = [
            (value, (at or 0.0) * ANNOTATED_RATE_HZ)
            for value, at in zip(stated, (clip.start_s, clip.stop_s), strict=True)
            if value is not None
        ]
        if not _agree(pairs):
            self.disagreeing.setdefault(_mistake(pairs), []).append(clip.id)

    def notes(self) -> list[str]:
        """How many agree, and which do not."""
        if not self.compared:
            return []
        wrong = sum(map(len, self.disagreeing.values()))
        agreeing = self.compared - wrong
        notes = [
            f"timestamps and sample columns agree in {agreeing:,} of {self.compared:,} segments "
            f"({agreeing / self.compared:.1%}); timestamps are used"
        ]
        for mistake, ids in self.disagreeing.items():
            more = f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else ""
            notes.append(
                f"{len(ids)} segments disagree, {mistake}: {', '.join(ids[:_SHOWN])}{more}"
            )
        return notes


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None


def _agree(pairs: list[tuple[float, float]], factor: float = 1.0) -> bool:
    """Whether the stated samples, times ``factor``, are those of the timestamps."""
    return all(abs(stated * factor - at) <= _TOLERANCE_SAMPLES for stated, at in pairs)


def _mistake(pairs: list[tuple[float, float]]) -> str:
    """What is wrong with sample columns: the mistakes of early releases, or another."""
    if _agree(pairs, ANNOTATED_RATE_HZ):
        return "with seconds in the sample columns"
    for power in (10.0, 100.0, 1000.0):
        if _agree(pairs, power) or _agree(pairs, 1 / power):
            return f"by a factor of {power:g}"
    return "by no known rule"


def _tables(root: Path) -> dict[str, Path]:
    """Annotation files, in the root or in ``annotations``."""
    return {
        split: path
        for split, name in {**TABLES, "test": TEST_TABLE}.items()
        for path in (root / "annotations" / name, root / name)
        if path.is_file()
    }


def _audio_files(root: Path) -> dict[str, str]:
    """Path of each video's audio relative to ``root``, the best of several kinds.

    wav goes before flac, flac before an array in HDF5, and that before videos.
    """
    folder = root / "audio" if (root / "audio").is_dir() else root
    places = set(folder.rglob("*"))
    places.update(path for suffix in _HDF5_SUFFIXES for path in root.glob(f"*{suffix}"))
    ranked = [(rank, path) for path in places if (rank := _rank(path)) >= 0]
    audio: dict[str, str] = {}
    for _, path in sorted(ranked, reverse=True):
        relative = path.relative_to(root).as_posix()
        if path.suffix.lower() in _HDF5_SUFFIXES:
            audio.update({name.rpartition("/")[2]: f"{relative}/{name}" for name in members(path)})
        else:
            audio[path.stem] = relative
    return audio


def _rank(path: Path) -> int:
    """Place in the order of preference; -1 for what is no audio."""
    suffix = path.suffix.lower()
    if suffix in _HDF5_SUFFIXES and not _is_hdf5(path):
        return -1
    if suffix in _PREFERRED:
        return _PREFERRED.index(suffix)
    return len(_PREFERRED) if suffix in AUDIO_SUFFIXES else -1


def _is_hdf5(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        kind = sniff(file.read(HEAD_BYTES))
    return kind is not None and kind.members


def _rows(table: Path, labelled: bool) -> Iterator[dict[str, str]]:
    wanted = _PLACES + (_LABELS if labelled else ())
    hint = "take the csv files of epic-sounds-annotations as they are"
    with table.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        absent = [name for name in wanted if name not in (reader.fieldnames or ())]
        if absent:
            raise UsageError(f"{table} lacks the columns {', '.join(absent)}", hint)
        for row in reader:
            try:
                seconds(row["start_timestamp"])
                seconds(row["stop_timestamp"])
                int(row["class_id"] if labelled else 0)
            except (ValueError, TypeError, AttributeError) as error:
                raise UsageError(f"{table}, row {reader.line_num}: {error}", hint) from error
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
        labels=(row["class"],) if "class" in row else (),
        split=split,
        group=row["video_id"],
    )


CORPORA.register("epic-sounds")(EpicSounds())
