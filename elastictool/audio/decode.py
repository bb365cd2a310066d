"""Decodes, resamples and encodes audio: whole files or parts, any rate, 16-bit bytes for the store.

The first bytes of a file choose its decoder, never its name (``_open_by_content``). Whatever is
wrong with a file becomes one ``AudioError`` that says what and where, because ``prep`` writes these
sentences into ``rejected.csv`` and continues. Long recordings pass in blocks (``stream``,
``resample_blocks``, ``encode_blocks``); the functions on whole clips are the same with one block.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain
from typing import BinaryIO, Literal

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from elastictool.audio.completeness import check_complete
from elastictool.audio.formats import HEAD_BYTES, Format, sniff
from elastictool.audio.hdf5 import open_array
from elastictool.audio.pyav import open_av
from elastictool.audio.reader import (
    AudioInfo,
    AudioReader,
    Samples,
    Source,
    UnknownContent,
    describe,
    opened,
    place_of,
)
from elastictool.audio.sndfile import open_sndfile
from elastictool.utils.errors import AudioError, ElasticToolError, UsageError
from elastictool.utils.optional import describe_error

Waveform = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int16]
Encoding = Literal["flac", "wav"]

_QUALITY = "HQ"
RESAMPLER = f"soxr {_QUALITY}"
"""Library and quality that ``resample`` uses; recorded with prepared data."""

_FULL_SCALE = 32_768.0
_LOUDEST = 256.0
"""Floats beyond this multiple of full scale are integers that were stored as floats."""
_RATES_HZ = (100, 10_000_000)
"""Lowest and highest sample rate that is believed: hydrophones for whales use hundreds of Hz,
those for bats and dolphins up to a few MHz."""
_AT_ONCE = 1 << 18


def probe(source: Source) -> AudioInfo:
    """Returns length, rate and channels, without decoding where the file states its length.

    Raises:
        AudioError: Unreadable, not audio, empty, cut off, or its decoder is not installed.
    """
    with recording(source) as found:
        return found.info


def decode(
    source: Source, start: int = 0, stop: int | None = None, channel: str | int = "mean"
) -> tuple[Waveform, int]:
    """Decodes samples ``start`` to ``stop`` of one channel, at the file's own rate.

    Args:
        source: A file, its bytes, or an open file.
        start: First sample, at the file's rate.
        stop: Sample after the last; None, or beyond the end, reads to the end.
        channel: ``mean`` over all, ``mono`` (there must be only one) or a number from 0.

    Returns:
        (n,) float32 in -1..1, and the sample rate in Hz.

    Raises:
        AudioError: Unreadable, not audio, empty, cut off, not finite, no such channel, nothing
            lies between ``start`` and ``stop``, or its decoder is not installed.
        UsageError: ``channel`` is none of the above.
    """
    with stream(source, start, stop, channel) as (rate_hz, blocks):
        parts = list(blocks)
    return (parts[0] if len(parts) == 1 else np.concatenate(parts)), rate_hz


@contextmanager
def stream(
    source: Source, start: int = 0, stop: int | None = None, channel: str | int = "mean"
) -> Iterator[tuple[int, Iterator[Waveform]]]:
    """Like ``decode``, but gives (rate, blocks): one block at a time is in memory.

    Errors that only show while decoding are raised by the blocks.
    """
    with recording(source) as found:
        yield found.sample_rate_hz, found.blocks(start, stop, channel)


class Recording:
    """An opened recording: its header, and its samples as ``stream`` gives them.

    Raises:
        AudioError: Its sample rate is none that a recorder has.
    """

    def __init__(self, reader: AudioReader, name: str) -> None:
        self._reader, self._name = reader, name
        self.sample_rate_hz = reader.sample_rate_hz
        if not _RATES_HZ[0] <= self.sample_rate_hz <= _RATES_HZ[1]:
            raise AudioError(f"{name}: a sample rate of {self.sample_rate_hz} Hz is not audio")

    @property
    def info(self) -> AudioInfo:
        """Its length, rate and channels; see ``probe``."""
        reader = self._reader
        with _refused(self._name):
            return AudioInfo(reader.num_samples, reader.sample_rate_hz, reader.channels)

    @property
    def damaged_packets(self) -> int:
        """Packets that could not be decoded, in the blocks given so far; they became silence."""
        return self._reader.damaged_packets

    def blocks(
        self, start: int = 0, stop: int | None = None, channel: str | int = "mean"
    ) -> Iterator[Waveform]:
        """Gives samples ``start`` to ``stop`` of one channel, in blocks; call it once.

        Raises:
            AudioError: Nothing lies between ``start`` and ``stop``.
        """
        if start or stop is not None:
            stop = _checked_stop(self.info.num_samples, start, stop, self._name)
        return _waveforms(self._reader, start, stop, channel, self._name)


@contextmanager
def recording(source: Source) -> Iterator[Recording]:
    """Opens ``source`` once, to look at its header and then read some of it.

    Raises:
        AudioError: As ``probe``.
    """
    name = describe(source)
    with ExitStack() as stack:
        with _refused(name):
            found = Recording(_open_by_content(stack, source, name), name)
        yield found


@contextmanager
def _refused(name: str) -> Iterator[None]:
    """Turns whatever a decoder raises into the reason why this one file is refused."""
    try:
        yield
    except ElasticToolError:
        raise
    except Exception as error:
        raise AudioError(f"{name}: cannot be decoded ({describe_error(error)})") from error


def resample(waveform: Waveform, from_hz: float, to_hz: int) -> Waveform:
    """Resamples (n,) samples at ``from_hz`` to (round(n * to_hz / from_hz),) at ``to_hz``."""
    if from_hz == to_hz:
        return waveform
    resampled: Waveform = soxr.resample(waveform, from_hz, to_hz, quality=_QUALITY)
    return resampled


def resample_blocks(
    blocks: Iterable[Waveform],
    from_hz: float,
    to_hz: int,
    over: Callable[[float], None] = lambda peak: None,
) -> Iterator[Waveform]:
    """Resamples ``blocks`` as one waveform, block by block, and rounds to 16 bits.

    A single block is resampled in one piece, so ``prep`` and ``predict`` get the same samples of a
    clip. Both clip to full scale (floats may go beyond it, and resampling overshoots) and round to
    16 bits here, so that a model predicts on the samples that it would have been trained on: in
    bands without sound, log-mel values show nothing but the rounding.

    Args:
        blocks: (n,) samples.
        from_hz: Their rate.
        to_hz: The wanted rate.
        over: Receives the largest absolute value of each block that was clipped.

    Raises:
        AudioError: Values are so far beyond full scale that they are no audio in -1..1.
    """
    for block in _resampled(blocks, from_hz, to_hz):
        peak = max(float(block.max()), -float(block.min())) if len(block) else 0.0
        if peak > _LOUDEST:
            raise AudioError(
                f"holds floats of up to {peak:,.0f}, where full scale is 1: divide them by 32,768 "
                "if they are 16-bit integers"
            )
        if peak > 1.0:
            over(peak)
        yield waveform_of(_to_integers(block))


def _resampled(blocks: Iterable[Waveform], from_hz: float, to_hz: int) -> Iterator[Waveform]:
    if from_hz == to_hz:
        yield from blocks
        return
    remaining = iter(blocks)
    first, second = next(remaining, None), next(remaining, None)
    if first is None:
        return
    if second is None:
        yield resample(first, from_hz, to_hz)
        return
    resampler = soxr.ResampleStream(from_hz, to_hz, 1, dtype="float32", quality=_QUALITY)
    # Pieces bound soxr's memory; the result is the same.
    for piece in _pieces(chain((first, second), remaining)):
        yield resampler.resample_chunk(piece)
    yield resampler.resample_chunk(first[:0], last=True)


def _pieces(blocks: Iterable[Waveform]) -> Iterator[Waveform]:
    """Cuts blocks into pieces of bounded size."""
    for block in blocks:
        for begin in range(0, len(block), _AT_ONCE):
            yield block[begin : begin + _AT_ONCE]


def encode(waveform: Waveform, sample_rate_hz: int, encoding: Encoding) -> bytes:
    """Returns the bytes of a 16-bit mono file; values outside -1..1 are clipped.

    Samples decoded from 16-bit audio are encoded without loss.
    """
    buffer = io.BytesIO()
    encode_blocks([waveform], sample_rate_hz, encoding, buffer)
    return buffer.getvalue()


def encode_blocks(
    blocks: Iterable[Waveform],
    sample_rate_hz: int,
    encoding: Encoding,
    file: BinaryIO,
    stored: Callable[[Integers], None] = lambda integers: None,
) -> int:
    """Writes ``blocks`` as one waveform into an open file: the same bytes as ``encode``.

    Args:
        blocks: (n,) samples.
        sample_rate_hz: Their rate.
        encoding: Of the file.
        file: The file, open for writing.
        stored: Receives, piece by piece, the samples that the file holds; ``waveform_of`` turns
            them into what decoding the file gives.

    Returns:
        Samples written.
    """
    count = 0
    with soundfile.SoundFile(
        file, "w", sample_rate_hz, 1, subtype="PCM_16", format=encoding.upper()
    ) as sound:
        for piece in _pieces(blocks):
            integers = _to_integers(piece)
            sound.write(integers)
            stored(integers)
            count += len(piece)
    return count


def _open_by_content(stack: ExitStack, source: Source, name: str) -> AudioReader:
    """Opens a recording with the decoder of its format.

    PyAV also gets what has no format's first bytes, and what libsndfile does not know inside its
    own containers (AC-3 in a wav, a flac without a length).
    """
    place, member = place_of(source)
    with opened(place, name) as raw:
        kind = _known_format(raw, name)
    if kind and kind.members:
        return stack.enter_context(open_array(source, name))
    if member:
        raise AudioError(f"{name}: cannot be read (a file is no folder)")
    reason = ""
    if kind is None or kind.decoder == "libsndfile":
        try:
            return stack.enter_context(open_sndfile(source, name))
        except UnknownContent as error:
            reason = str(error).strip().rstrip(".")
    try:
        return stack.enter_context(open_av(source, name))
    except UnknownContent as error:
        wrong = f"not readable as audio ({reason})" if reason else f"damaged or truncated ({error})"
        raise AudioError(f"{name}: {wrong}") from error


def _known_format(raw: BinaryIO, name: str) -> Format | None:
    """Returns the format by the first bytes; the whole file must be there."""
    head = raw.read(HEAD_BYTES)
    if not head:
        raise AudioError(f"{name}: the file is empty (0 bytes)")
    kind = sniff(head)
    if kind is not None:
        check_complete(raw, kind.name, name)
    return kind


def _checked_stop(length: int, start: int, stop: int | None, name: str) -> int:
    end = length if stop is None else min(stop, length)
    if not 0 <= start < end:
        asked = f"samples {start} to {'the end' if stop is None else stop}"
        raise AudioError(f"{name}: {asked} were asked for, but it holds {length}")
    return end


def _waveforms(
    reader: AudioReader, start: int, stop: int | None, channel: str | int, name: str
) -> Iterator[Waveform]:
    """Gives one channel of each block, checked."""
    at = start
    blocks = reader.blocks(start, stop)
    while True:
        with _refused(name):
            block = next(blocks, None)
        if block is None:
            return
        waveform = _to_float(_pick_channels(block, channel, name))
        if block.dtype != np.int16:
            _check_finite(waveform, at, name)
        at += len(waveform)
        yield waveform


def _pick_channels(samples: Samples, channel: str | int, name: str) -> Samples:
    """Returns the wanted columns of (n, channels)."""
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


def waveform_of(integers: Integers) -> Waveform:
    """Returns (n,) float32 in -1..1, as decoding a 16-bit file gives them."""
    return _to_float(integers[:, None])


def _to_integers(waveform: Waveform) -> Integers:
    scaled = np.multiply(waveform, _FULL_SCALE, dtype=np.float32)
    np.rint(scaled, out=scaled)
    np.clip(scaled, -_FULL_SCALE, _FULL_SCALE - 1, out=scaled)
    return scaled.astype(np.int16)


def _to_float(samples: Samples) -> Waveform:
    """Returns the mean over channels of (n, channels); scales int16 as libsndfile does, faster."""
    scale = np.float32(1 / _FULL_SCALE if samples.dtype == np.int16 else 1)
    scaled: Waveform = np.multiply(samples, scale, dtype=np.float32)
    return scaled[:, 0] if scaled.shape[1] == 1 else scaled.mean(axis=1, dtype=np.float32)


def _check_finite(waveform: Waveform, start: int, name: str) -> None:
    bad = np.flatnonzero(~np.isfinite(waveform))
    if bad.size:
        raise AudioError(
            f"{name}: {bad.size} samples are NaN or infinite, the first is {start + int(bad[0])}"
        )
