"""How long an mp3 is: counted where its header does not say.

An mp3 is a string of frames. Most encoders put a first frame in front that says how many follow
(Xing's header); without it libsndfile guesses from the first frame's bit rate and stops reading
there, which loses most of a file of variable bit rate. Such a file is handed on with a header
of ours in front, made from a count of its frames.
"""

from __future__ import annotations

import os
import struct
from typing import BinaryIO, NamedTuple

from elastictool.audio.reader import prefixed
from elastictool.utils.errors import AudioError

PREROLL_SAMPLES = 25_000
"""How far before a wanted sample decoding begins.

A frame borrows bits from up to 511 bytes before it, which at the lowest rate are 22 frames; after
a seek, libsndfile's decoder gives wrong samples until it has them again.
"""

SLACK_SAMPLES = 2 * 1152
"""Some encoders count their header frame too, or one frame that they never wrote."""

_MPEG1, _RESERVED = 3, 1
_KBITS = {
    True: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    False: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES_HZ = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
_LARGE_FRAME = 0xA0
"""Bit rate index 10 of a frame header: a frame with room for Xing's header at any sample rate."""
_FRAMES_AND_BYTES = 3


class _Frame(NamedTuple):
    """What a layer III frame header says.

    Attributes:
        size: Bytes, header included.
        tag_at: Where Xing's header would stand in it.
    """

    size: int
    tag_at: int


def counted(raw: BinaryIO, name: str) -> BinaryIO | None:
    """The mp3 with a header that counts its frames; None where it has one already.

    Raises:
        AudioError: Its header promises more bytes than there are.
    """
    size = raw.seek(0, os.SEEK_END)
    start = _after_id3(raw)
    raw.seek(start)
    head = raw.read(4096)
    first = _frame(head)
    if first is None:
        return None  # libsndfile looks for the first frame farther on than we do
    tag = head[first.tag_at : first.tag_at + 16]
    if tag[:4] in (b"Xing", b"Info"):
        _check_bytes(tag, size - start, name)
        return None
    if head[36:40] == b"VBRI":
        return None
    frames, stop = _count_frames(raw, start)
    header = _header_frame(head, frames, stop - start)
    return prefixed(header, raw, start, stop)


def _check_bytes(tag: bytes, present: int, name: str) -> None:
    """Compare the stream's length in Xing's header, if it is there, with the file's."""
    if len(tag) < 16:
        return
    flags, _, promised = struct.unpack(">III", tag[4:])
    if flags & _FRAMES_AND_BYTES == _FRAMES_AND_BYTES and promised > present:
        raise AudioError(f"{name}: truncated ({present} of {promised} bytes of audio)")


def _after_id3(raw: BinaryIO) -> int:
    """Where audio begins: after any ID3v2 tags (their lengths have 7 bits a byte)."""
    start = 0
    while True:
        raw.seek(start)
        header = raw.read(10)
        if header[:3] != b"ID3" or len(header) < 10:
            return start
        length = 0
        for byte in header[6:]:
            length = length << 7 | byte & 0x7F
        start += 10 + length


def _count_frames(raw: BinaryIO, start: int) -> tuple[int, int]:
    """How many whole frames follow one another from ``start`` on, and where they end."""
    size = raw.seek(0, os.SEEK_END)
    frames, at = 0, raw.seek(start)
    while (frame := _frame(raw.read(4))) and at + frame.size <= size:
        frames += 1
        at = raw.seek(at + frame.size)
    return frames, at


def _frame(head: bytes) -> _Frame | None:
    """The frame that begins here; None where none does.

    Source: ISO 11172-3 and 13818-3, audio frame header.
    """
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE6 != 0xE2:
        return None
    version = head[1] >> 3 & 3
    bitrate, rate, padding = head[2] >> 4, head[2] >> 2 & 3, head[2] >> 1 & 1
    if version == _RESERVED or bitrate in (0, 15) or rate == 3:
        return None
    mpeg1 = version == _MPEG1
    bits = _KBITS[mpeg1][bitrate] * 1000 * (144 if mpeg1 else 72)
    mono = head[3] >> 6 == 3
    side_info = (17 if mono else 32) if mpeg1 else (9 if mono else 17)
    return _Frame(bits // _RATES_HZ[version][rate] + padding, 4 + side_info)


def _header_frame(head: bytes, frames: int, num_bytes: int) -> bytes:
    """A silent frame like the first one, with Xing's header: how many frames and bytes follow."""
    marked = bytes([head[0], head[1] | 1, head[2] & 0x0C | _LARGE_FRAME, head[3]])
    frame = _frame(marked)
    if frame is None:
        raise ValueError("not a frame header")
    tag = b"Xing" + struct.pack(">III", _FRAMES_AND_BYTES, frames, num_bytes + frame.size)
    return (marked + bytes(frame.tag_at - 4) + tag).ljust(frame.size, b"\0")
