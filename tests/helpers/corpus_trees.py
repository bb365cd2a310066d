"""For every corpus a small tree, laid out exactly as users have it."""

from __future__ import annotations

import csv
import json
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


def epic_hdf5_tree(folder: Path) -> Path:
    """The same annotations and sounds, with one HDF5 file and the table of the test part."""
    import h5py

    epic_tree(folder)
    with h5py.File(folder / "EPIC_audio.hdf5", "w") as file:
        for path in sorted((folder / "audio").iterdir()):
            sound, _ = soundfile.read(path, dtype="float32")
            file.create_dataset(path.stem, data=sound)
            path.unlink()
    (folder / "audio").rmdir()
    segments = [("P02_01_9", "P02", "P02_01", "00:00:01.000", "00:00:01.750", 24000, 42000)]
    write_table(
        folder / "EPIC_Sounds_recognition_test_timestamps.csv", [EPIC_HEADER[:7], *segments]
    )
    return folder


def json_tree(folder: Path) -> Path:
    """Lists of an AST repository for two splits, with the class table; one file is gone."""
    write_classes(folder)
    for split, names in {"train": ("a", "-b"), "eval": ("c", "gone")}.items():
        data = [{"wav": f"{name}.wav", "labels": "/m/01,/m/02"} for name in names]
        for name in names[: 2 if split == "train" else 1]:
            write_audio(folder / f"{name}.wav")
        path = folder / f"{split}_data.json"
        path.write_text(json.dumps({"data": data}), encoding="utf-8")
    return folder


def write_classes(folder: Path) -> Path:
    """``class_labels_indices.csv`` with names that hold commas, in an order of its own."""
    names = ["Speech", "Male speech, man speaking", "Dog"]
    rows = [(index, f"/m/0{index}", name) for index, name in enumerate(names)]
    header = ("index", "mid", "display_name")
    return write_table(folder / "class_labels_indices.csv", [header, *rows])


def audioset_tree(folder: Path) -> Path:
    """Segment tables as published, and excerpts under four naming schemes; one is gone."""
    write_classes(folder)
    comments = "# Segments csv created Sun Mar  5 10:54:25 2017\n# num_ytids=1\n# YTID, ...\n"
    rows = {
        "balanced_train": ['-0abc_, 30.000, 40.000, "/m/00,/m/02"', 'b__1, 0.000, 10.000, "/m/01"'],
        "unbalanced_train": ['cd-2, 5.500, 12.000, "/m/02"', 'gone3, 1.000, 11.000, "/m/00"'],
        "eval": ['e4_x, 70.000, 80.000, "/m/00"'],
    }
    for part, lines in rows.items():
        (folder / f"{part}_segments.csv").write_text(comments + "\n".join(lines) + "\n")
    for name in ("bal/Y-0abc_.wav", "bal/b__1.wav", "un/cd-2_5500_12000.flac", "ev/e4_x_70.wav"):
        write_audio(folder / "audio" / name)
    return folder


def vggsound_tree(folder: Path) -> Path:
    """``vggsound.csv`` without a header, quoted labels, ids with a dash; one clip is gone."""
    rows = [
        ("-wx_y", 30, "playing drums, loud", "train"),
        ("b2", 7, "dog barking", "train"),
        ("c3", 120, "dog barking", "test"),
        ("gone", 0, "dog barking", "test"),
    ]
    write_table(folder / "vggsound.csv", rows)
    for name in ("-wx_y_000030.wav", "b2_000007.flac", "c3_000120.wav"):
        write_audio(folder / "audio" / name)
    return folder


def voxceleb_tree(folder: Path) -> Path:
    """The identification split with dev and test zips merged or apart; one file is gone."""
    lines = [
        *("1 id10001/vid-A/00001.wav", "2 id10001/vid_B/00001.wav", "3 id10002/vidC/00007.wav"),
        *("1 id10002/vidD/00002.wav", "1 id10002/gone/00001.wav"),
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "iden_split.txt").write_text("\n".join(lines) + "\n")
    for line in lines[:3]:
        write_audio(folder / "wav" / line[2:])
    write_audio(folder / "test" / "wav" / lines[3][2:])
    return folder


def esc50_tree(folder: Path) -> Path:
    """``meta/esc50.csv`` and five folds of two classes that end in digital silence."""
    rows: list[tuple[object, ...]] = [
        ("filename", "fold", "target", "category", "esc10", "src_file", "take")
    ]
    for fold in range(1, 6):
        for target, category in ((0, "dog"), (14, "chirping_birds")):
            name = f"{fold}-{fold}{target}-A-{target}.wav"
            path = write_audio(folder / "audio" / name, 0.2, 44_100, seed=fold)
            sound, rate_hz = soundfile.read(path, dtype="int16")
            sound[len(sound) // 2 :] = 0
            soundfile.write(path, sound, rate_hz)
            rows.append((name, fold, target, category, target == 0, f"{fold}{target}", "A"))
    write_table(folder / "meta" / "esc50.csv", rows)
    return folder


def speech_commands_tree(folder: Path) -> Path:
    """Word folders, both lists, and background noise."""
    for word in ("yes", "no"):
        for number, speaker in enumerate(("0a7c2a8d", "1b88bf70", "c1d39ce8")):
            write_audio(folder / word / f"{speaker}_nohash_0.wav", 0.3, seed=number)
    write_audio(folder / "_background_noise_" / "pink_noise.wav", 1.0)
    lists = {"validation_list.txt": "1b88bf70", "testing_list.txt": "c1d39ce8"}
    for name, speaker in lists.items():
        lines = [f"{word}/{speaker}_nohash_0.wav\n" for word in ("no", "yes")]
        (folder / name).write_text("".join(lines))
    return folder


TREES: dict[str, Callable[[Path], Path | None]] = {
    "synth": lambda folder: None,
    "fsdd": fsdd_tree,
    "folder": folder_tree,
    "csv": csv_tree,
    "epic-sounds": epic_tree,
    "json": json_tree,
    "audioset": audioset_tree,
    "vggsound": vggsound_tree,
    "voxceleb": voxceleb_tree,
    "esc50": esc50_tree,
    "speech-commands": speech_commands_tree,
}
