"""Lists EPIC-SOUNDS: 44 classes of sounds in untrimmed kitchen videos, 0.2 s to 13 minutes long.

Clips are slices of one long recording per video: of a file, or of an array in one HDF5 file.
Timestamps decide; the sample columns (which count at 24 kHz) were wrong in early releases, so they
are compared and the agreement is reported. The authors' class order (``class_id``) is kept. The
test table has no labels: its clips have none either, and scores on them are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from elastictool.audio.formats import HEAD_BYTES, MEMBER_SUFFIXES, sniff
from elastictool.audio.hdf5 import members
from elastictool.corpora.base import CORPORA, Corpus, CorpusOptions, Listing, SourceClip
from elastictool.corpora.classes import NumberedClasses
from elastictool.corpora.listing import FileIndex, ListingBuilder, first_file, rank_of
from elastictool.corpora.tables import Columns, Row, Table, clock_seconds
from elastictool.utils.errors import UsageError
from elastictool.utils.io import open_file, walk_files

ANNOTATED_RATE_HZ = 24_000
TABLES = {"train": "EPIC_Sounds_train.csv", "val": "EPIC_Sounds_validation.csv"}
TEST_TABLE = "EPIC_Sounds_recognition_test_timestamps.csv"
_EXPECTED = {"train": 60_055, "val": 8_035}
_CLASSES = 44
_FOLDERS = ("annotations",)
_HINT = "take the csv files of epic-sounds-annotations as they are"
_UNLABELLED = Columns(
    ("annotation_id", "video_id", "start_timestamp", "stop_timestamp"), hint=_HINT
)
_LABELLED = Columns((*_UNLABELLED.required, "class", "class_id"), hint=_HINT)


class EpicSounds(Corpus):
    """Lists the annotated segments whose video's audio is on disk."""

    name = "epic-sounds"
    default_root = Path("data/raw/epic-sounds")
    marks = tuple(TABLES.values())

    def describe(self) -> str:
        """Returns what to fetch, in one screen."""
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
            f"     to    {self.default_root}/audio/<video_id>.wav (or .flac, .mp4),\n"
            "           one untrimmed file per video\n"
            "           for example: ffmpeg -i P01_11.MP4 -vn -ac 1 -ar 24000 P01_11.wav\n"
            f"     or    {self.default_root}/<any name>.hdf5, one 1-D array per <video_id> (extra "
            "h5py)\n"
            "then: elastictool prep --dataset epic-sounds    (elsewhere: --root FOLDER)\n"
            "A part of the videos is enough to begin with: segments without audio are counted as "
            "missing."
        )

    def find_clips(self, root: Path, options: CorpusOptions) -> Listing:
        """Lists segments of training (``train``), validation (``val``) and, unlabelled, ``test``.

        They are grouped by video.

        Raises:
            UsageError: No annotations, or a table that cannot be read.
            ElasticToolError: An HDF5 file that cannot be read.
        """
        named = {**TABLES, "test": TEST_TABLE}
        files = {split: first_file(root, [name], _FOLDERS) for split, name in named.items()}
        tables = {split: path for split, path in files.items() if path is not None}
        if not tables.keys() & TABLES.keys():
            names = [str(Path(name).with_suffix(".pkl")) for name in TABLES.values()]
            pickle = first_file(root, names, _FOLDERS)
            why = "is not read, because a pickle is code: take the csv"
            found = f"; {pickle.name} {why}" if pickle else ""
            raise UsageError(f"no {' or '.join(TABLES.values())} in {root}{found}", self.describe())
        listing = Listing(self.name, root, expected=dict(_EXPECTED), expected_classes=_CLASSES)
        builder = ListingBuilder(listing, _recordings(root))
        classes, agreement = NumberedClasses(), Agreement()
        for split, table in tables.items():
            for row in Table(table, _LABELLED if split in TABLES else _UNLABELLED):
                clip = _clip(row, split)
                if clip.labels:
                    classes.add(row.number_in("class_id", _HINT), row.cells["class"], row)
                find = partial(builder.index.paths.get, clip.group)
                if builder.add(row, clip, f"audio/{clip.group}.wav", find):
                    agreement.add(row.cells, clip)
        listing.label_names = classes.names
        listing.notes += agreement.notes()
        return builder.finish()


@dataclass
class Agreement:
    """Compares the sample columns with the timestamps, to a hundredth of a second.

    Attributes:
        compared: Segments that have sample columns.
        disagreeing: Ids of those that disagree, by what is wrong with them.
    """

    compared: int = 0
    disagreeing: dict[str, list[str]] = field(default_factory=dict)

    def add(self, row: Mapping[str, str], clip: SourceClip) -> None:
        """Compares one segment."""
        pairs = []
        for name, at in (("start_sample", clip.start_s), ("stop_sample", clip.stop_s)):
            with suppress(ValueError):  # an empty or damaged cell is not compared
                pairs.append((float(row.get(name, "")), (at or 0.0) * ANNOTATED_RATE_HZ))
        self.compared += bool(pairs)
        if not _agree(pairs):
            self.disagreeing.setdefault(_mistake(pairs), []).append(clip.id)

    def notes(self) -> list[str]:
        """Returns how many agree, and which do not."""
        if not self.compared:
            return []
        wrong = sum(map(len, self.disagreeing.values()))
        agreeing = self.compared - wrong
        notes = [
            f"timestamps and sample columns agree in {agreeing:,} of {self.compared:,} segments "
            f"({agreeing / self.compared:.1%}); timestamps are used"
        ]
        for mistake, ids in self.disagreeing.items():
            more = f" and {len(ids) - 5} more" if len(ids) > 5 else ""
            notes.append(f"{len(ids)} segments disagree, {mistake}: {', '.join(ids[:5])}{more}")
        return notes


def _agree(pairs: list[tuple[float, float]], factor: float = 1.0) -> bool:
    """Returns whether the stated samples, times ``factor``, are those of the timestamps."""
    return all(abs(stated * factor - at) <= ANNOTATED_RATE_HZ // 100 for stated, at in pairs)


def _mistake(pairs: list[tuple[float, float]]) -> str:
    """Describes the error of sample columns: a known one of early releases, or another."""
    if _agree(pairs, ANNOTATED_RATE_HZ):
        return "with seconds in the sample columns"
    for power in (10.0, 100.0, 1000.0):
        if _agree(pairs, power) or _agree(pairs, 1 / power):
            return f"by a factor of {power:g}"
    return "by no known rule"


def _recordings(root: Path) -> FileIndex:
    """Returns the path of each video's audio: the best of several kinds, or an HDF5 array.

    Of several arrays of one name it is the one in the file that sorts first.
    """
    files = list(walk_files(root))
    index = FileIndex.of(files, root, ("audio",))
    arrays: dict[str, tuple[str, str]] = {}
    for path, is_there, _ in files:
        if not is_there or Path(path).suffix.lower() not in MEMBER_SUFFIXES:
            continue
        try:
            with open_file(root / path) as file:
                kind = sniff(file.read(HEAD_BYTES))
        except OSError as error:
            index.unreadable.append(f"{path} ({error.strerror})")
            continue
        for name in members(root / path) if kind is not None and kind.members else ():
            arrays.setdefault(name.rpartition("/")[2], (path, f"{path}/{name}"))
    for name, (path, array) in arrays.items():
        if name not in index.paths or rank_of(path) < rank_of(index.paths[name]):
            index.paths[name] = array
    return index


def _clip(row: Row, split: str) -> SourceClip:
    cells = row.cells
    try:
        start, stop = (
            clock_seconds(cells["start_timestamp"]),
            clock_seconds(cells["stop_timestamp"]),
        )
    except ValueError as error:
        raise row.error(str(error), _HINT) from error
    labels = (cells["class"],) if "class" in cells else ()
    return SourceClip(
        cells["annotation_id"], "", start, stop, labels, split, group=cells["video_id"]
    )


CORPORA.register("epic-sounds")(EpicSounds())
