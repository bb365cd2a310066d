"""``elastictool.load``: a trained model that labels or embeds recordings.

    model = elastictool.load("runs/my-run")
    for result in model.predict(["a.wav", "b.flac"], top=5):
        print(result.name, result.labels)
    vectors = model.embed(["a.wav", "b.flac"])

A recording up to the model's longest input goes through whole, at its own length; a longer one, or
any where ``window_s`` is given, in windows whose probabilities (or embeddings) are averaged by
their lengths. Windows of many recordings share a batch; packing changes no result.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from elastictool.checkpoint.find import find_run
from elastictool.checkpoint.weights import LoadedRun, load_run
from elastictool.inference.inputs import Given, listed
from elastictool.inference.results import Prediction, Values, WindowRule, Windows, rounded_down
from elastictool.inference.windowing import Compute, WindowRunner, longest_samples
from elastictool.metrics.thresholds import DEFAULT_THRESHOLD, decide
from elastictool.packing.batch import PackedBatch
from elastictool.training.setup import pick_device
from elastictool.utils.errors import UsageError
from elastictool.utils.progress import SILENT, Progress
from elastictool.utils.signals import StopRequest

Recordings = Given | Iterable[Given]


class ElasticModel:
    """A trained model, ready for recordings.

    Args:
        run: The loaded run.
        precision: ``fp32`` or ``bf16``.

    Attributes:
        run: As given.
        label_names: Class names in the order of the probabilities.

    Raises:
        UsageError: There is no such precision.
    """

    def __init__(self, run: LoadedRun, precision: str = "fp32") -> None:
        if precision not in ("fp32", "bf16"):
            raise UsageError(f"there is no precision {precision!r}", "use fp32 or bf16")
        self.run, self.precision, self.label_names = run, precision, run.label_names

    @property
    def sample_rate_hz(self) -> int:
        """The model's sample rate; recordings are resampled to it."""
        return self.run.feature_extractor.fbank.sample_rate_hz

    def __repr__(self) -> str:
        """Returns name, classes, rate and longest input."""
        names = ", ".join(self.label_names[:3]) + (", ..." if len(self.label_names) > 3 else "")
        return (
            f"<ElasticModel {self.run.name}: {len(self.label_names)} classes ({names}), "
            f"{self.sample_rate_hz} Hz, up to {rounded_down(self.longest_s, 1)} s in one piece>"
        )

    @property
    def longest_s(self) -> float:
        """Seconds of the model's longest input."""
        return longest_samples(self.run) / self.sample_rate_hz

    def predict(
        self,
        recordings: Recordings,
        top: int = 5,
        rule: WindowRule = WindowRule(),
        sample_rate_hz: float = 0,
        progress: Progress = SILENT,
    ) -> list[Prediction]:
        """Returns the ``top`` likeliest classes of each recording.

        Args:
            recordings: One or many of: paths; NumPy or torch waveforms (see ``Array``), also as
                pairs (waveform, rate) or mappings of ``array`` and ``sampling_rate``; ``Array``s.
            top: Number of classes to name.
            rule: How recordings are cut into windows.
            sample_rate_hz: Rate of waveforms that do not hold it themselves.
            progress: Where to show a bar.

        Raises:
            UsageError: Waveforms without a rate, windows that the model does not take, or no
                class to name.
        """
        return list(self.predictions(recordings, top, rule, sample_rate_hz, progress))

    def predictions(
        self,
        recordings: Recordings,
        top: int = 5,
        rule: WindowRule = WindowRule(),
        sample_rate_hz: float = 0,
        progress: Progress = SILENT,
        stop: StopRequest | None = None,
    ) -> Iterator[Prediction]:
        """Yields the predictions of ``predict``, each when it is ready.

        Raises:
            UsageError: As ``predict``.
            Stopped: ``stop`` was requested; it is checked between batches.
        """
        if not isinstance(top, (int, np.integer)) or top < 1:
            raise UsageError(f"top = {top!r} names no class", "give 1 or more")
        found = self.windows(recordings, rule, sample_rate_hz, progress, stop)

        def prediction(windows: Windows) -> Prediction:
            name, seconds, error = windows.name, windows.duration_s, windows.error
            if error:
                return Prediction(name, (), seconds, windows, error)
            mean = windows.mean
            named, decided = self.named(mean, int(top)), self.decided(mean)
            return Prediction(name, named, seconds, windows, decided=decided)

        return map(prediction, found)

    def embed(
        self,
        recordings: Recordings,
        rule: WindowRule = WindowRule(),
        sample_rate_hz: float = 0,
        progress: Progress = SILENT,
    ) -> Values:
        """Returns (n, D) embeddings: the pooled vectors before the classifier.

        Arguments are those of ``predict``.

        Raises:
            UsageError: As ``predict``.
            AudioError: A recording cannot be read (``embeddings`` skips it).
        """
        found = self.embeddings(recordings, rule, sample_rate_hz, progress)
        rows = [item.mean for item in found]
        return np.stack(rows) if rows else np.empty((0, self.run.config.model.width), np.float32)

    def windows(
        self,
        recordings: Recordings,
        rule: WindowRule = WindowRule(),
        sample_rate_hz: float = 0,
        progress: Progress = SILENT,
        stop: StopRequest | None = None,
    ) -> Iterator[Windows]:
        """Yields (W, C) probabilities over time of each recording; see ``predictions``."""

        def compute(batch: PackedBatch) -> Tensor:
            return self.probabilities(self.run.model(batch).float())

        return self._values(compute, recordings, rule, sample_rate_hz, progress, stop)

    def embeddings(
        self,
        recordings: Recordings,
        rule: WindowRule = WindowRule(),
        sample_rate_hz: float = 0,
        progress: Progress = SILENT,
        stop: StopRequest | None = None,
    ) -> Iterator[Windows]:
        """Yields (W, D) embeddings over time of each recording; see ``predictions``."""
        model = self.run.model

        def compute(batch: PackedBatch) -> Tensor:
            return model.forward_head(model.forward_features(batch), batch, pre_logits=True)

        return self._values(compute, recordings, rule, sample_rate_hz, progress, stop)

    def _values(
        self,
        compute: Compute,
        recordings: Recordings,
        rule: WindowRule,
        sample_rate_hz: float,
        progress: Progress,
        stop: StopRequest | None,
    ) -> Iterator[Windows]:
        given = listed(recordings, sample_rate_hz, self.sample_rate_hz)
        runner = WindowRunner(self.run, self.precision, rule, compute)
        return runner.values(given, progress, stop.check if stop else lambda: None)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Returns (S, C) probabilities: independent, or of sum 1 where a clip has one label."""
        return logits.sigmoid() if self.run.multi_label else logits.softmax(dim=1)

    def named(self, probabilities: Values, top: int) -> tuple[tuple[str, float], ...]:
        """Returns (name, probability) of the ``top`` likeliest of (C,) ``probabilities``."""
        order = np.argsort(-probabilities, kind="stable")[:top]
        return tuple((self.label_names[index], float(probabilities[index])) for index in order)

    def decided(self, probabilities: Values) -> tuple[str, ...]:
        """Returns the classes that reach their threshold (else 0.5); multi-label models only."""
        if not self.run.multi_label:
            return ()
        reached = decide(probabilities, self.run.thresholds or DEFAULT_THRESHOLD)
        return tuple(self.label_names[index] for index in np.flatnonzero(reached))


def load(
    path: str | Path,
    device: str | torch.device = "auto",
    precision: str = "fp32",
    attention: str = "auto",
    patch_size: int | None = None,
    resolution: float | None = None,
) -> ElasticModel:
    """Loads a trained model from a run or from an elastictool ``.safetensors`` file.

    Args:
        path: A run directory, the name of a run under ``runs/``, or a file.
        device: ``auto``, ``cpu`` or ``cuda``.
        precision: ``fp32`` or ``bf16``.
        attention: Backend.
        patch_size: See ``LoadedRun.with_tokens``: larger patches are fewer tokens.
        resolution: Frame shift in units of the run's own; 2 halves the tokens.

    Raises:
        UsageError: There is no such run or device, or a budget makes no sense.
        CheckpointError: The file is damaged or not an elastictool file.
    """
    run_path = find_run(os.fspath(path))
    run = load_run(run_path, attention=attention, device=pick_device(str(device)))
    return ElasticModel(run.with_tokens(patch_size, resolution), precision)
