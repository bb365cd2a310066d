"""Detects files that were cut off: compares the length in a header with the file's size.

libsndfile reads a file that was cut off (a broken download, a full disk) as if it had always been
shorter, and FFmpeg reads mp3 and Ogg so, too. A label may then describe what is no longer there, so
such a file is refused. The container alone decides, before anything is decoded. Formats without a
length (mp3 without Xing's header, raw aac) cannot be checked here.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable, Iterator
from typing import BinaryIO

from elastictool.utils.errors import AudioError

_PLACEHOLDERS = (0x7FFFF000, 0x7FFFFFFF, 0x80000000, *range(0xFFFFFF00, 0x100000000))
"""Stand for a length in what programs write into a pipe: the audio lasts to the end."""
_BEFORE_AUDIO = "the file ends before its audio"

_OGG_HEADER = 27
_OGG_LONGEST_PAGE = _OGG_HEADER + 255 + 255 * 255
_OGG_END = 4
"""Flag of the last page of a stream."""

_XING = re.compile(rb"(?:Xing|Info)\0\0\0([\x03\x07\x0b\x0f]).{4}(.{4})", re.DOTALL)
"""Header of an mp3 that states the number of frames and bytes."""


def check_complete(raw: BinaryIO, kind: str, name: str) -> None:
    """Compares the length that a container states with the bytes of the file.

    Args:
        raw: The file; its position is moved.
        kind: Name of its ``Format``.
        name: For messages.

    Raises:
        AudioError: The file is cut off.
    """
    size = raw.seek(0, os.SEEK_END)
    raw.seek(0)
    missing = ""
    if kind in _CHUNKED:
        wanted, start, layout, align, counted = _CHUNKED[kind]
        chunks = _chunks(raw, start, layout, align, counted)
        lengths = (length for found, length in chunks if found == wanted)
        length = next(lengths, None)
        missing = _BEFORE_AUDIO if length is None else _shortage(length, size - raw.tell())
    elif kind in _CHECKS:
        missing = _CHECKS[kind](raw, size)
    if missing:
        raise AudioError(f"{name}: truncated ({missing})")


def _riff(raw: BinaryIO, size: int) -> str:
    """Checks RIFF, RIFX and RF64; the last keeps its real lengths in a chunk of their own."""
    layout = ">4sI" if raw.read(4) == b"RIFX" else "<4sI"
    length_64 = 0
    for kind, length in _chunks(raw, 12, layout, 2):
        if kind == b"ds64":
            sizes = raw.read(16)
            if len(sizes) < 16:
                return _BEFORE_AUDIO
            (length_64,) = struct.unpack("<8xQ", sizes)
        elif kind == b"data":
            stated = length_64 if length == 0xFFFFFFFF and length_64 else length
            return "" if stated in _PLACEHOLDERS else _shortage(stated, size - raw.tell())
    return ""


def _chunks(
    raw: BinaryIO, start: int, layout: str, align: int, counted: int = 0
) -> Iterator[tuple[bytes, int]]:
    """Yields (kind, length) of the chunks of a container, with ``raw`` at the content of each.

    Args:
        raw: The file.
        start: Where the first chunk begins.
        layout: Of a chunk's header, for ``struct``.
        align: Chunks begin at multiples of this many bytes.
        counted: Bytes of the header that the length includes.
    """
    header = struct.Struct(layout)
    raw.seek(start)
    while len(head := raw.read(header.size)) == header.size:
        kind, length = header.unpack(head)
        content = raw.tell()
        yield kind, length - counted
        length = min(max(0, length - counted), 1 << 60)  # more than any file, less than seek takes
        raw.seek(content + -(-length // align) * align)


def _au(raw: BinaryIO, size: int) -> str:
    header = raw.read(12)
    if len(header) < 12:
        return _BEFORE_AUDIO
    offset, length = struct.unpack("<II" if header[:4] == b"dns." else ">II", header[4:])
    return "" if length in _PLACEHOLDERS else _shortage(length, size - offset)


def _nist(raw: BinaryIO, size: int) -> str:
    """Checks NIST Sphere: a text header of 1,024 bytes counts samples."""
    header = raw.read(1024)
    numbers = {
        key: int(value)
        for key, value in re.findall(rb"\n(\w+) -i (\d+)", header)
        if len(value) < 19
    }
    wanted = [numbers.get(key, 0) for key in (b"sample_count", b"sample_n_bytes")]
    compressed = re.search(rb"\nsample_coding -s\d+ \S*,", header) is not None
    if not all(wanted) or compressed:
        return ""
    return _shortage(wanted[0] * wanted[1] * numbers.get(b"channel_count", 1), size - 1024)


def _ogg(raw: BinaryIO, size: int) -> str:
    """Checks that the last page is whole and marked as the last: FFmpeg does not."""
    raw.seek(max(0, size - 2 * _OGG_LONGEST_PAGE))
    tail = raw.read()
    at = tail.rfind(b"OggS\0")
    page = tail[at:]
    if at < 0 or len(page) < _OGG_HEADER or len(page) < _OGG_HEADER + page[26]:
        return "its last Ogg page is cut off"
    segments = page[_OGG_HEADER : _OGG_HEADER + page[26]]
    if len(page) < _OGG_HEADER + len(segments) + sum(segments):
        return "its last Ogg page is cut off"
    return "" if page[5] & _OGG_END else "the Ogg stream has no end-of-stream page"


def _mp3(raw: BinaryIO, size: int) -> str:
    """Checks the bytes of audio that Xing's header states, in the first frame."""
    stated = _XING.search(raw.read(64))
    return _shortage(int.from_bytes(stated[2], "big"), size) if stated else ""


def _shortage(stated: int, present: int) -> str:
    return f"{max(0, present)} of {stated} bytes of audio" if present < stated else ""


_CHUNKED = {
    "aiff": (b"SSND", 12, ">4sI", 2, 0),
    "caf": (b"data", 8, ">4sq", 1, 0),
    # Sony Wave64: 16-byte names, and lengths that count their own header.
    "w64": (b"data", 40, "<4s12xQ", 8, 24),
}
"""The chunk of audio, and how ``_chunks`` finds it."""
_CHECKS: dict[str, Callable[[BinaryIO, int], str]] = {
    "wav": _riff,
    "rf64": _riff,
    "au": _au,
    "nist": _nist,
    "ogg": _ogg,
    "opus": _ogg,
    "mp3": _mp3,
    "ogg-flac": _ogg,
}
