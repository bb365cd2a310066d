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

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from elastictool.data.collate import Example, collate
from elastictool.errors import AudioError, UsageError
from elastictool.inference.recordings import (
    Array,
    Recording,
    StoredClip,
    Window,
    num_windows,
    windows,
)
from elastictool.models.attention.base import ATTENTION
from elastictool.packing.batch import PackedBatch
from elastictool.progress import SILENT, Progress
from elastictool.training.checkpoint import LoadedRun, load_run
from elastictool.training.resolve import pick_device
from elastictool.training.scoring import autocast

Values = npt.NDArray[np.float32]
Waveforms = npt.NDArray[np.floating | np.integer] | Tensor
MAX_TOKENS = 8_192


@dataclass(frozen=True)
class Windows:
    """What was computed for the windows of one recording.

    Attributes:
        name: The recording.
        starts_s: (W,) start of each window.
        stops_s: (W,) its end.
        values: (W, C) probabilities or (W, D) embeddings.
        error: Why there is nothing; empty if all is well.
    """

    name: str
    starts_s: npt.NDArray[np.float64]
    stops_s: npt.NDArray[np.float64]
    values: Values
    error: str = ""

    @property
    def mean(self) -> Values:
        """(C,) or (D,): the windows' average, weighted by their lengths."""
        return np.average(self.values, axis=0, weights=self.stops_s - self.starts_s).astype(
            np.float32
        )

    @property
    def duration_s(self) -> float:
        """Length of the recording."""
        return float(self.stops_s[-1]) if len(self.stops_s) else 0.0


@dataclass(frozen=True)
class Prediction:
    """The likeliest classes of one recording.

    Attributes:
        name: The recording.
        labels: (name, probability), the likeliest first; empty where there is an error.
        duration_s: Length of the recording.
        windows: Probabilities over time.
        error: Why there are no labels; empty if all is well.
    """

    name: str
    labels: tuple[tuple[str, float], ...]
    duration_s: float
    windows: Windows
    error: str = ""


@dataclass(frozen=True)
class WindowRule:
    """Length and distance of windows in seconds; 0 takes recordings whole as far as possible."""

    window_s: float = 0.0
    hop_s: float = 0.0

    def __post_init__(self) -> None:
        if self.window_s < 0 or self.hop_s < 0 or self.hop_s > self.window_s:
            raise UsageError(
                f"windows of {self.window_s:g} s, {self.hop_s:g} s apart, leave gaps or are none",
                "for example: --window 10 --hop 5",
            )


class ElasticModel:
    """A trained model, ready for recordings.

    Args:
        run: The loaded run.
        precision: ``fp32`` or ``bf16``.

    Attributes:
        run: As given.
        label_names: Class names in the order of the probabilities.
    """

    def __init__(self, run: LoadedRun, precision: str = "fp32") -> None:
        self.run = run
        self.precision = precision
        self.label_names = run.label_names

    @property
    def sample_rate_hz(self) -> int:
        """Rate at which the model listens; recordings are resampled to it."""
        return self.run.front_end.fbank.sample_rate_hz

    def __repr__(self) -> str:
        """What it is, for whoever explores: name, classes, rate, longest piece."""
        names = ", ".join(self.label_names[:3]) + (", ..." if len(self.label_names) > 3 else "")
        return (
            f"<ElasticModel {self.run.name}: {len(self.label_names)} classes ({names}), "
            f"{self.sample_rate_hz} Hz, up to {self.longest_s:.1f} s in one piece>"
        )

    @property
    def longest_s(self) -> float:
        """Seconds that the model takes in one piece."""
        return self._longest_samples / self.sample_rate_hz

    def predict(
        self,
        recordings: Recording | Waveforms | Iterable[Recording | Waveforms],
        top: int = 5,
        rule: WindowRule = WindowRule(),
        sample_rate_hz: int = 0,
        progress: Progress = SILENT,
    ) -> list[Prediction]:
        """The ``top`` likeliest classes of each recording.

        Args:
            recordings: Paths, ``Array``s, NumPy or torch waveforms (see ``Array``); one or many.
            top: Classes to name.
            rule: Windows.
            sample_rate_hz: Of waveforms, which do not say it themselves.
            progress: Where to show how far it is.

        Raises:
            UsageError: Waveforms without a rate, or windows that the model does not take.
        """
        listed = self._listed(recordings, sample_rate_hz)
        return [self._prediction(found, top) for found in self.windows(listed, rule, progress)]

    def embed(
        self,
        recordings: Recording | Waveforms | Iterable[Recording | Waveforms],
        rule: WindowRule = WindowRule(),
        sample_rate_hz: int = 0,
        progress: Progress = SILENT,
    ) -> Values:
        """(n, D) embeddings: the pooled vectors before the classifier.

        Arguments are those of ``predict``.

        Raises:
            UsageError: As ``predict``.
            AudioError: A recording cannot be read (``embeddings`` goes on where one cannot).
        """
        listed = self._listed(recordings, sample_rate_hz)
        rows = []
        for found in self.embeddings(listed, rule, progress):
            if found.error:
                raise AudioError(found.error)
            rows.append(found.mean)
        return np.stack(rows) if rows else np.empty((0, self.run.config.model.width), np.float32)

    def windows(
        self,
        recordings: Sequence[Recording],
        rule: WindowRule = WindowRule(),
        progress: Progress = SILENT,
    ) -> Iterator[Windows]:
        """(W, C) probabilities over time of each recording, in their order."""
        return self._each(recordings, rule, progress, self._probabilities)

    def embeddings(
        self,
        recordings: Sequence[Recording],
        rule: WindowRule = WindowRule(),
        progress: Progress = SILENT,
    ) -> Iterator[Windows]:
        """(W, D) embeddings over time of each recording, in their order."""
        return self._each(recordings, rule, progress, self.run.model.embed)

    def _probabilities(self, batch: PackedBatch) -> Tensor:
        logits: Tensor = self.run.model(batch).float()
        return logits.sigmoid() if self.run.multi_label else logits.softmax(dim=1)

    def _listed(
        self,
        recordings: Recording | Waveforms | Iterable[Recording | Waveforms],
        sample_rate_hz: int,
    ) -> list[Recording]:
        listed: list[Any]
        if isinstance(recordings, (str, Path, Array, StoredClip, np.ndarray, Tensor)):
            listed = [recordings]
        else:
            listed = list(recordings)
        for index, item in enumerate(listed):
            if isinstance(item, (np.ndarray, Tensor)):
                if not sample_rate_hz:
                    raise UsageError(
                        "a waveform does not say its rate",
                        f"give sample_rate_hz=...; {self.sample_rate_hz} is the model's own",
                    )
                listed[index] = Array(_numpy(item), sample_rate_hz, f"array {index}")
        return listed

    @property
    def _longest_samples(self) -> int:
        length, fbank = self.run.front_end.length, self.run.front_end.fbank
        return fbank.samples_for(length.most_frames)

    def _sizes(self, rule: WindowRule) -> tuple[int, int]:
        """(samples of a window, samples between windows)."""
        if not rule.window_s:
            return self._longest_samples, self._longest_samples
        size = round(rule.window_s * self.sample_rate_hz)
        least = self.run.front_end.fbank.window_samples
        if not least <= size <= self._longest_samples:
            raise UsageError(
                f"a window of {rule.window_s:g} s is outside what the model takes "
                f"({least / self.sample_rate_hz:g} to {self.longest_s:.2f} s)",
                "choose another --window, or 0 for as long as possible",
            )
        return size, max(1, round((rule.hop_s or rule.window_s) * self.sample_rate_hz))

    def _each(
        self,
        recordings: Sequence[Recording],
        rule: WindowRule,
        progress: Progress,
        compute: Callable[[PackedBatch], Tensor],
    ) -> Iterator[Windows]:
        """Batches of windows through ``compute``, regrouped by recording."""
        size, hop = self._sizes(rule)
        gathered = [_Gathered(_name(recording)) for recording in recordings]
        totals = self._count_windows(recordings, size, hop) if rule.window_s else []
        if totals:
            progress.say(f"{sum(totals):,} windows of {rule.window_s:g} s")
        ready = done = 0
        shown = 0.0
        with progress.task("recordings", len(recordings)) as bar:
            for batch in self._batches(recordings, gathered, size, hop):
                self._run(batch, gathered, compute)
                done += len(batch)
                while ready < len(gathered) and gathered[ready].complete:
                    yield gathered[ready].result(self.sample_rate_hz)
                    gathered[ready] = _Gathered("")  # its values are the caller's now
                    ready += 1
                now = ready + _share(gathered, totals, ready)
                bar.advance(max(0.0, now - shown), f"{done:,} windows")
                shown = max(shown, now)
        for rest in gathered[ready:]:
            yield rest.result(self.sample_rate_hz)

    def _count_windows(self, recordings: Sequence[Recording], size: int, hop: int) -> list[int]:
        """Of each recording, from its header: what takes long should say so first."""
        return [num_windows(item, self.sample_rate_hz, size, hop) for item in recordings]

    def _batches(
        self, recordings: Sequence[Recording], gathered: list[_Gathered], size: int, hop: int
    ) -> Iterator[list[tuple[int, Window, Example]]]:
        """Windows of neighbouring recordings, up to ``MAX_TOKENS`` tokens together."""
        batch: list[tuple[int, Window, Example]] = []
        tokens = 0
        for index, recording in enumerate(recordings):
            try:
                for window in windows(recording, self.sample_rate_hz, size, hop):
                    example = self._example(window, gathered[index])
                    if example is None:
                        continue
                    needed = example.grid[0] * example.grid[1]
                    if batch and tokens + needed > MAX_TOKENS:
                        yield batch
                        batch, tokens = [], 0
                    batch.append((index, window, example))
                    gathered[index].expected += 1
                    tokens += needed
            except AudioError as error:
                gathered[index].error = error.message
            gathered[index].read = True
        yield batch

    def _example(self, window: Window, gathered: _Gathered) -> Example | None:
        """The window as a spectrogram; None where it is shorter than one frame."""
        front_end = self.run.front_end
        frames = front_end.fbank.num_frames(len(window.waveform))
        if not frames:
            if not gathered.expected and not gathered.values:
                gathered.error = (
                    f"{gathered.name}: is shorter than one frame ({front_end.fbank.window_ms:g} ms)"
                )
            return None
        targets = torch.zeros(len(self.label_names))
        features = front_end.features(window.waveform)
        return front_end.example(features, front_end.view(0, frames), targets, gathered.name)

    def _run(
        self,
        batch: list[tuple[int, Window, Example]],
        gathered: list[_Gathered],
        compute: Callable[[PackedBatch], Tensor],
    ) -> None:
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
        labels: tuple[tuple[str, float], ...] = ()
        if not found.error:
            mean = found.mean
            order = np.argsort(-mean, kind="stable")[:top]
            labels = tuple((self.label_names[index], float(mean[index])) for index in order)
        return Prediction(found.name, labels, found.duration_s, found, found.error)


class _Gathered:
    """Values of one recording's windows while batches come in."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.bounds: list[tuple[int, int]] = []
        self.values: list[Values] = []
        self.expected = 0
        self.read = False
        self.error = ""

    @property
    def complete(self) -> bool:
        """All of it was read and computed."""
        return self.read and len(self.values) == self.expected

    def add(self, window: Window, row: Values) -> None:
        """One window's values."""
        self.bounds.append((window.start, window.stop))
        self.values.append(row)

    def result(self, rate_hz: int) -> Windows:
        """All windows; none where the recording has an error."""
        if not self.error and self.values and not np.isfinite(self.values).all():
            self.error = f"{self.name}: the model's output is not finite"
        keep = not self.error
        bounds = np.array(self.bounds if keep else [], dtype=np.float64).reshape(-1, 2) / rate_hz
        values = np.array(self.values if keep else [], dtype=np.float32)
        return Windows(self.name, bounds[:, 0], bounds[:, 1], values, self.error)


def _share(gathered: Sequence[_Gathered], totals: Sequence[int], place: int) -> float:
    """How much of the recording at ``place`` is done, below 1; 0 where nobody counted."""
    if place >= len(totals) or not totals[place]:
        return 0.0
    return min(0.99, len(gathered[place].values) / totals[place])


def _numpy(waveform: npt.NDArray[Any] | Tensor) -> npt.NDArray[Any]:
    if not isinstance(waveform, Tensor):
        return waveform
    held = waveform.detach().cpu()
    return (held.float() if held.is_floating_point() else held).numpy()  # NumPy knows no bfloat16


def _name(recording: Recording) -> str:
    return recording.name if isinstance(recording, (Array, StoredClip)) else str(recording)


def load(
    path: str | Path,
    device: str = "auto",
    precision: str = "fp32",
    attention: str = "auto",
    patch_size: int | None = None,
    resolution: float | None = None,
) -> ElasticModel:
    """A trained model from a run directory or from one of our ``.safetensors`` files.

    Args:
        path: The run or file.
        device: ``auto``, ``cpu`` or ``cuda``.
        precision: ``fp32`` or ``bf16``.
        attention: Backend.
        patch_size: See ``LoadedRun.at_budget``: larger patches are fewer tokens.
        resolution: The same for frames: 2 takes them twice as far apart.

    Raises:
        UsageError: There is no such run or device, or a budget makes no sense.
        CheckpointError: The file is damaged or not ours.
    """
    run = load_run(Path(path), attention=attention, device=pick_device(device))
    return ElasticModel(run.at_budget(patch_size, resolution), precision)
