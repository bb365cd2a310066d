"""Keep the logits of an unfinished sweep on disk, so that the same sweep continues after a stop.

A sweep takes chunk after chunk of the clips and scores each at all points, so no point is finished
before the last chunk. Therefore the logits of each chunk are kept, under a key of all that they
depend on (weights, clips, feature extractor, precision).
"""

from __future__ import annotations

import hashlib
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

Indices = npt.NDArray[np.int64]
_ARRAYS = ("logits", "clips", "counts")


class LogitCache:
    """The scores of a sweep, one file a chunk of clips; several sweeps at once share a folder.

    Args:
        folder: Where the files are; None keeps nothing.
        store: The data.
        precision: Precision of the scores.
        progress: Where to report that they cannot be written, which ends no sweep.
    """

    def __init__(
        self,
        folder: Path | None,
        store: PreparedStore,
        precision: str,
        progress: Progress = SILENT,
    ) -> None:
        self.store, self.precision = store, precision
        self._folder, self._progress = folder, progress
        # Each run is kept with its text, so that no later one can have its id.
        self._models: dict[int, tuple[LoadedRun, str]] = {}

    def key(
        self, run: LoadedRun, feature_extractor: FeatureExtractor, crops: tuple[Crop, ...]
    ) -> str:
        """Returns a digest of all that the scores of ``crops`` depend on."""
        if id(run) not in self._models:
            self._models[id(run)] = run, f"{run.weights_sha256} {run.config.model}"
        model = self._models[id(run)][1]
        return _digest(f"{model} {feature_extractor} {crops} {self.precision}".encode())

    def read(self, chunk: Indices) -> dict[str, Scores]:
        """Returns the scores of a chunk of clips by key; a damaged file counts as none."""
        scores: dict[str, Scores] = {}
        for file in sorted(self._folder.glob(f"{self._name(chunk)}-*.npz")) if self._folder else ():
            scores |= self._read_file(file)
        return scores

    def _read_file(self, file: Path) -> dict[str, Scores]:
        scores = {}
        try:
            with np.load(file) as arrays:
                for key in {name.partition(".")[0] for name in arrays.files}:
                    logits, clips, counts = (arrays[f"{key}.{name}"] for name in _ARRAYS)
                    tokens, cut_frames, seconds = counts.tolist()
                    targets = np.stack([self.store.targets(int(clip)) for clip in clips])
                    ids = tuple(self.store.ids[clips].tolist())
                    scores[key] = Scores(
                        logits, targets, ids, int(tokens), int(cut_frames), seconds
                    )
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
            return {}
        return scores

    def write(
        self,
        chunk: Indices,
        scores: Mapping[str, tuple[Scores, tuple[Crop, ...]]],
    ) -> None:
        """Writes the scores of a chunk with the crops that they belong to, in their order."""
        if self._folder is None:
            return
        arrays: dict[str, npt.NDArray[Any]] = {}
        for key, (part, crops) in scores.items():
            arrays[f"{key}.logits"] = part.logits
            arrays[f"{key}.clips"] = np.array([crop.clip for crop in crops])
            arrays[f"{key}.counts"] = np.array([part.tokens, part.cut_frames, part.seconds])
        # A name that follows from the keys: a sweep at other points does not overwrite these.
        keys = _digest(" ".join(sorted(scores)).encode())
        file = self._folder / f"{self._name(chunk)}-{keys}.npz"
        try:
            with atomic_path(file) as temporary, temporary.open("wb") as opened:
                np.savez(opened, **arrays)  # type: ignore[arg-type]
        except WriteError as error:
            self._progress.log(f"warning: a stopped sweep will start again: {error.message}")
            self._folder = None

    def _name(self, chunk: Indices) -> str:
        content = self.store.info.fingerprint.encode() + np.ascontiguousarray(chunk).tobytes()
        return _digest(content)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]
