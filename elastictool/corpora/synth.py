"""Renders a corpus from a seed, without download: event sequences for which length matters.

Fourteen classes of sound events in clips of 1 to 10 s with a long tail. Trains of equal events
(sweeps, swelling noises) begin anywhere in the first 60 % of their clip; patterns (the order of
two events, a number of pulses, a rhythm, a melody) span most of it. Pitch, timbre, level and
background noise are drawn afresh for every clip, and the classes of one family share their
sounds, so the mean spectrum identifies the family at best: a linear probe on it reaches about half.

What it can show: that the whole path from audio to result works, that a model uses the order of
frames, and that evidence which is cut off is missed. What it cannot show: anything about real
sound. Its noise is stationary, its events are clean, its classes balanced; a ranking of models
here is no prediction for speech, music or field recordings.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from elastictool.corpora.base import CORPORA, Corpus, CorpusOptions, Listing, SourceClip
from elastictool.utils.errors import UsageError
from elastictool.utils.io import as_argument

SAMPLE_RATE_HZ = 16_000
SIZES = {"train": 900, "val": 150, "test": 200}
"""Clips per split; clips are numbered through, and their classes take turns."""

_RAMP_S = 0.005


@dataclass(frozen=True)
class Event:
    """One sound of a score.

    ``pitch_hz`` is a tone's frequency, or the lowest one of a noise. ``glide`` is a tone's last
    frequency over its first, in octaves; ``swell`` the gain in nepers from begin to end.
    """

    pitch_hz: float
    noise: bool = False
    start_s: float = 0.0
    duration_s: float = 0.0
    glide: float = 0.0
    swell: float = 0.0

    @property
    def stop_s(self) -> float:
        """End of the event in the clip."""
        return self.start_s + self.duration_s

    def at(self, start_s: float, duration_s: float) -> Event:
        """Returns the same sound at another time."""
        return dataclasses.replace(self, start_s=float(start_s), duration_s=float(duration_s))


@dataclass(frozen=True)
class Score:
    """The events of a clip, before rendering."""

    label: str
    duration_s: float
    events: tuple[Event, ...]


Composer = Callable[[np.random.Generator, float], Sequence[Event]]


def _window(rng: np.random.Generator, duration_s: float) -> tuple[float, float]:
    """Draws the span of a pattern: it starts in the first sixth and ends in the last."""
    return rng.uniform(0.02, 0.15) * duration_s, rng.uniform(0.85, 0.98) * duration_s


def _train(shape: Event, rng: np.random.Generator, duration_s: float) -> Sequence[Event]:
    """Composes events like ``shape``, one after the other, from somewhere to the clip's end."""
    length_s = rng.uniform(0.3, 0.4)
    begin_s = rng.uniform(0, 0.6) * duration_s
    count = int((duration_s - begin_s) / length_s)
    return [shape.at(begin_s + number * length_s, length_s) for number in range(count)]


def _order(
    first: Event, second: Event, rng: np.random.Generator, duration_s: float
) -> Sequence[Event]:
    """Composes two adjacent events; the second lies in the last 60 % of the clip."""
    change_s = rng.uniform(0.42, 0.6) * duration_s
    before_s, after_s = rng.uniform(0.25, 0.38, size=2) * duration_s
    return [first.at(change_s - before_s, before_s), second.at(change_s, after_s)]


def _pulses(count: int, rng: np.random.Generator, duration_s: float) -> Sequence[Event]:
    """Composes ``count`` noise bursts, unevenly spread over the clip."""
    begin_s, end_s = _window(rng, duration_s)
    times = np.linspace(0, 1, count + 1)[:-1] + rng.uniform(0, 0.4, size=count) / count
    length_s = rng.uniform(0.04, 0.08)
    return [_CLICK.at(begin_s + t * (end_s - begin_s), length_s) for t in times]


def _rhythm(
    last_gap_over_first: float, rng: np.random.Generator, duration_s: float
) -> Sequence[Event]:
    """Composes six short tones whose gaps grow or shrink by a constant factor."""
    begin_s, end_s = _window(rng, duration_s)
    gaps = last_gap_over_first ** np.linspace(0, 1, 5)
    times = np.concatenate([[0.0], np.cumsum(gaps)]) / gaps.sum()
    length_s = rng.uniform(0.03, 0.05)
    return [_BLIP.at(begin_s + t * (end_s - begin_s - 0.05), length_s) for t in times]


def _melody(ranks: Sequence[int], rng: np.random.Generator, duration_s: float) -> Sequence[Event]:
    """Composes four tones of fixed pitches; ``ranks`` is their order from low to high."""
    begin_s, end_s = _window(rng, duration_s)
    step_s = (end_s - begin_s) / len(ranks)
    return [
        Event(500.0 * 2.0 ** (0.5 * rank)).at(begin_s + step * step_s, step_s)
        for step, rank in enumerate(ranks)
    ]


_CLICK = Event(1000.0, noise=True)
_BLIP = Event(900.0)
_TONE = Event(2200.0)
_HISS = Event(1500.0, noise=True)

COMPOSERS: dict[str, Composer] = {
    "sweep-up": partial(_train, Event(400.0, glide=2.0)),
    "sweep-down": partial(_train, Event(400.0 * 2**2.0, glide=-2.0)),
    "swell": partial(_train, Event(2000.0, noise=True, swell=5.0)),
    "fade": partial(_train, Event(2000.0, noise=True, swell=-5.0)),
    "tone-hiss": partial(_order, _TONE, _HISS),
    "hiss-tone": partial(_order, _HISS, _TONE),
    "pulses-2": partial(_pulses, 2),
    "pulses-6": partial(_pulses, 6),
    "rhythm-regular": partial(_rhythm, 1.0),
    "rhythm-accelerating": partial(_rhythm, 0.2),
    "melody-rising": partial(_melody, (0, 1, 2, 3)),
    "melody-falling": partial(_melody, (3, 2, 1, 0)),
    "melody-arch": partial(_melody, (0, 2, 3, 1)),
    "melody-valley": partial(_melody, (3, 1, 0, 2)),
}
"""The classes, in order, and how a score of each is written."""


def compose(seed: int, index: int) -> Score:
    """Returns the score of clip ``index``; classes take turns."""
    rng = np.random.default_rng([seed, index, 0])
    label = list(COMPOSERS)[index % len(COMPOSERS)]
    duration_s = float(np.clip(rng.lognormal(math.log(1.5), 0.6), 1.0, 10.0))
    return Score(label, duration_s, tuple(COMPOSERS[label](rng, duration_s)))


def render(seed: int, index: int) -> NDArray[np.float32]:
    """Returns the (n,) waveform of clip ``index``, in -1..1 at 16 kHz.

    All events of a clip share a factor on frequencies, the amplitudes of a tone's harmonics and the
    spectral slope of noises (power over frequency, exponent).
    """
    score = compose(seed, index)
    rng = np.random.default_rng([seed, index, 1])
    partials = rng.uniform(0.1, 0.4) ** np.arange(2)
    partials /= np.sqrt(np.square(partials).sum() / 2)
    transposition = float(2.0 ** rng.uniform(-0.1, 0.1))
    tilt = float(rng.uniform(-1.0, 0.0))
    rng.uniform(4.0, 8.0)  # not used: without it all clips would change
    waveform = np.zeros(round(score.duration_s * SAMPLE_RATE_HZ))
    for event in score.events:
        start, size = (round(s * SAMPLE_RATE_HZ) for s in (event.start_s, event.duration_s))
        pitch_hz, time_s = event.pitch_hz * transposition, np.arange(size) / SAMPLE_RATE_HZ
        if event.noise:
            sound = _coloured_noise(rng, size, pitch_hz, tilt)
        else:
            octaves = event.glide * time_s / event.duration_s
            phase = np.cumsum(2 * np.pi * pitch_hz * np.exp2(octaves) / SAMPLE_RATE_HZ)
            sound = np.zeros_like(phase)
            for harmonic, amplitude in enumerate(partials, start=1):
                sound += amplitude * np.sin(harmonic * phase)
        sound = (sound * _envelope(event, time_s))[: len(waveform) - start]
        waveform[start : start + len(sound)] += sound
    level = 10.0 ** (-rng.choice((42.0, 36.0, 30.0)) / 20)
    background = _coloured_noise(rng, len(waveform), 0.0, rng.uniform(-1.0, 0.0))
    waveform += level * background
    peak = rng.uniform(0.3, 0.8)
    scaled: NDArray[np.float32] = (waveform * (peak / np.abs(waveform).max())).astype(np.float32)
    return scaled


def _envelope(event: Event, time_s: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the gain over time: short ramps at both ends, and the event's swell."""
    left_s = event.duration_s - time_s
    envelope = np.clip(np.minimum(time_s, left_s) / _RAMP_S, 0.0, 1.0)
    if event.swell:
        rest_s = left_s if event.swell > 0 else time_s
        envelope *= np.exp(-abs(event.swell) * rest_s / event.duration_s)
    return envelope


def _coloured_noise(
    rng: np.random.Generator, size: int, lowest_hz: float, tilt: float
) -> NDArray[np.float64]:
    """Returns Gaussian noise (RMS 1) with power ~ frequency ** tilt above ``lowest_hz``."""
    padded = 1 << max(8, (size - 1).bit_length())
    spectrum = np.fft.rfft(rng.standard_normal(padded))
    frequency_hz = np.fft.rfftfreq(padded, 1 / SAMPLE_RATE_HZ)
    gain = np.maximum(frequency_hz, 50.0) ** (tilt / 2) * (frequency_hz >= lowest_hz)
    noise: NDArray[np.float64] = np.fft.irfft(spectrum * gain, padded)[:size]
    noise /= np.sqrt(np.mean(np.square(noise)))
    return noise


class Synth(Corpus):
    """Lists and renders the clips; the seed is in each clip's path."""

    name = "synth"

    def describe(self) -> str:
        """Returns the note that nothing has to be downloaded."""
        return (
            f"{sum(SIZES.values()):,} rendered clips of {len(COMPOSERS)} classes, 1 to 10 s; "
            "nothing to download.\n--seed draws another corpus, --limit a smaller one."
        )

    def resolve_root(self, root: Path | None) -> Path:
        """Returns no folder: the clips are rendered.

        Raises:
            UsageError: A root is given.
        """
        if root is not None:
            raise UsageError(
                f"--root {root}: synth renders its clips and reads none",
                f"did you mean --dataset folder --root {as_argument(root)}? (csv for a table, json "
                "for lists of the AST repositories, or a corpus by its name)",
            )
        return Path()

    def find_clips(self, root: Path, options: CorpusOptions) -> Listing:
        """Lists all clips of the seed; labels in the order of ``COMPOSERS``."""
        clips: list[SourceClip] = []
        for split, size in SIZES.items():
            for index in range(len(clips), len(clips) + size):
                label = list(COMPOSERS)[index % len(COMPOSERS)]
                path = f"synth:{options.seed}:{index}"
                clips.append(SourceClip(f"{split}-{index:04d}", path, None, None, (label,), split))
        return Listing("synth", root, clips, list(COMPOSERS), expected=dict(SIZES))

    def read(self, clip: SourceClip) -> tuple[NDArray[np.float32], int]:
        """Renders ``clip``."""
        _, seed, index = clip.path.split(":")
        return render(int(seed), int(index)), SAMPLE_RATE_HZ


CORPORA.register("synth")(Synth())
