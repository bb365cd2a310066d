"""Scores of a sweep as far as it has come, on the disk: one that is stopped goes on from there.

A sweep takes chunk after chunk of the clips and scores each at all points, so no point is finished
before the last chunk. Therefore each chunk's logits are kept, each under what they depend on
(weights, clips, front end, precision): what is found there is what would be computed, whatever the
sweep that asks.
"""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from elastictool.checkpoint.weights import LoadedRun
from elastictool.data.feature_extractor import Crop, FeatureExtractor
from elastictool.data.store import PreparedStore
from elastictool.training.predict_logits import Scores
from elastictool.utils.errors import WriteError
from elastictool.utils.io import atomic_path
from elastictool.utils.progress import SILENT, Progress


class KeptScores:
    """The chunks of one sweep.

    Args:
        folder: Where they are kept; None keeps nothing.
        store: The data.
        precision: Of the scores.
        progress: Told where they cannot be kept, which ends no sweep.
    """

    def __init__(
        self,
        folder: Path | None,
        store: PreparedStore,
        precision: str,
        progress: Progress = SILENT,
    ) -> None:
        self._folder, self._store, self._precision = folder, store, precision
        self._progress = progress
        # Each run beside its text, so that no later one can have its id.
        self._models: dict[int, tuple[LoadedRun, str]] = {}

    def key(
        self, run: LoadedRun, feature_extractor: FeatureExtractor, views: tuple[Crop, ...]
    ) -> str:
        """What tells the scores of ``views`` from all others."""
        if id(run) not in self._models:
            self._models[id(run)] = run, f"{run.weights_sha256} {run.config.model}"
        model = self._models[id(run)][1]
        return _digest(f"{model} {feature_extractor} {views} {self._precision}".encode())

    def read(self, chunk: npt.NDArray[np.int64]) -> dict[str, Scores]:
        """The kept scores of a chunk of clips by their keys; a damaged file is none."""
        try:
            with np.load(self._file(chunk)) as arrays:
                keys = {name.partition(".")[0] for name in arrays.files}
                return {
                    key: self._scores(*(arrays[f"{key}.{part}"] for part in _PARTS)) for key in keys
                }
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
            return {}

    def write(
        self, chunk: npt.NDArray[np.int64], scores: Mapping[str, tuple[Scores, list[int]]]
    ) -> None:
        """Keep the scores of a chunk with the clips that they are of, in their order."""
        if self._folder is None:
            return
        arrays: dict[str, npt.NDArray[Any]] = {}
        for key, (of, clips) in scores.items():
            counts = np.array([of.tokens, of.cut_frames, of.seconds])
            parts: tuple[npt.NDArray[Any], ...] = (of.logits, np.array(clips), counts)
            arrays |= {f"{key}.{part}": value for part, value in zip(_PARTS, parts, strict=True)}
        try:
            with atomic_path(self._file(chunk)) as temporary, temporary.open("wb") as file:
                np.savez(file, **arrays)  # type: ignore[arg-type]
        except WriteError as error:
            self._progress.log(f"warning: a stopped sweep will start again: {error.message}")
            self._folder = None

    def _scores(
        self,
        logits: npt.NDArray[np.float32],
        clips: npt.NDArray[np.int64],
        counts: npt.NDArray[np.float64],
    ) -> Scores:
        tokens, cut_frames, seconds = counts.tolist()
        targets = np.stack([self._store.targets(int(clip)) for clip in clips])
        ids = tuple(self._store.ids[clips].tolist())
        return Scores(logits, targets, ids, int(tokens), int(cut_frames), seconds)

    def _file(self, chunk: npt.NDArray[np.int64]) -> Path:
        if self._folder is None:
            raise FileNotFoundError
        told = self._store.info.fingerprint.encode() + np.ascontiguousarray(chunk).tobytes()
        return self._folder / f"{_digest(told)}.npz"


_PARTS = ("logits", "clips", "counts")


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]


def forget(folder: Path) -> None:
    """Remove what a sweep has kept, when its results are written."""
    shutil.rmtree(folder, ignore_errors=True)
