"""Tries which formats this installation can read.

libsndfile and FFmpeg are built with and without codecs, so a short tone is written in a format and
read back. Tests take their files from here too.
"""

from __future__ import annotations

import io

import numpy as np
import soundfile

from elastictool.audio.decode import decode
from elastictool.audio.formats import Format
from elastictool.audio.hdf5 import RATE_ATTRIBUTE
from elastictool.audio.reader import Waveform
from elastictool.utils.errors import AudioError
from elastictool.utils.optional import missing_extra

RATE_HZ = 48_000
"""Sample rate of what is written: the one rate that Opus has."""

_TOLERANCE_S = 0.08
"""Lossy formats pad frames, or keep what an encoder adds in front."""

_SNDFILE = {
    "wav": ("WAV", "PCM_16"),
    "rf64": ("RF64", "PCM_16"),
    "w64": ("W64", "PCM_16"),
    "nist": ("NIST", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "opus": ("OGG", "OPUS"),
    "ogg": ("OGG", "VORBIS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "aiff": ("AIFF", "PCM_16"),
    "au": ("AU", "PCM_16"),
    "caf": ("CAF", "PCM_16"),
}
"""libsndfile's container and encoding of each format."""

_AV = {
    "mp4": ("mp4", "aac"),
    "webm": ("webm", "libopus"),
    "ogg-flac": ("ogg", "flac"),
    "aac": ("adts", "aac"),
    "avi": ("avi", "pcm_s16le"),
    "wavpack": ("wv", "wavpack"),
    "asf": ("asf", "wmav2"),
}
"""FFmpeg's container and encoder of each format."""


def try_format(kind: Format) -> tuple[bool | None, str]:
    """Writes a short tone in a format and reads it back.

    Returns:
        Whether it can be read (None where it cannot be written, to try), and why not.
    """
    if kind.members and (install := missing_extra("h5py")):
        return False, install
    waveform = tone()
    try:
        content = sample(kind.name, waveform)
    except AudioError as error:
        return None, error.message
    try:
        decoded, rate_hz = decode(content)
    except AudioError as error:
        return False, error.message
    length_off = abs(len(decoded) - len(waveform)) > _TOLERANCE_S * RATE_HZ
    level = float(np.abs(decoded[len(decoded) // 4 : -len(decoded) // 4]).max())
    if rate_hz != RATE_HZ or length_off or not 0.4 < level < 0.6:
        return False, f"read {len(decoded)} samples at {rate_hz} Hz with a peak of {level:.2f}"
    return True, ""


def tone(duration_s: float = 0.25) -> Waveform:
    """Returns (n,) samples of a tone of 440 Hz at half of full scale, at ``RATE_HZ``."""
    time_s = np.arange(round(duration_s * RATE_HZ)) / RATE_HZ
    return (0.5 * np.sin(2 * np.pi * 440 * time_s)).astype(np.float32)


def sample(kind: str, waveform: Waveform) -> bytes:
    """Returns the bytes of a file with ``waveform`` in the format called ``kind``.

    Raises:
        AudioError: This installation cannot write that format.
    """
    if kind in _AV:
        return encode_with_av(waveform, *_AV[kind])
    buffer = io.BytesIO()
    if kind == "hdf5":
        import h5py

        with h5py.File(buffer, "w") as file:
            file.create_dataset("tone", data=waveform).attrs[RATE_ATTRIBUTE] = RATE_HZ
        return buffer.getvalue()
    container, encoding = _SNDFILE[kind]
    try:
        with soundfile.SoundFile(
            buffer, "w", RATE_HZ, 1, format=container, subtype=encoding
        ) as file:
            for first in range(0, len(waveform), RATE_HZ):  # its Vorbis encoder cannot take minutes
                file.write(waveform[first : first + RATE_HZ])
    except (soundfile.LibsndfileError, ValueError) as error:
        raise AudioError(f"this libsndfile cannot write {container} {encoding}") from error
    return buffer.getvalue()


def encode_with_av(waveform: Waveform, container: str, codec: str) -> bytes:
    """Returns the bytes of a file with ``waveform`` as FFmpeg writes it.

    Raises:
        AudioError: This FFmpeg lacks the encoder.
    """
    import av

    buffer = io.BytesIO()
    try:
        with av.open(buffer, "w", format=container) as file:
            stream = file.add_stream(codec, rate=RATE_HZ, layout="mono", bit_rate=96_000)
            frame = av.AudioFrame.from_ndarray(waveform[None], format="fltp", layout="mono")
            frame.sample_rate, frame.pts = RATE_HZ, 0
            for packet in (*stream.encode(frame), *stream.encode(None)):
                file.mux(packet)
    except (av.error.FFmpegError, ValueError) as error:
        raise AudioError(f"this FFmpeg cannot write {codec} into {container}") from error
    return buffer.getvalue()
