"""EPIC-SOUNDS: 44 classes of sounds in untrimmed kitchen videos, 0.2 s to 13 minutes long.

Clips are slices of one long recording per video: of a file, or of an array in one HDF5 file.
Timestamps decide; the sample columns (which count at 24 kHz) were wrong in early releases, so they
are compared and the agreement is reported. The authors' class order (``class_id``) is kept. The
test table has no labels: its clips have none either, and scores on them are refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from elastictool.audio.formats import HEAD_BYTES, MEMBER_SUFFIXES, sniff
from elastictool.audio.hdf5 import members
from elastictool.corpora.base import (
    CORPORA,
    CorpusOptions,
    Listing,
    SourceClip,
    chosen_task,
    require_folder,
)
from elastictool.corpora.listing import FileIndex, ListingBuilder, first_file, rank_of
from elastictool.corpora.tables import NumberedClasses, records
from elastictool.utils.errors import UsageError
from elastictool.utils.io import FoundFile, walk_files

ANNOTATED_RATE_HZ = 24_000
TABLES = {"train": "EPIC_Sounds_train.csv", "val": "EPIC_Sounds_validation.csv"}
TEST_TABLE = "EPIC_Sounds_recognition_test_timestamps.csv"
_EXPECTED = {"train": 60_055, "val": 8_035}
_CLASSES = 44
_FOLDERS = ("annotations",)
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
        place = require_folder(root, self)
        tables = _tables(place)
        if not tables.keys() & TABLES.keys():
            raise UsageError(
                f"no {' or '.join(TABLES.values())} in {place}{_pickled(place)}", self.describe()
            )
        index = _recordings(place)
        listing = Listing(
            "epic-sounds", place, [], [], expected=dict(_EXPECTED), expected_classes=_CLASSES
        )
        builder, classes, agreement = ListingBuilder(listing), NumberedClasses(), Agreement()
        for split, table in tables.items():
            for line, row in _rows(table, labelled=split in TABLES):
                clip = _clip(row, split, index.paths.get(row["video_id"], ""))
                if clip.labels:
                    classes.add(int(row["class_id"]), row["class"], table, line)
                if clip.id not in builder:
                    agreement.add(row, clip)
                builder.add(clip, f"audio/{row['video_id']}.wav", table, line)
        listing.label_names = classes.names
        listing.notes += agreement.notes()
        listing.warnings += [*builder.warnings(), *index.warnings(listing)]
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
    found = {
        split: first_file(root, [name], _FOLDERS)
        for split, name in {**TABLES, "test": TEST_TABLE}.items()
    }
    return {split: path for split, path in found.items() if path is not None}


def _pickled(root: Path) -> str:
    """What to say where the tables are there as pickles alone."""
    names = [str(Path(name).with_suffix(".pkl")) for name in TABLES.values()]
    pickle = first_file(root, names, _FOLDERS)
    return f"; {pickle.name} is not read, because a pickle is code: take the csv" if pickle else ""


def _recordings(root: Path) -> FileIndex:
    """Path of each video's audio, the best of several kinds, arrays in HDF5 among them."""
    files = list(walk_files(root))
    index = FileIndex.of(files, root, ("audio",))
    for name, (file, path) in _arrays(files, root).items():
        if name not in index.paths or rank_of(file) < rank_of(index.paths[name]):
            index.paths[name] = path
    return index


def _arrays(files: list[FoundFile], root: Path) -> dict[str, tuple[str, str]]:
    """Each array in HDF5 files by its name: the file, and its path through it.

    Of several arrays of one name it is the one in the file that sorts first.
    """
    arrays: dict[str, tuple[str, str]] = {}
    for path, is_there in files:
        if is_there and Path(path).suffix.lower() in MEMBER_SUFFIXES and _is_hdf5(root / path):
            for name in members(root / path):
                arrays.setdefault(name.rpartition("/")[2], (path, f"{path}/{name}"))
    return arrays


def _is_hdf5(path: Path) -> bool:
    with path.open("rb") as file:
        kind = sniff(file.read(HEAD_BYTES))
    return kind is not None and kind.members


def _rows(table: Path, labelled: bool) -> Iterator[tuple[int, dict[str, str]]]:
    wanted = _PLACES + (_LABELS if labelled else ())
    hint = "take the csv files of epic-sounds-annotations as they are"
    for line, row in records(table, wanted, hint):
        try:
            seconds(row["start_timestamp"])
            seconds(row["stop_timestamp"])
            int(row["class_id"] if labelled else 0)
        except ValueError as error:
            raise UsageError(f"{table}, line {line}: {error}", hint) from error
        yield line, row


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
