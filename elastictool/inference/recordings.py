"""Cut files, folders, patterns and arrays into windows of audio at the model's rate.

A recording is read in blocks and cut into windows on the way, so hours need no more memory than
one window. An error of one recording does not stop the others.
"""

from __future__ import annotations

import glob
import math
import os
import unicodedata
from collections.abc import Iterable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path

import numpy as np
import numpy.typing as npt

from elastictool.audio.decode import probe, resample_blocks, waveform_of
from elastictool.audio.decode import recording as open_recording
from elastictool.audio.formats import AUDIO_SUFFIXES
from elastictool.audio.reader import memory_errors
from elastictool.data.store import PreparedStore
from elastictool.utils.errors import AudioError, ElasticToolError, UsageError
from elastictool.utils.io import on_disk, walk_files

Waveform = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Array:
    """A waveform in memory as a recording.

    Attributes:
        samples: (n,), or (n, channels) as soundfile gives it, of which the mean is taken. Floats
            in -1..1, or integers, whose full range is -1..1 (unsigned ones around its middle).
        sample_rate_hz: Their rate.
        name: Its name in results.

    Raises:
        UsageError: The rate is not a number above 0.
    """

    samples: npt.NDArray[np.floating | np.integer]
    sample_rate_hz: float
    name: str = "array"

    def __post_init__(self) -> None:
        rate = self.sample_rate_hz
        if not (is_number(rate) and math.isfinite(rate) and rate > 0):
            raise UsageError(
                f"sample_rate_hz = {rate!r} is no rate in Hz",
                "for example sample_rate_hz=44_100",
            )


@dataclass(frozen=True)
class StoredClip:
    """A clip of a prepared dataset as a recording; its audio is read on demand."""

    store: PreparedStore
    clip: int

    @property
    def samples(self) -> Waveform:
        """(n,) the clip's waveform."""
        return self.store.waveform(self.clip)

    @property
    def sample_rate_hz(self) -> int:
        """Sample rate of the dataset."""
        return self.store.info.sample_rate_hz

    @property
    def name(self) -> str:
        """The clip's id."""
        return str(self.store.ids[self.clip])


Recording = str | Path | Array | StoredClip


def is_number(value: object) -> bool:
    """Returns whether ``value`` is a Python or NumPy number and no truth value."""
    return isinstance(value, Real) and not isinstance(value, bool)


def name_of(recording: Recording) -> str:
    """Returns the name of a recording in results."""
    return recording.name if isinstance(recording, (Array, StoredClip)) else str(recording)


@dataclass(frozen=True)
class Window:
    """A part of a recording.

    Attributes:
        start: First sample, at the model's rate.
        waveform: (n,) samples.
    """

    start: int
    waveform: Waveform

    @property
    def stop(self) -> int:
        """Sample after the last."""
        return self.start + len(self.waveform)


def windows(
    recording: Recording,
    rate_hz: int,
    size: int,
    hop: int,
    losses: MutableMapping[str, int] | None = None,
) -> Iterator[Window]:
    """Yields windows of ``size`` samples, ``hop`` apart; the last may be shorter.

    Every sample is in at least one window, and no window lies wholly within the one before it.

    Args:
        recording: What to cut.
        rate_hz: Sample rate of the windows.
        size: Samples of a window.
        hop: Samples from one to the next.
        losses: After the last window it holds what was not read.

    Raises:
        AudioError: The recording cannot be read.
    """
    try:
        with memory_errors(name_of(recording)):
            if isinstance(recording, (Array, StoredClip)):
                blocks = [_checked(recording)]
                yield from _cut(blocks, recording.sample_rate_hz, rate_hz, size, hop)
                return
            with open_recording(Path(recording)) as opened:
                yield from _cut(opened.blocks(), opened.sample_rate_hz, rate_hz, size, hop)
                if losses is not None:
                    losses.update(opened.losses)
    except OSError as error:
        raise AudioError(f"{recording}: {error.strerror or error}") from error
    except AudioError as error:
        name = name_of(recording)
        if error.message.startswith(name):
            raise
        raise AudioError(f"{name}: {error.message}") from error  # the resampler knows no names


def _cut(
    blocks: Iterable[Waveform], source_rate_hz: float, rate_hz: int, size: int, hop: int
) -> Iterator[Window]:
    waiting = np.empty(0, dtype=np.float32)
    start = covered = 0
    for samples, _ in resample_blocks(blocks, source_rate_hz, rate_hz):
        block = waveform_of(samples)
        waiting = np.concatenate((waiting, block)) if len(waiting) else block
        while len(waiting) >= size:
            yield Window(start, waiting[:size])
            covered = start + size
            waiting, start = waiting[hop:], start + hop
    if start + len(waiting) > covered:
        yield Window(start, waiting)


def _checked(recording: Array | StoredClip) -> Waveform:
    """Returns (n,) floats in -1..1 of a mono or (n, channels) waveform.

    Integers are scaled: int16 / 32768, and uint8 (128 is silence) as 8-bit wav has it. (channels,
    n) is refused and not turned: it might be a batch of clips.
    """
    samples, name = np.asarray(recording.samples), recording.name
    if samples.ndim == 2 and samples.shape[0] == 1:
        samples = samples[0]
    frames, channels = samples.shape if samples.ndim == 2 else (samples.size, 1)
    if not samples.size:
        raise AudioError(f"{name}: holds no samples")
    if samples.ndim not in (1, 2) or channels > frames:
        raise AudioError(
            f"{name}: a waveform is (n,) or (n, channels), not {samples.shape}; "
            "turn it (.T), or give several clips as a list"
        )
    if samples.dtype.kind not in "fiu":
        raise AudioError(f"{name}: holds {samples.dtype}, neither floats nor integers")
    if samples.dtype.kind in "iu":
        half = 2.0 ** (8 * samples.dtype.itemsize - 1)
        middle = half if samples.dtype.kind == "u" else 0.0
        samples = (samples.astype(np.float64) - middle) / half
    samples = samples.mean(axis=1) if samples.ndim == 2 else samples
    if not np.isfinite(samples).all():
        raise AudioError(f"{name}: holds values that are not finite")
    return np.ascontiguousarray(samples, dtype=np.float32)


def num_windows(recording: Recording, rate_hz: int, size: int, hop: int) -> int:
    """Returns the number of ``windows`` by the recording's header; 0 if it cannot be read."""
    found: tuple[int, float]
    if isinstance(recording, Array):
        found = max(np.shape(recording.samples), default=0), recording.sample_rate_hz
    elif isinstance(recording, StoredClip):
        found = int(recording.store.num_samples[recording.clip]), recording.sample_rate_hz
    else:
        try:
            info = probe(Path(recording))
        except (AudioError, OSError):
            return 0
        found = info.num_samples, info.sample_rate_hz
    samples = round(found[0] * rate_hz / found[1])
    whole = (samples - size) // hop + 1 if samples >= size else 0
    covered = (whole - 1) * hop + size if whole else 0
    return whole + (samples > covered)


def expand(items: Sequence[str], listed: Iterable[str] = ()) -> list[Path]:
    """Returns the files of ``items``: files, folders (all audio below them), patterns of both.

    ``-`` stands for the lines of ``listed`` (standard input). A file that does not exist stays in
    the list: it is reported with the others that cannot be read. Hidden files below a folder are
    left out, and links to folders are followed, as by ``prep``; so do folders stay that cannot be
    read.

    Raises:
        UsageError: Nothing is named, or a folder or pattern holds no audio.
    """
    paths: list[Path] = []
    for item in items:
        if item == "-":
            names = (line.rstrip("\r\n") for line in listed)  # spaces may be part of a name
            paths += [on_disk(Path(name)) for name in names if name.strip()]
        else:
            found = list(_files_of(item))
            if not found:
                raise UsageError(f"{item} holds no audio files", "check the path")
            paths += found
    if not paths:
        raise UsageError(
            "no recordings are named", "give files, folders, patterns, or - for a list on stdin"
        )
    return list(dict.fromkeys(paths))


def _files_of(item: str) -> Iterator[Path]:
    path = on_disk(Path(item))
    found = {str(path)}
    if glob.has_magic(item) and not os.path.exists(path):
        forms = {item, *(unicodedata.normalize(form, item) for form in ("NFC", "NFD"))}
        found = {match for form in forms for match in glob.glob(form, recursive=True)}
    for match in map(Path, sorted(found)):
        if os.path.isdir(match):
            try:
                for file in walk_files(match):
                    if file.fault or Path(file.path).suffix.lower() in AUDIO_SUFFIXES:
                        yield match / file.path
            except ElasticToolError:
                yield match  # its reason is shown when it is opened
        else:
            yield match
