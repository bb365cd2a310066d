"""Run the windows of many recordings through a model, batch by batch.

Windows of neighbouring recordings share a batch; packing changes no result. The values of a
recording's windows are collected until all are there, and recordings come out in their order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

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
from elastictool.utils.text import counted

MAX_TOKENS = 8_192
"""Most tokens of a batch, unless one window alone has more."""
Compute = Callable[[PackedBatch], Tensor]


@dataclass
class _Collected:
    """The values of one recording's windows so far.

    Attributes:
        name: The recording.
        total: Windows that its header promises; 0 if unknown.
        expected: Windows that were cut so far.
        samples: Samples that were read so far, also those too few for a window.
        read: No more windows will come.
        error: Why the recording cannot be used.
        bounds: First sample of each computed window, and the sample after its last.
        values: The values of each.
        losses: What of it was not read.
    """

    name: str
    total: int = 0
    expected: int = 0
    samples: int = 0
    read: bool = False
    error: str = ""
    bounds: list[tuple[int, int]] = field(default_factory=list)
    values: list[Values] = field(default_factory=list)
    losses: dict[str, int] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether all its windows were read and computed."""
        return self.read and len(self.values) == self.expected

    @property
    def share(self) -> float:
        """Computed share of its windows, below 1; 0 if their number is unknown."""
        return min(0.99, len(self.values) / self.total) if self.total else 0.0

    def result(self, rate_hz: int) -> Windows:
        """Returns all windows; none where the recording has an error."""
        if not self.error and not np.isfinite(self.values).all():
            self.error = f"{self.name}: the model's output is not finite"
        if self.error:
            self.bounds, self.values, self.samples = [], [], 0
        bounds = np.array(self.bounds, dtype=np.float64).reshape(-1, 2) / rate_hz
        values = np.array(self.values, dtype=np.float32)
        seconds = self.samples / rate_hz
        starts_s, stops_s = bounds[:, 0], bounds[:, 1]
        return Windows(self.name, starts_s, stops_s, values, seconds, self.error, self.losses)


Batch = list[tuple[_Collected, Window, Example]]
"""Windows with the recordings that they belong to and their spectrograms."""


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
            progress.log(f"{counted(total, 'window')} of {self.rule.window_s:g} s")
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
                bar.advance(max(0.0, now - shown), counted(done, "window"))
                shown = max(shown, now)

    def _run(self, batch: Batch) -> None:
        if not batch:  # the last, where no recording has a window
            return
        packed = collate([[example for *_, example in batch]], self.run.pack_spec)
        with torch.inference_mode():
            values = run_batch(self.compute, packed, self.run.model, self.precision)
        for (item, window, _), row in zip(batch, values, strict=True):
            item.bounds.append((window.start, window.stop))
            item.values.append(row)

    def _batches(
        self, recordings: Sequence[Recording], waiting: Sequence[_Collected]
    ) -> Iterator[Batch]:
        """Yields windows of neighbouring recordings, up to ``MAX_TOKENS`` tokens together."""
        extractor, spec = self.run.feature_extractor, self.run.pack_spec
        rate_hz, (size, hop) = extractor.fbank.sample_rate_hz, window_samples(self.run, self.rule)
        targets = torch.zeros(len(self.run.label_names))
        batch: Batch = []
        tokens = 0
        for recording, item in zip(recordings, list(waiting), strict=True):
            item.total = item.total or num_windows(recording, rate_hz, size, hop)
            try:
                for window in windows(recording, rate_hz, size, hop, item.losses):
                    item.samples = max(item.samples, window.stop)
                    if not (frames := extractor.num_frames(len(window.waveform))):
                        continue
                    crop = extractor.crop(0, frames)
                    found = extractor.frames(window.waveform)[: crop.num_frames]
                    fbank = extractor.spectrogram(found, crop).computed()
                    needed = math.prod(spec.grid(*fbank.shape))
                    if batch and tokens + needed > MAX_TOKENS:
                        yield batch
                        batch, tokens = [], 0
                    example = Example(fbank, targets, item.name, extractor.shift_ms)
                    batch.append((item, window, example))
                    item.expected += 1
                    tokens += needed
            except AudioError as error:
                item.error = error.message
            item.read = True
            if not item.expected and not item.error:
                window_ms = extractor.fbank.window_ms
                item.error = f"{item.name}: is shorter than one frame ({window_ms:g} ms)"
        yield batch


def longest_samples(run: LoadedRun) -> int:
    """Returns the samples of the model's longest input."""
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
