"""Run the windows of many recordings through a model, batch by batch.

Windows of neighbouring recordings share a batch; packing changes no result. The values of a
recording's windows are collected until all are there, and recordings come out in their order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from elastictool.checkpoint.weights import LoadedRun
from elastictool.data.collate import Example, collate
from elastictool.inference.recordings import Recording, Window, name_of, num_windows, windows
from elastictool.inference.results import Values, WindowRule, Windows, rounded_down
from elastictool.packing.batch import PackedBatch
from elastictool.training.predict_logits import run_batch
from elastictool.utils.errors import AudioError, UsageError
from elastictool.utils.progress import Progress

MAX_TOKENS = 8_192
"""Most tokens of a batch, unless one window alone has more."""
Compute = Callable[[PackedBatch], Tensor]
Batch = list[tuple["_Collected", Window, Example]]
"""Windows with the recordings that they belong to and their spectrograms."""


class _Collected:
    """The values of one recording's windows so far.

    Attributes:
        name: The recording.
        expected: Windows that were cut so far.
        total: Windows that its header promises; 0 if unknown.
        read: No more windows will come.
        error: Why the recording cannot be used.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.expected = self.total = 0
        self.read = False
        self.error = ""
        self._samples = 0
        self._bounds: list[tuple[int, int]] = []
        self._values: list[Values] = []

    @property
    def complete(self) -> bool:
        """Whether all of it was read and computed."""
        return self.read and len(self._values) == self.expected

    @property
    def share(self) -> float:
        """Computed share of its windows, below 1; 0 if their number is unknown."""
        return min(0.99, len(self._values) / self.total) if self.total else 0.0

    def note_length(self, window: Window) -> None:
        """Counts a window's samples, also where it is too short for the model."""
        self._samples = max(self._samples, window.stop)

    def finish(self, too_short: str) -> None:
        """Marks the end of the recording; without a window, it is ``too_short``."""
        self.read = True
        if not self.expected and not self.error:
            self.error = f"{self.name}: {too_short}"

    def add(self, window: Window, row: Values) -> None:
        """Adds the values of one window."""
        self._bounds.append((window.start, window.stop))
        self._values.append(row)

    def result(self, rate_hz: int) -> Windows:
        """Returns all windows; none where the recording has an error."""
        if not self.error and not np.isfinite(self._values).all():
            self.error = f"{self.name}: the model's output is not finite"
        keep = not self.error
        bounds = np.array(self._bounds if keep else [], dtype=np.float64).reshape(-1, 2) / rate_hz
        values = np.array(self._values if keep else [], dtype=np.float32)
        seconds = self._samples / rate_hz if keep else 0.0
        return Windows(self.name, bounds[:, 0], bounds[:, 1], values, seconds, self.error)


@dataclass(frozen=True)
class WindowRunner:
    """Computes values for the windows of recordings.

    Attributes:
        run: The model and its feature extractor.
        precision: ``fp32`` or ``bf16``.
        rule: How recordings are cut.
        compute: (S, V) values of a packed batch of S windows.

    Raises:
        UsageError: The model does not take windows of that length.
    """

    run: LoadedRun
    precision: str
    rule: WindowRule
    compute: Compute

    def __post_init__(self) -> None:
        window_samples(self.run, self.rule)

    def values(
        self, recordings: Sequence[Recording], progress: Progress, between: Callable[[], None]
    ) -> Iterator[Windows]:
        """Yields the values of each recording's windows, in the order of the recordings.

        Args:
            recordings: The recordings.
            progress: Where to show a bar.
            between: Called before each batch; may raise ``Stopped``.
        """
        rate_hz = self.run.feature_extractor.fbank.sample_rate_hz
        size, hop = window_samples(self.run, self.rule)
        waiting = [_Collected(name_of(recording)) for recording in recordings]
        if self.rule.window_s:  # a long job announces its size
            for item, recording in zip(waiting, recordings, strict=True):
                item.total = num_windows(recording, rate_hz, size, hop)
            total = sum(item.total for item in waiting)
            progress.log(f"{total:,} windows of {self.rule.window_s:g} s")
        ready = done = 0
        shown = 0.0
        with progress.task("recordings", len(recordings)) as bar:
            for batch in self._batches(recordings, waiting):
                between()
                self._run(batch)
                done += len(batch)
                while ready < len(waiting) and waiting[ready].complete:
                    yield waiting[ready].result(rate_hz)
                    waiting[ready] = _Collected("")  # frees the values, which the caller has now
                    ready += 1
                now = ready + (waiting[ready].share if ready < len(waiting) else 0.0)
                bar.advance(max(0.0, now - shown), f"{done:,} windows")
                shown = max(shown, now)

    def _batches(
        self, recordings: Sequence[Recording], waiting: Sequence[_Collected]
    ) -> Iterator[Batch]:
        """Windows of neighbouring recordings, up to ``MAX_TOKENS`` tokens together."""
        fbank, spec = self.run.feature_extractor.fbank, self.run.pack_spec
        rate_hz, (size, hop) = fbank.sample_rate_hz, window_samples(self.run, self.rule)
        batch: Batch = []
        tokens = 0
        for recording, item in zip(recordings, list(waiting), strict=True):
            item.total = item.total or num_windows(recording, rate_hz, size, hop)
            try:
                for window in windows(recording, rate_hz, size, hop):
                    item.note_length(window)
                    example = self._example(window, item.name)
                    if example is None:
                        continue
                    needed = math.prod(spec.grid(*example.fbank.shape))
                    if batch and tokens + needed > MAX_TOKENS:
                        yield batch
                        batch, tokens = [], 0
                    batch.append((item, window, example))
                    item.expected += 1
                    tokens += needed
            except AudioError as error:
                item.error = error.message
            item.finish(f"is shorter than one frame ({fbank.window_ms:g} ms)")
        yield batch

    def _example(self, window: Window, name: str) -> Example | None:
        """The window as a spectrogram; None where it is shorter than one frame."""
        extractor = self.run.feature_extractor
        frames = extractor.num_frames(len(window.waveform))
        if not frames:
            return None
        targets = torch.zeros(len(self.run.label_names))
        crop = extractor.crop(0, frames)
        found = extractor.frames(window.waveform)[: crop.num_frames]
        fbank = extractor.spectrogram(found, crop).computed()
        return Example(fbank, targets, name, extractor.shift_ms)

    def _run(self, batch: Batch) -> None:
        if not batch:
            return
        model = self.run.model
        packed = collate([[example for _, _, example in batch]], self.run.pack_spec)
        with torch.inference_mode():
            values = run_batch(self.compute, packed, model, self.precision)
        for (item, window, _), row in zip(batch, values, strict=True):
            item.add(window, row)


def longest_samples(run: LoadedRun) -> int:
    """Returns the most samples that the model takes in one piece."""
    return run.feature_extractor.fbank.samples_for(run.feature_extractor.length.most_frames)


def window_samples(run: LoadedRun, rule: WindowRule) -> tuple[int, int]:
    """Returns (samples of a window, samples between windows).

    Raises:
        UsageError: The model does not take windows of that length.
    """
    fbank, longest = run.feature_extractor.fbank, longest_samples(run)
    rate_hz = fbank.sample_rate_hz
    if not rule.window_s:
        return longest, longest
    size = round(rule.window_s * rate_hz)
    if not fbank.window_samples <= size <= longest:
        raise UsageError(
            f"a window of {rule.window_s:g} s is outside what the model takes "
            f"({fbank.window_samples / rate_hz:g} to {rounded_down(longest / rate_hz, 2)} s)",
            "choose another --window, or 0 for as long as possible",
        )
    return size, max(1, round((rule.hop_s or rule.window_s) * rate_hz))
