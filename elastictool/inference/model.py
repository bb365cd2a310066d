"""``elastictool.load``: a trained model that takes recordings and gives labels or embeddings.

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
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from elastictool.checkpoint.find import find_run
from elastictool.checkpoint.weights import LoadedRun, load_run
from elastictool.data.collate import Example, collate
from elastictool.inference.gather import Gathered
from elastictool.inference.inputs import Given, listed
from elastictool.inference.recordings import Recording, Window, name_of, num_windows, windows
from elastictool.inference.results import Prediction, Values, WindowRule, Windows, rounded_down
from elastictool.metrics.thresholds import DEFAULT_THRESHOLD, decide
from elastictool.models.attention.base import ATTENTION
from elastictool.packing.batch import PackedBatch
from elastictool.training.predict_logits import autocast
from elastictool.training.setup import pick_device
from elastictool.utils.errors import AudioError, UsageError
from elastictool.utils.progress import SILENT, Progress
from elastictool.utils.signals import StopRequest

MAX_TOKENS = 8_192
PRECISIONS = ("fp32", "bf16")
Recordings = Given | Iterable[Given]
Compute = Callable[[PackedBatch], Tensor]
Batch = list[tuple[int, Window, Example]]
"""The number of the recording, a window of it, and its spectrogram."""


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
        if precision not in PRECISIONS:
            raise UsageError(
                f"there is no precision {precision!r}", f"use {' or '.join(PRECISIONS)}"
            )
        self.run = run
        self.precision = precision
        self.label_names = run.label_names

    @property
    def sample_rate_hz(self) -> int:
        """Rate at which the model listens; recordings are resampled to it."""
        return self.run.feature_extractor.fbank.sample_rate_hz

    def __repr__(self) -> str:
        """What it is, for whoever explores: name, classes, rate, longest piece."""
        names = ", ".join(self.label_names[:3]) + (", ..." if len(self.label_names) > 3 else "")
        return (
            f"<ElasticModel {self.run.name}: {len(self.label_names)} classes ({names}), "
            f"{self.sample_rate_hz} Hz, up to {rounded_down(self.longest_s, 1)} s in one piece>"
        )

    @property
    def longest_s(self) -> float:
        """Seconds that the model takes in one piece."""
        return self._longest_samples / self.sample_rate_hz

    def predict(
        self,
        recordings: Recordings,
        top: int = 5,
        rule: WindowRule = WindowRule(),
        sample_rate_hz: float = 0,
        progress: Progress = SILENT,
    ) -> list[Prediction]:
        """The ``top`` likeliest classes of each recording.

        Args:
            recordings: One or many of: paths; NumPy or torch waveforms (see ``Array``), also as
                pairs (waveform, rate) or mappings of ``array`` and ``sampling_rate``; ``Array``s.
            top: Classes to name.
            rule: Windows.
            sample_rate_hz: Of waveforms that do not say it themselves.
            progress: Where to show how far it is.

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
        """As ``predict``, each when it is ready; between batches a ``stop`` is answered.

        Raises:
            UsageError: As ``predict``.
            Stopped: ``stop`` was requested; what came before stands.
        """
        if not isinstance(top, (int, np.integer)) or top < 1:
            raise UsageError(f"top = {top!r} names no class", "give 1 or more")
        found = self.windows(recordings, rule, sample_rate_hz, progress, stop)
        return (self._prediction(item, int(top)) for item in found)

    def embed(
        self,
        recordings: Recordings,
        rule: WindowRule = WindowRule(),
        sample_rate_hz: float = 0,
        progress: Progress = SILENT,
    ) -> Values:
        """(n, D) embeddings: the pooled vectors before the classifier.

        Arguments are those of ``predict``.

        Raises:
            UsageError: As ``predict``.
            AudioError: A recording cannot be read (``embeddings`` goes on where one cannot).
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
        """(W, C) probabilities over time of each recording, in their order; see ``predictions``."""
        given = listed(recordings, sample_rate_hz, self.sample_rate_hz)
        return self._each(given, self._sizes(rule), rule, progress, stop, self._probabilities)

    def embeddings(
        self,
        recordings: Recordings,
        rule: WindowRule = WindowRule(),
        sample_rate_hz: float = 0,
        progress: Progress = SILENT,
        stop: StopRequest | None = None,
    ) -> Iterator[Windows]:
        """(W, D) embeddings over time of each recording, in their order; see ``predictions``."""
        given = listed(recordings, sample_rate_hz, self.sample_rate_hz)
        return self._each(given, self._sizes(rule), rule, progress, stop, self._pooled)

    def _pooled(self, batch: PackedBatch) -> Tensor:
        model = self.run.model
        return model.forward_head(model.forward_features(batch), batch, pre_logits=True)

    def _probabilities(self, batch: PackedBatch) -> Tensor:
        return self.probabilities(self.run.model(batch).float())

    def probabilities(self, logits: Tensor) -> Tensor:
        """(S, C) of S clips: a class by itself, or all together 1 where a clip has one label."""
        return logits.sigmoid() if self.run.multi_label else logits.softmax(dim=1)

    @property
    def _longest_samples(self) -> int:
        length, fbank = self.run.feature_extractor.length, self.run.feature_extractor.fbank
        return fbank.samples_for(length.most_frames)

    def _sizes(self, rule: WindowRule) -> tuple[int, int]:
        """(samples of a window, samples between windows)."""
        if not rule.window_s:
            return self._longest_samples, self._longest_samples
        size = round(rule.window_s * self.sample_rate_hz)
        least = self.run.feature_extractor.fbank.window_samples
        if not least <= size <= self._longest_samples:
            raise UsageError(
                f"a window of {rule.window_s:g} s is outside what the model takes "
                f"({least / self.sample_rate_hz:g} to {rounded_down(self.longest_s, 2)} s)",
                "choose another --window, or 0 for as long as possible",
            )
        return size, max(1, round((rule.hop_s or rule.window_s) * self.sample_rate_hz))

    def _each(
        self,
        recordings: Sequence[Recording],
        sizes: tuple[int, int],
        rule: WindowRule,
        progress: Progress,
        stop: StopRequest | None,
        compute: Compute,
    ) -> Iterator[Windows]:
        """Batches of windows through ``compute``, regrouped by recording."""
        gathered = [Gathered(name_of(recording)) for recording in recordings]
        if rule.window_s:  # what takes long should say so first
            for item, recording in zip(gathered, recordings, strict=True):
                item.total = num_windows(recording, self.sample_rate_hz, *sizes)
            total = sum(item.total for item in gathered)
            progress.log(f"{total:,} windows of {rule.window_s:g} s")
        ready = done = 0
        shown = 0.0
        with progress.task("recordings", len(recordings)) as bar:
            for batch in self._batches(recordings, gathered, sizes):
                if stop is not None:
                    stop.check()
                self._run(batch, gathered, compute)
                done += len(batch)
                while ready < len(gathered) and gathered[ready].complete:
                    yield gathered[ready].result(self.sample_rate_hz)
                    gathered[ready] = Gathered("")  # its values are the caller's now
                    ready += 1
                now = ready + (gathered[ready].share if ready < len(gathered) else 0.0)
                bar.advance(max(0.0, now - shown), f"{done:,} windows")
                shown = max(shown, now)

    def _batches(
        self,
        recordings: Sequence[Recording],
        gathered: list[Gathered],
        sizes: tuple[int, int],
    ) -> Iterator[Batch]:
        """Windows of neighbouring recordings, up to ``MAX_TOKENS`` tokens together."""
        batch: Batch = []
        tokens = 0
        too_short = f"is shorter than one frame ({self.run.feature_extractor.fbank.window_ms:g} ms)"
        for index, recording in enumerate(recordings):
            item = gathered[index]
            item.total = item.total or num_windows(recording, self.sample_rate_hz, *sizes)
            try:
                for window in windows(recording, self.sample_rate_hz, *sizes):
                    item.saw(window)
                    example = self._example(window, item.name)
                    if example is None:
                        continue
                    needed = example.grid[0] * example.grid[1]
                    if batch and tokens + needed > MAX_TOKENS:
                        yield batch
                        batch, tokens = [], 0
                    batch.append((index, window, example))
                    item.expected += 1
                    tokens += needed
            except AudioError as error:
                item.error = error.message
            item.finish(too_short)
        yield batch

    def _example(self, window: Window, name: str) -> Example | None:
        """The window as a spectrogram; None where it is shorter than one frame."""
        feature_extractor = self.run.feature_extractor
        frames = feature_extractor.fbank.num_frames(len(window.waveform))
        if not frames:
            return None
        targets = torch.zeros(len(self.label_names))
        features = feature_extractor.features(window.waveform)
        return feature_extractor.example(features, feature_extractor.crop(0, frames), targets, name)

    def _run(self, batch: Batch, gathered: list[Gathered], compute: Compute) -> None:
        if not batch:
            return
        model = self.run.model
        device = next(model.parameters()).device
        packed = collate(
            [[example for _, _, example in batch]],
            model.config.prefix_tokens,
            ATTENTION[model.attention].padded_rows,
        )
        with torch.inference_mode(), autocast(device, self.precision):
            values = compute(packed.to(device)).float().cpu().numpy()
        for (index, window, _), row in zip(batch, values, strict=True):
            gathered[index].add(window, row)

    def _prediction(self, found: Windows, top: int) -> Prediction:
        if found.error:
            return Prediction(found.name, (), found.duration_s, found, found.error)
        mean = found.mean
        labels, decided = self.named(mean, top), self.decided(mean)
        return Prediction(found.name, labels, found.duration_s, found, decided=decided)

    def named(self, probabilities: Values, top: int) -> tuple[tuple[str, float], ...]:
        """(name, probability) of the ``top`` likeliest of (C,) ``probabilities``."""
        order = np.argsort(-probabilities, kind="stable")[:top]
        return tuple((self.label_names[index], float(probabilities[index])) for index in order)

    def decided(self, probabilities: Values) -> tuple[str, ...]:
        """Multi-label: classes that reach their threshold, chosen in training or else 0.5."""
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
    """A trained model from a run or from one of our ``.safetensors`` files.

    Args:
        path: A run directory, the name of a run under ``runs/``, or a file.
        device: ``auto``, ``cpu`` or ``cuda``.
        precision: ``fp32`` or ``bf16``.
        attention: Backend.
        patch_size: See ``LoadedRun.with_tokens``: larger patches are fewer tokens.
        resolution: The same for frames: 2 takes them twice as far apart.

    Raises:
        UsageError: There is no such run or device, or a budget makes no sense.
        CheckpointError: The file is damaged or not ours.
    """
    place = find_run(os.fspath(path))
    run = load_run(place, attention=attention, device=pick_device(str(device)))
    return ElasticModel(run.with_tokens(patch_size, resolution), precision)
