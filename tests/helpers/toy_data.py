"""A small prepared dataset of tones and noises with clear classes, made without any corpus."""

from __future__ import annotations

import csv
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from elastictool.data.options import PrepOptions
from elastictool.data.prepare import prepare
from elastictool.data.store import PreparedStore

RATE_HZ = 16_000


def write_toy_recordings(folder: Path, clips_per_class: int = 12) -> Path:
    """Low tones, high tones and noises of 0.2 to 1.2 s; returns the CSV that lists them."""
    rng = np.random.default_rng(7)
    rows = []
    for number in range(3 * clips_per_class):
        label = ("low", "high", "noise")[number % 3]
        time = np.arange(int(RATE_HZ * rng.uniform(0.2, 1.2))) / RATE_HZ
        tone = np.sin(2 * np.pi * {"low": 200.0, "high": 3000.0}.get(label, 0.0) * time)
        sound = 0.3 * tone + (0.3 if label == "noise" else 0.003) * rng.standard_normal(len(time))
        soundfile.write(folder / f"{number:03d}.wav", sound, RATE_HZ)
        part = number // 3 % 4
        rows.append([f"{number:03d}.wav", label, ("train", "train", "val", "test")[part]])
    listing = folder / "clips.csv"
    with listing.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["path", "label", "split"], *rows])
    return listing


def toy_store(folder: Path) -> PreparedStore:
    """The toy recordings, prepared under ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    listing = write_toy_recordings(folder)
    return prepare(PrepOptions("csv", listing, folder / "data", name="toy"))


def hide_module(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Let a package appear as if it were not installed."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec",
        lambda wanted, package=None: None if wanted == name else find_spec(wanted, package),
    )
    monkeypatch.setitem(sys.modules, name, None)
