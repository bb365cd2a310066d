"""Decodes, resamples and encodes audio: whole files or parts, any rate, 16-bit bytes for the store.

The first bytes of a file choose its decoder, never its name (``_open_by_content``). Any fault of a
file becomes one ``AudioError`` that describes and locates it, because ``prep`` writes these
sentences into ``rejected.csv`` and continues. Long recordings pass in blocks (``recording``,
``resample_blocks``); the functions on whole clips are the same with one block.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain
from typing import Literal

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from elastictool.audio.completeness import Extent, find_audio
from elastictool.audio.formats import HEAD_BYTES, sniff
from elastictool.audio.hdf5 import open_array
from elastictool.audio.pyav import open_av
from elastictool.audio.reader import (
    FULL_SCALE,
    AudioInfo,
    Recording,
    Source,
    UnknownContent,
    Waveform,
    check_rate,
    decoder_errors,
    describe,
    opened,
    part_of,
    split_member,
    to_float,
)
from elastictool.audio.sndfile import open_sndfile
from elastictool.utils.errors import AudioError

Integers = npt.NDArray[np.int16]
Encoding = Literal["flac", "wav"]

_QUALITY = "HQ"
RESAMPLER = f"soxr {_QUALITY}"
"""Library and quality that ``resample`` uses; recorded with prepared data."""

_LOUDEST = 256.0
"""Floats beyond this multiple of full scale are integers that were stored as floats."""
_AT_ONCE = 1 << 18
_WHOLE = 1 << 22
"""Samples, before or after, up to which a single block is resampled at once."""


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
    with recording(source) as found:
        parts = list(found.blocks(start, stop, channel))
        return (parts[0] if len(parts) == 1 else np.concatenate(parts)), found.sample_rate_hz


@contextmanager
def recording(source: Source) -> Iterator[Recording]:
    """Opens ``source`` once, to look at its header and then read some of it in blocks.

    Raises:
        AudioError: As ``probe``; what shows only while decoding is raised by the blocks.
    """
    name = describe(source)
    with ExitStack() as stack:
        with decoder_errors(name):
            found = _open_by_content(stack, source, name)
        yield found


def _open_by_content(stack: ExitStack, source: Source, name: str) -> Recording:
    """Opens a recording with the decoder of its format.

    PyAV also gets what has no format's first bytes, and what libsndfile does not know inside its
    own containers (AC-3 in a wav, a flac without a length).
    """
    file, member = split_member(source)
    raw = stack.enter_context(opened(file, name))
    head = raw.read(HEAD_BYTES)
    if not head:
        raise AudioError(f"{name}: the file is empty (0 bytes)")
    kind = sniff(head)
    extent = find_audio(raw, kind.name, name) if kind else Extent()
    if kind and kind.members:
        return stack.enter_context(open_array(source, name))
    if member:
        raise AudioError(f"{name}: cannot be read (a file is no folder)")
    if extent.unread:  # libsndfile looks for the first chunk in a second file
        raw = part_of(raw, 0, extent.end)
    reason = ""
    found: Recording | None = None
    if kind is None or kind.decoder == "libsndfile":
        try:
            found = stack.enter_context(open_sndfile(raw, name, extent))
        except UnknownContent as error:
            reason = str(error).strip().rstrip(".")
    try:
        if found is None:
            found = stack.enter_context(open_av(raw, name))
            found.unread_bytes = extent.wrapped
    except UnknownContent as error:
        wrong = f"not readable as audio ({reason})" if reason else f"damaged or truncated ({error})"
        raise AudioError(f"{name}: {wrong}") from error
    found.unread_bytes += extent.unread
    return found


def resample(waveform: Waveform, from_hz: float, to_hz: int) -> Waveform:
    """Resamples (n,) samples at ``from_hz`` to (round(n * to_hz / from_hz),) at ``to_hz``."""
    if from_hz == to_hz:
        return waveform
    resampled: Waveform = soxr.resample(waveform, from_hz, to_hz, quality=_QUALITY)
    return resampled


def resample_blocks(
    blocks: Iterable[Waveform], from_hz: float, to_hz: int
) -> Iterator[tuple[Integers, float]]:
    """Resamples ``blocks`` as one waveform, block by block, and rounds to 16 bits.

    A single block is resampled as a whole, so ``prep`` and ``predict`` get the same samples of a
    clip. Both clip to full scale (floats may go beyond it, and resampling overshoots) and round to
    16 bits here, so that a model predicts on the samples that it would have been trained on: in
    bands without sound, log-mel values show nothing but the rounding.

    Args:
        blocks: (n,) samples.
        from_hz: Their rate.
        to_hz: The wanted rate.

    Yields:
        (n,) int16 samples (``waveform_of`` gives them as floats), and the largest absolute value
        of the block before it was clipped.

    Raises:
        AudioError: Values are so far beyond full scale that they are no audio in -1..1, or no
            recorder has such a rate.
    """
    for block in _resampled(blocks, from_hz, to_hz):
        peak = max(float(block.max()), -float(block.min())) if len(block) else 0.0
        if peak > _LOUDEST:
            raise AudioError(
                f"holds floats of up to {peak:,.0f}, where full scale is 1: divide them by 32,768 "
                "if they are 16-bit integers"
            )
        yield _to_integers(block), peak


def _resampled(blocks: Iterable[Waveform], from_hz: float, to_hz: int) -> Iterator[Waveform]:
    check_rate(from_hz)
    if from_hz == to_hz:
        yield from blocks
        return
    remaining = iter(blocks)
    first, second = next(remaining, None), next(remaining, None)
    if first is None:
        return
    growth = max(1.0, to_hz / from_hz)
    if second is None and len(first) * growth <= _WHOLE:
        yield resample(first, from_hz, to_hz)
        return
    resampler = soxr.ResampleStream(from_hz, to_hz, 1, dtype="float32", quality=_QUALITY)
    step = max(1, int(_AT_ONCE / growth))
    for block in chain((first,) if second is None else (first, second), remaining):
        # Chunks bound soxr's memory; the result is the same.
        for begin in range(0, len(block), step):
            yield resampler.resample_chunk(block[begin : begin + step])
    yield resampler.resample_chunk(first[:0], last=True)


def encode(waveform: Waveform, sample_rate_hz: int, encoding: Encoding) -> bytes:
    """Returns the bytes of a 16-bit mono file; values outside -1..1 are clipped.

    Samples decoded from 16-bit audio are encoded without loss.
    """
    buffer = io.BytesIO()
    with open_encoder(buffer, sample_rate_hz, encoding) as file:
        file.write(_to_integers(waveform))
    return buffer.getvalue()


def open_encoder(file: object, sample_rate_hz: int, encoding: Encoding) -> soundfile.SoundFile:
    """Opens a writer of 16-bit mono samples into an open file; how they are cut does not matter."""
    return soundfile.SoundFile(
        file, "w", sample_rate_hz, 1, subtype="PCM_16", format=encoding.upper()
    )


def waveform_of(integers: Integers) -> Waveform:
    """Returns (n,) float32 in -1..1, as decoding a 16-bit file gives them."""
    return to_float(integers[:, None])


def _to_integers(waveform: Waveform) -> Integers:
    scaled = np.multiply(waveform, FULL_SCALE, dtype=np.float32)
    np.rint(scaled, out=scaled)
    np.clip(scaled, -FULL_SCALE, FULL_SCALE - 1, out=scaled)
    return scaled.astype(np.int16)
