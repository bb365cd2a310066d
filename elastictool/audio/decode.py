"""Audio in and out: whole files or parts of them, any rate, 16-bit bytes for the store.

libsndfile reads wav, flac, ogg and more without a subprocess and seeks to any sample. Whatever
is wrong with a file becomes one ``AudioError`` that says what and where, because ``prep`` writes
these sentences into ``rejected.csv`` and goes on. A cut-off wav decodes without complaint, hence
its header is compared with its size here.
"""

from __future__ import annotations

import io
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from elastictool.errors import AudioError, UsageError

Waveform = npt.NDArray[np.float32]
Samples = npt.NDArray[np.float32] | npt.NDArray[np.int16]

_QUALITY = "HQ"
RESAMPLER = f"soxr {_QUALITY}"
"""Library and quality that ``resample`` uses; recorded with prepared data."""

_FULL_SCALE = 32_768.0
_SIXTEEN_BIT = "PCM_16"
_UNKNOWN_SIZE = 0xFFFFFFFF
"""What programs that write into a pipe put where a wav's length belongs."""


@dataclass(frozen=True)
class AudioInfo:
    """What the header of an audio file says."""

    num_samples: int
    sample_rate_hz: int
    channels: int


def probe(source: Path | bytes) -> AudioInfo:
    """Length, rate and channels, without decoding.

    Raises:
        AudioError: Unreadable, not audio, empty, or a wav that is cut off.
    """
    with _open(source) as file:
        return AudioInfo(file.frames, file.samplerate, file.channels)


def decode(
    source: Path | bytes, start: int = 0, stop: int | None = None, channel: str | int = "mean"
) -> tuple[Waveform, int]:
    """Samples ``start`` to ``stop`` of one channel, at the file's own rate.

    Args:
        source: A file, or its bytes.
        start: First sample, at the file's rate.
        stop: Sample after the last; None, or beyond the end, reads to the end.
        channel: ``mean`` over all, ``mono`` (there must be only one) or a number from 0.

    Returns:
        (n,) float32 in -1..1, and the sample rate in Hz.

    Raises:
        AudioError: Unreadable, not audio, empty, cut off, not finite, no such channel, or
            nothing lies between ``start`` and ``stop``.
        UsageError: ``channel`` is none of the above.
    """
    name = _name(source)
    with _open(source) as file:
        rate = int(file.samplerate)
        holds_integers = file.subtype.startswith("PCM")
        samples = _read(file, start, stop, name)
    waveform = _to_float(_pick_channels(samples, channel, name))
    if not holds_integers:
        _check_finite(waveform, start, name)
    return waveform, rate


def resample(waveform: Waveform, from_hz: int, to_hz: int) -> Waveform:
    """(n,) samples at ``from_hz`` to (round(n * to_hz / from_hz),) at ``to_hz``."""
    if from_hz == to_hz:
        return waveform
    resampled: Waveform = soxr.resample(waveform, from_hz, to_hz, quality=_QUALITY)
    return resampled


def encode(waveform: Waveform, sample_rate_hz: int, encoding: Literal["flac", "wav"]) -> bytes:
    """The bytes of a 16-bit mono file; values outside -1..1 are clipped.

    What 16-bit audio decodes to is encoded without loss.
    """
    scaled = np.rint(np.multiply(waveform, _FULL_SCALE, dtype=np.float32))
    integers = np.clip(scaled, -_FULL_SCALE, _FULL_SCALE - 1).astype(np.int16)
    buffer = io.BytesIO()
    soundfile.write(buffer, integers, sample_rate_hz, format=encoding.upper(), subtype=_SIXTEEN_BIT)
    return buffer.getvalue()


def _name(source: Path | bytes) -> str:
    return str(source) if isinstance(source, Path) else f"<{len(source)} bytes in memory>"


def _open(source: Path | bytes) -> soundfile.SoundFile:
    name = _name(source)
    try:
        with source.open("rb") if isinstance(source, Path) else io.BytesIO(source) as raw:
            _check_complete(raw, name)
    except OSError as error:
        raise AudioError(f"{name}: cannot be read ({error.strerror})") from error
    try:
        file = soundfile.SoundFile(source if isinstance(source, Path) else io.BytesIO(source))
    except soundfile.LibsndfileError as error:
        raise AudioError(f"{name}: not readable as audio ({error.error_string})") from error
    except TypeError as error:  # soundfile wants to be told the rate of a file named *.raw
        raise AudioError(f"{name}: not readable as audio (raw samples, no header)") from error
    if file.frames == 0:
        file.close()
        raise AudioError(f"{name}: holds no samples")
    return file


def _check_complete(raw: io.BufferedReader | io.BytesIO, name: str) -> None:
    """Compare the size that a wav promises with the file's; other formats pass if not empty."""
    size = raw.seek(0, os.SEEK_END)
    raw.seek(0)
    if size == 0:
        raise AudioError(f"{name}: the file is empty (0 bytes)")
    header = raw.read(12)
    if header[:4] != b"RIFF" or header[8:] != b"WAVE":
        return
    while len(chunk := raw.read(8)) == 8:
        kind, length = struct.unpack("<4sI", chunk)
        if kind == b"data":
            present = size - raw.tell()
            if length != _UNKNOWN_SIZE and length > present:
                raise AudioError(f"{name}: truncated ({present} of {length} bytes of audio)")
            return
        raw.seek(length + length % 2, os.SEEK_CUR)


def _read(file: soundfile.SoundFile, start: int, stop: int | None, name: str) -> Samples:
    """(n, channels) of the part that is asked for; int16 where the file holds that."""
    end = file.frames if stop is None else min(stop, file.frames)
    if not 0 <= start < end:
        asked = f"samples {start} to {'the end' if stop is None else stop}"
        raise AudioError(f"{name}: {asked} were asked for, but it holds {file.frames}")
    dtype = "int16" if file.subtype == _SIXTEEN_BIT else "float32"
    try:
        if start:
            file.seek(start)
        samples: Samples = file.read(end - start, dtype=dtype, always_2d=True)
    except soundfile.LibsndfileError as error:
        raise AudioError(f"{name}: damaged or truncated ({error.error_string})") from error
    if len(samples) < end - start:
        raise AudioError(f"{name}: truncated ({start + len(samples)} of {file.frames} samples)")
    return samples


def _pick_channels(samples: Samples, channel: str | int, name: str) -> Samples:
    """The wanted columns of (n, channels)."""
    count = samples.shape[1]
    if channel == "mono" and count != 1:
        raise AudioError(f"{name}: has {count} channels, but mono was asked for")
    if channel in ("mean", "mono"):
        return samples
    try:
        number = int(channel)
    except ValueError as error:
        raise UsageError(f"channel {channel!r} is not mean, mono or a number") from error
    if not 0 <= number < count:
        raise AudioError(f"{name}: has no channel {number} ({count} channels, counted from 0)")
    return samples[:, number : number + 1]


def _to_float(samples: Samples) -> Waveform:
    """(n, channels) to the mean over channels; int16 is scaled as libsndfile does, only faster."""
    scale = np.float32(1 / _FULL_SCALE if samples.dtype == np.int16 else 1)
    scaled: Waveform = np.multiply(samples, scale, dtype=np.float32)
    return scaled[:, 0] if scaled.shape[1] == 1 else scaled.mean(axis=1, dtype=np.float32)


def _check_finite(waveform: Waveform, start: int, name: str) -> None:
    bad = np.flatnonzero(~np.isfinite(waveform))
    if bad.size:
        raise AudioError(
            f"{name}: {bad.size} samples are NaN or infinite, the first is {start + int(bad[0])}"
        )
