"""Lists the audio formats: their names, file endings, first bytes and decoders.

This is the only list of formats: ``prep`` takes the endings it looks for from here, decoding goes
by the first bytes (users' files are often named wrongly), ``doctor`` tries every row. It is plain
data, so a corpus can list files without loading a decoder.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from elastictool.utils.io import open_file

HEAD_BYTES = 64
"""Length of the beginning of a file that ``sniff`` needs."""

_ID3_FOOTER = 0x10
"""Flag of an ID3v2.4 tag: its header follows once more behind it."""


@dataclass(frozen=True)
class Format:
    """One kind of audio file.

    Attributes:
        name: Its name in messages.
        suffixes: Endings in use, lower case; the usual one first.
        decoder: The library that reads it: libsndfile, av or h5py.
        matches: Whether a file that begins with these bytes is one.
        members: It holds recordings by name (``FILE/NAME``), which only a corpus can list, so its
            ending does not count as audio.
    """

    name: str
    suffixes: tuple[str, ...]
    decoder: str
    matches: Callable[[bytes], bool]
    members: bool = False


def _begins(*patterns: bytes) -> Callable[[bytes], bool]:
    """Returns whether the head matches one of the regular expressions from its first byte on."""
    compiled = [re.compile(pattern, re.DOTALL) for pattern in patterns]
    return lambda head: any(pattern.match(head) for pattern in compiled)


FORMATS = (
    Format("wav", (".wav", ".wave"), "libsndfile", _begins(rb"RIF[FX]....WAVE")),
    Format("rf64", (".rf64", ".wav"), "libsndfile", _begins(rb"RF64....WAVE")),
    Format("w64", (".w64", ".wav"), "libsndfile", _begins(rb"riff\x2e\x91\xcf\x11")),
    Format("nist", (".sph", ".nist", ".wav"), "libsndfile", _begins(rb"NIST_1A\n")),
    Format("flac", (".flac",), "libsndfile", _begins(rb"fLaC")),
    Format("opus", (".opus", ".ogg", ".oga"), "av", _begins(rb"OggS.{24}OpusHead")),
    Format("ogg-flac", (".oga", ".ogg"), "av", _begins(rb"OggS.{24}\x7fFLAC")),
    Format("ogg", (".ogg", ".oga"), "av", _begins(rb"OggS")),
    # A frame header of layer III: sync, no reserved version; layer bits 01. ADTS has them 00.
    Format("mp3", (".mp3",), "av", _begins(rb"\xff[\xe2\xe3\xf2\xf3\xfa\xfb]")),
    Format("aiff", (".aiff", ".aif", ".aifc"), "libsndfile", _begins(rb"FORM....AIF[FC]")),
    Format("au", (".au", ".snd"), "libsndfile", _begins(rb"\.snd", rb"dns\.")),
    Format("caf", (".caf",), "libsndfile", _begins(rb"caff\x00\x01")),
    Format("mp4", (".m4a", ".mp4", ".m4b", ".m4v", ".mov", ".3gp"), "av", _begins(rb"....ftyp")),
    Format("webm", (".webm", ".mkv", ".mka"), "av", _begins(rb"\x1a\x45\xdf\xa3")),
    Format("aac", (".aac",), "av", _begins(rb"\xff[\xf0\xf1\xf8\xf9]")),
    Format("avi", (".avi",), "av", _begins(rb"RIFF....AVI ")),
    Format("wavpack", (".wv",), "av", _begins(rb"wvpk")),
    Format("asf", (".wma", ".wmv", ".asf"), "av", _begins(rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11")),
    Format("hdf5", (".hdf5", ".h5"), "h5py", _begins(rb"\x89HDF\r\n\x1a\n"), members=True),
)
"""All formats; the first whose bytes match counts."""

AUDIO_SUFFIXES = frozenset(
    suffix for kind in FORMATS if not kind.members for suffix in kind.suffixes
)
"""File endings that count as audio, lower case."""

MEMBER_SUFFIXES = frozenset(suffix for kind in FORMATS if kind.members for suffix in kind.suffixes)
"""Endings of files that hold recordings by name, lower case."""


def sniff(head: bytes) -> Format | None:
    """Returns the format of a file that begins with ``head``; None where it is none of them."""
    return next((kind for kind in FORMATS if kind.matches(head)), None)


def after_tags(file: BinaryIO) -> int:
    """Returns where the content begins: after ID3v2 tags (wav and flac have them, too)."""
    start = 0
    while True:
        file.seek(start)
        header = file.read(10)
        if len(header) < 10 or not header.startswith(b"ID3"):
            return start
        length = 0
        for byte in header[6:]:
            length = length << 7 | byte & 0x7F
        start += 10 + length + (10 if header[5] & _ID3_FOOTER else 0)


def misnamed(path: Path) -> str:
    """Returns the format of a file whose ending is another one's; empty where they agree.

    A file that is of no known format, or cannot be read, is not misnamed: decoding reports more.
    """
    try:
        with open_file(path) as file:
            file.seek(after_tags(file))
            found = sniff(file.read(HEAD_BYTES))
    except OSError:
        return ""
    suffix = path.suffix.lower()
    known = suffix in AUDIO_SUFFIXES
    return found.name if found and known and suffix not in found.suffixes else ""
