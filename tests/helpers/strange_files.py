"""Files that are no recordings: pipes, sockets, devices, links, names that no disk has."""

from __future__ import annotations

import ctypes
import os
import socket
from pathlib import Path

NAMES = {
    "long": "x" * 300 + ".wav",
    "deep": "/".join(["y" * 200] * 25) + "/z.wav",
    "nul": "n\0ul.wav",
    "nul folder": "n\0ul/a.wav",
}
"""Names that no file can have."""


def strange_files(folder: Path) -> dict[str, str]:
    """Make what is no regular file in ``folder``; return a part of the reason for each."""
    folder.mkdir(parents=True, exist_ok=True)
    os.mkfifo(folder / "pipe.wav")
    with socket.socket(socket.AF_UNIX) as opened:  # a socket's address has at most 107 bytes
        before = os.open(".", os.O_RDONLY)
        os.chdir(folder)
        opened.bind("socket.wav")
        os.fchdir(before)
        os.close(before)
    (folder / "zero.wav").symlink_to("/dev/zero")
    return {"pipe.wav": "a pipe", "socket.wav": "a socket", "zero.wav": "a device"}


def broken_links(folder: Path) -> list[str]:
    """Make links that lead nowhere and in a ring."""
    (folder / "gone.wav").symlink_to("nowhere")
    (folder / "ring.wav").symlink_to("ring.wav")
    return ["gone.wav", "ring.wav"]


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("process", ctypes.c_int))


def obey_rights() -> None:
    """From here on this process may read only what its files' rights allow, also as root."""
    if os.getuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        header, sets = _Header(0x20080522, 0), (ctypes.c_uint32 * 6)()
        assert libc.capget(ctypes.byref(header), sets) == 0
        sets[0] &= ~(1 << 1 | 1 << 2)  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
        assert libc.capset(ctypes.byref(header), sets) == 0
