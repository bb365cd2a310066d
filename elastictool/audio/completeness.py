"""Finds the audio of a file by the lengths in its header: detects what is missing and what is left.

libsndfile reads a file that was cut off (a broken download, a full disk) as if it had always been
shorter, and FFmpeg reads mp3 and Ogg so, too. A label may then describe what is no longer there, so
such a file is refused. The opposite happens as well: a recorder that has crashed, two joined files,
or more than a header of 32 bits can count. Then the length is corrected where it can be known, and
bytes that no decoder will read are counted. The container alone decides, before anything is
decoded. Formats without a length (mp3 without Xing's header, raw aac) cannot be checked here.
"""

from __future__ import annotations

import os
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

from elastictool.utils.errors import AudioError

_WRAPS = 1 << 32
_PLACEHOLDERS = (range(0x7FFFF000, 0x80000001), range(0xFFFFFF00, _WRAPS))
"""Stand for a length in what programs write into a pipe, as 0 does: the audio lasts to the end."""
LONGEST_FILE = 1 << 60
"""Lengths of 64 bits from here on are placeholders, too: no file is that long."""
_MOST_CHUNKS = 100_000
"""Looked at in one file: without a bound, a gigabyte of zeros is a hundred million chunks."""
_PADDING = 4096
"""Zeros up to this size behind the audio fill a block of the disk."""
_SLACK = 16
"""Bytes by which writers of avi are wrong."""
_BEFORE_AUDIO = "the file ends before its audio"

_OGG_HEADER = 27
_OGG_LONGEST_PAGE = _OGG_HEADER + 255 + 255 * 255
_OGG_END = 4
"""Flag of the last page of a stream."""

_XING = re.compile(rb"(?:Xing|Info)\0\0\0([\x03\x07\x0b\x0f]).{4}(.{4})", re.DOTALL)
"""Header of an mp3 that states the number of frames and bytes."""
_ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_W64_TAIL = bytes.fromhex("f3acd3118cd100c04f8edb8a")
"""The names of all chunks of Sony Wave64 end so."""
_NEW_FILES = (b"RIFF", b"RIFX", b"RF64", b"FORM", b"caff", b"data", b"SSND", b"wvpk", b"OggS")
"""What begins with these names behind the audio of a file is another one, and no chunk of it."""


@dataclass(frozen=True)
class Extent:
    """Where the audio of a file lies.

    Attributes:
        start: First byte of the samples.
        stop: Byte after the last; 0 where this container is not looked into.
        corrected: The header states another length.
        wrapped: Bytes more than it states, where it counts modulo 2**32.
        unread: Bytes behind the audio that are neither of the container nor tags.
        end: Where they begin; 0 where there are none.
    """

    start: int = 0
    stop: int = 0
    corrected: bool = False
    wrapped: int = 0
    unread: int = 0
    end: int = 0

    @classmethod
    def of_first(cls, raw: BinaryIO, end: int, start: int = 0, stop: int = 0) -> Extent:
        """Returns the extent of a file that others, junk or tags may follow from ``end`` on."""
        unread = unread_from(raw, end)
        return cls(start, stop, unread=unread, end=end if unread else 0)


class _Truncated(Exception):
    """The file was cut off; the text says how much of it is there."""


class _Chunked(NamedTuple):
    """How a container of chunks is laid out.

    Attributes:
        audio: Name of the chunk of samples.
        first: Where the first chunk begins.
        layout: Name and length in a chunk's header, for ``struct``.
        align: Chunks begin at multiples of this many bytes.
        counted: Bytes of its header that a chunk's length includes.
        before: Bytes in the chunk of samples before them.
    """

    audio: bytes
    first: int
    layout: str
    align: int
    counted: int = 0
    before: int = 0

    def chunks(self, raw: BinaryIO, start: int) -> Iterator[tuple[bytes, int]]:
        """Yields (name, length) of the chunks from ``start`` on, with ``raw`` at each content."""
        header = struct.Struct(self.layout)
        at, size = start, raw.seek(0, os.SEEK_END)
        for _ in range(_MOST_CHUNKS):
            if at > size:
                return
            raw.seek(at)
            if len(head := raw.read(header.size)) < header.size:
                return
            name, length = header.unpack(head)
            length -= self.counted
            yield name, length
            at += header.size + -(-max(0, length) // self.align) * self.align

    def named(self, name: bytes) -> bool:
        """Returns whether a chunk behind the audio may have this name."""
        if len(name) == 16:
            return name.endswith(_W64_TAIL) and name[:4] != b"data"
        return _is_text(name) and name not in _NEW_FILES

    def behind(self, raw: BinaryIO, stop: int, end: int) -> int:
        """Returns the first byte from ``stop`` on that belongs to no chunk of this container."""
        at = stop
        if not self.audio:
            return at
        for begin in sorted({stop, -(-stop // self.align) * self.align}):
            reached = begin
            for name, length in self.chunks(raw, begin):
                content = raw.tell()
                if not self.named(name) or not 0 <= length <= end - content:
                    break
                reached = min(end, content + -(-length // self.align) * self.align)
            at = max(at, reached if reached > begin or begin == stop else stop)
        return at


_RIFF = _Chunked(b"data", 12, "<4sI", 2)
_AIFF = _Chunked(b"SSND", 12, ">4sI", 2, before=8)
_CAF = _Chunked(b"data", 8, ">4sq", 1, before=4)
_W64 = _Chunked(b"data" + _W64_TAIL, 40, "<16sQ", 8, counted=24)
_BARE = _Chunked(b"", 0, "", 1)
_ASF = _Chunked(b"", 0, "<16sQ", 1, counted=24)


def _is_text(name: bytes) -> bool:
    return name.isascii() and name.decode().isprintable()


def find_audio(raw: BinaryIO, kind: str, name: str) -> Extent:
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
    try:
        return _CHECKS[kind](raw, size) if kind in _CHECKS else Extent()
    except _Truncated as error:
        raise AudioError(f"{name}: truncated ({error})") from error


def unread_from(raw: BinaryIO, at: int) -> int:
    """Returns the number of bytes from ``at`` to the tags at the end; 0 where they are padding."""
    left = max(0, _before_tags(raw, raw.seek(0, os.SEEK_END)) - at)
    raw.seek(at)
    return left if left > _PADDING or any(raw.read(left)) else 0


def _before_tags(raw: BinaryIO, end: int) -> int:
    """Returns where tags of ID3v1 and APEv2 at the end begin."""
    while True:
        raw.seek(max(0, end - 160))
        tail = raw.read(end - raw.tell())
        if tail[-128:].startswith(b"TAG"):
            end -= 128
        elif tail[-32:].startswith(b"APETAGEX"):
            end -= max(32, min(end, int.from_bytes(tail[-20:-16], "little")))
            raw.seek(max(0, end - 32))
            end -= 32 if end >= 32 and raw.read(8) == b"APETAGEX" else 0  # its header
        else:
            return end


def _riff(raw: BinaryIO, size: int) -> Extent:
    """Checks RIFF, RIFX and RF64; the last keeps its real lengths in a chunk of their own."""
    form = _RIFF._replace(layout=">4sI") if raw.read(4) == b"RIFX" else _RIFF
    length_64 = None
    for kind, length in form.chunks(raw, form.first):
        if kind == b"ds64":
            sizes = raw.read(16)
            if len(sizes) < 16:
                raise _Truncated(_BEFORE_AUDIO)
            (length_64,) = struct.unpack("<8xQ", sizes)
        elif kind == b"data":
            if length == 0xFFFFFFFF and length_64 is not None:
                return _extent(raw, size, form, length_64, wraps=False)
            return _extent(raw, size, form, length)
    return Extent()


def _chunked(form: _Chunked, wraps: bool) -> Callable[[BinaryIO, int], Extent]:
    def check(raw: BinaryIO, size: int) -> Extent:
        for name, length in form.chunks(raw, form.first):
            if name == form.audio:
                raw.seek(form.before, os.SEEK_CUR)
                return _extent(raw, size, form, length - form.before, wraps)
        raise _Truncated(_BEFORE_AUDIO)

    return check


def _au(raw: BinaryIO, size: int) -> Extent:
    header = raw.read(12)
    if len(header) < 12:
        raise _Truncated(_BEFORE_AUDIO)
    offset, length = struct.unpack("<II" if header[:4] == b"dns." else ">II", header[4:])
    raw.seek(offset)
    return _extent(raw, size, _BARE, length)


def _nist(raw: BinaryIO, size: int) -> Extent:
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
        return Extent()
    raw.seek(1024)
    stated = wanted[0] * wanted[1] * numbers.get(b"channel_count", 1)
    return _extent(raw, size, _BARE, stated, wraps=False)


def _extent(raw: BinaryIO, size: int, form: _Chunked, stated: int, wraps: bool = True) -> Extent:
    """Returns the extent of samples that begin at the position of ``raw``.

    Args:
        raw: The file.
        size: Its size.
        form: Its chunks.
        stated: Bytes of samples by the header.
        wraps: The header counts with 32 bits: larger files are not rare, and have the rest of a
            division by 2**32 there.

    Raises:
        _Truncated: There are fewer.
    """
    start = raw.tell()
    present, end = size - start, _before_tags(raw, size)

    def behind(length: int) -> int:
        return form.behind(raw, start + length, end)

    large = any(stated in some for some in _PLACEHOLDERS) if wraps else stated >= LONGEST_FILE
    if (large or stated <= 0) and (not 0 <= stated <= present or behind(stated) < end):
        return Extent(start, end, corrected=True)
    if present < stated:
        raise _Truncated(f"{max(0, present)} of {stated} bytes of audio")
    whole = stated + ((present - stated) // _WRAPS * _WRAPS if wraps else 0)
    if whole > stated and not unread_from(raw, behind(whole)):
        return Extent(start, start + whole, corrected=True, wrapped=whole - stated)
    return Extent.of_first(raw, behind(stated), start, start + stated)


def _ogg(raw: BinaryIO, size: int) -> Extent:
    """Checks that the last page is whole and marked as the last: FFmpeg does not."""
    _check_first_sound(raw)
    begin = max(0, size - 2 * _OGG_LONGEST_PAGE)
    raw.seek(begin)
    tail = raw.read()
    at = tail.rfind(b"OggS\0")
    page = tail[at:]
    if at < 0 or len(page) < _OGG_HEADER or len(page) < _OGG_HEADER + page[26]:
        raise _Truncated("its last Ogg page is cut off")
    segments = page[_OGG_HEADER : _OGG_HEADER + page[26]]
    length = _OGG_HEADER + len(segments) + sum(segments)
    if len(page) < length:
        raise _Truncated("its last Ogg page is cut off")
    if not page[5] & _OGG_END:
        raise _Truncated("the Ogg stream has no end-of-stream page")
    return Extent.of_first(raw, begin + at + length)


def _check_first_sound(raw: BinaryIO) -> None:
    """Checks the pages up to the first with sound: FFmpeg drops those with a wrong checksum.

    Later ones leave a gap in the time stamps, which is noticed; these seem to be a later beginning.
    """
    while (page := raw.read(_OGG_HEADER)).startswith(b"OggS") and len(page) == _OGG_HEADER:
        page += raw.read(page[26])
        page += raw.read(sum(page[_OGG_HEADER:]))
        stated = int.from_bytes(page[22:26], "little")
        if _ogg_checksum(page[:22] + bytes(4) + page[26:]) != stated:
            break
        if int.from_bytes(page[6:14], "little", signed=True) > 0:
            return
    else:
        if not page:
            return  # it holds headers only
    raise _Truncated("an Ogg page before the first sound is damaged")


def _ogg_checksum(page: bytes) -> int:
    """Returns Ogg's CRC-32, which takes the bits of each byte in the other order than zlib's."""
    value = zlib.crc32(page.translate(_MIRRORED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{value:032b}"[::-1], 2)


_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _mp3(raw: BinaryIO, size: int) -> Extent:
    """Checks the bytes of audio that Xing's header states, in the first frame."""
    stated = _XING.search(raw.read(64))
    if stated and size < (length := int.from_bytes(stated[2], "big")):
        raise _Truncated(f"{size} of {length} bytes of audio")
    return Extent()


def _mp4(raw: BinaryIO, size: int) -> Extent:
    """Finds a second file behind the first, whose index FFmpeg does not read, and junk."""
    at, number = 0, 0
    while at < size and number < _MOST_CHUNKS:
        raw.seek(at)
        head = raw.read(16).ljust(16, b"\0")
        length, name, long = struct.unpack(">I4sQ", head)
        if number and (name == b"ftyp" or not _is_text(name)):
            return Extent.of_first(raw, at)
        length = long if length == 1 else length
        if name == b"moof" or length < 8:  # FFmpeg reads joined fragments; 0 is "to the end"
            break
        at, number = at + length, number + 1
    return Extent()


def _avi(raw: BinaryIO, size: int) -> Extent:
    """Checks the parts of an avi (one for each gigabyte)."""
    for name, length in _RIFF.chunks(raw, 0):
        if name != b"RIFF" or length == 0:
            break
        _check_fits(length, size - raw.tell())
    return Extent()


def _check_fits(stated: int, present: int) -> None:
    """Raises _Truncated where a part of a container is not whole, and its length no placeholder."""
    known = stated < LONGEST_FILE and not any(stated in some for some in _PLACEHOLDERS)
    if known and present + _SLACK < stated:
        raise _Truncated(f"{present} of {stated} bytes of audio and index")


def _asf(raw: BinaryIO, size: int) -> Extent:
    """Checks the data, and finds a second file or junk behind it."""
    for number, (name, length) in enumerate(_ASF.chunks(raw, 0)):
        if number == 1:
            _check_fits(length, size - raw.tell())
        fits = 0 <= length <= size - raw.tell()
        if (number and name == _ASF_HEADER) or (number > 1 and not fits):
            return Extent.of_first(raw, raw.tell() - _ASF.counted)
    return Extent()


_CHECKS: dict[str, Callable[[BinaryIO, int], Extent]] = {
    "wav": _riff,
    "rf64": _riff,
    "aiff": _chunked(_AIFF, wraps=True),
    "caf": _chunked(_CAF, wraps=False),
    "w64": _chunked(_W64, wraps=False),
    "au": _au,
    "nist": _nist,
    "ogg": _ogg,
    "opus": _ogg,
    "ogg-flac": _ogg,
    "mp3": _mp3,
    "mp4": _mp4,
    "asf": _asf,
    "avi": _avi,
}
