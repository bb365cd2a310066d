"""For every corpus a small tree, laid out exactly as users have it."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import soundfile

EPIC_HEADER = [
    *("annotation_id", "participant_id", "video_id", "start_timestamp", "stop_timestamp"),
    *("start_sample", "stop_sample", "description", "class", "class_id"),
]


def write_audio(
    path: Path, seconds: float = 0.1, rate_hz: int = 16_000, channels: int = 1, seed: int = 0
) -> Path:
    """Noise of a given length; the file's ending says the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (round(seconds * rate_hz), channels)
    noise = np.random.default_rng(seed).uniform(-0.5, 0.5, size=shape)
    soundfile.write(path, noise, rate_hz)
    return path


def write_table(path: Path, rows: Sequence[Sequence[object]]) -> Path:
    """A csv table; the first row is the header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


def fsdd_tree(folder: Path, digits: int = 3, indices: Sequence[int] = (0, 4, 5, 11)) -> Path:
    """``recordings/{digit}_{speaker}_{index}.wav`` at 8 kHz."""
    for digit in range(digits):
        for speaker in ("theo", "jackson"):
            for index in indices:
                name = f"{digit}_{speaker}_{index}.wav"
                write_audio(folder / "recordings" / name, 0.1 + 0.01 * index, 8_000, seed=index)
    return folder


def folder_tree(folder: Path, clips: int = 5) -> Path:
    """Class folders without split folders, of mixed formats."""
    for label in ("dog", "cat"):
        for number in range(clips):
            ending = ("wav", "flac", "ogg")[number % 3]
            write_audio(folder / label / f"{number}.{ending}", 0.2, seed=number)
    return folder


def csv_tree(folder: Path, clips: int = 20) -> Path:
    """A folder with ``clips.csv`` and folds."""
    rows: list[tuple[object, ...]] = [("path", "label", "fold")]
    for number in range(clips):
        path = write_audio(
            folder / "audio" / f"{number:02d}.wav", 0.05 + 0.01 * number, seed=number
        )
        rows.append((path.relative_to(folder), ("bell", "drum")[number % 2], number // 2 % 5 + 1))
    write_table(folder / "clips.csv", rows)
    return folder


def epic_tree(folder: Path) -> Path:
    """Annotations and one untrimmed file of each of two videos; a third has no audio."""
    for video in ("P01_01", "P02_01"):
        write_audio(folder / "audio" / f"{video}.wav", 3.0, 24_000, seed=len(video))
    rows: dict[str, list[tuple[object, ...]]] = {
        "EPIC_Sounds_train.csv": [
            (
                "P01_01_0",
                "P01",
                "P01_01",
                "00:00:00.100",
                "00:00:00.600",
                2400,
                14400,
                "x",
                "water",
                1,
            ),
            (
                "P01_01_1",
                "P01",
                "P01_01",
                "00:00:01.000",
                "00:00:02.500",
                24000,
                60000,
                "a, b",
                "metal-only collision",
                0,
            ),
            (
                "P09_01_0",
                "P09",
                "P09_01",
                "00:01:01.000",
                "00:01:02.500",
                1464000,
                1500000,
                "x",
                "water",
                1,
            ),
        ],
        "EPIC_Sounds_validation.csv": [
            ("P02_01_0", "P02", "P02_01", "00:00:00.500", "00:00:01.000", 0.5, 1.0, "x", "water", 1)
        ],
    }
    for name, segments in rows.items():
        write_table(folder / name, [EPIC_HEADER, *segments])
    return folder


TREES: dict[str, Callable[[Path], Path | None]] = {
    "synth": lambda folder: None,
    "fsdd": fsdd_tree,
    "folder": folder_tree,
    "csv": csv_tree,
    "epic-sounds": epic_tree,
}
