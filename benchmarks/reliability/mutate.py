"""Damage bytes, texts and documents at random: cuts, flips, insertions, splices, wrong numbers."""

from __future__ import annotations

import copy
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Rng = np.random.Generator


@dataclass(frozen=True)
class Damaged:
    """Bytes that were damaged.

    Attributes:
        data: What is left.
        how: What was done, for people.
        audio: Audio that a reader has to return or mention, as a share of the whole; None where
            nothing is known, as after a change of the sample rate.
    """

    data: bytes
    how: str
    audio: float | None = None


Edit = Callable[[bytes, Rng], Damaged]


def draw(rng: Rng, stop: int, start: int = 0) -> int:
    """Return an integer from ``start`` up to and without ``stop``; ``start`` if there is none."""
    return int(rng.integers(start, stop)) if stop > start else start


def cut(data: bytes, rng: Rng) -> Damaged:
    """Keep the beginning only."""
    place = draw(rng, len(data))
    return Damaged(data[:place], f"cut at {place} of {len(data)}", 1.0)


def lose_start(data: bytes, rng: Rng) -> Damaged:
    """Keep the end only."""
    place = draw(rng, len(data))
    return Damaged(data[place:], f"without the first {place}")


def flip(data: bytes, rng: Rng) -> Damaged:
    """Change some bytes anywhere."""
    changed = bytearray(data)
    places = [draw(rng, len(data)) for _ in range(draw(rng, 9, 1))] if data else []
    for place in places:
        changed[place] = draw(rng, 256)
    return Damaged(bytes(changed), f"other bytes at {sorted(places)}")


def flip_middle(data: bytes, rng: Rng) -> Damaged:
    """Change some bytes of the middle, where the audio lies."""
    changed, first = bytearray(data), len(data) // 4
    places = [draw(rng, 3 * first, first) for _ in range(draw(rng, 6, 1))]
    for place in places:
        changed[place] = draw(rng, 256)
    return Damaged(bytes(changed), f"other bytes at {sorted(places)}, in the middle", 1.0)


def flip_head(data: bytes, rng: Rng) -> Damaged:
    """Change some bytes at the beginning."""
    changed = bytearray(data)
    places = [draw(rng, min(len(data), 200)) for _ in range(draw(rng, 5, 1))] if data else []
    for place in places:
        changed[place] = draw(rng, 256)
    return Damaged(bytes(changed), f"other bytes at {sorted(places)}")


def insert(data: bytes, rng: Rng) -> Damaged:
    """Insert random bytes or zeros."""
    place, size = draw(rng, len(data) + 1), 1 << draw(rng, 13)
    new = rng.bytes(size) if rng.random() < 0.6 else bytes(size)
    return Damaged(data[:place] + new + data[place:], f"{size} bytes inserted at {place}")


def delete(data: bytes, rng: Rng) -> Damaged:
    """Take a part out."""
    place, size = draw(rng, len(data)), 1 << draw(rng, 13)
    return Damaged(data[:place] + data[place + size :], f"{size} bytes taken out at {place}")


def zero_block(data: bytes, rng: Rng) -> Damaged:
    """Overwrite a part with zeros, as a failing disk does."""
    place, size = draw(rng, len(data)), min(len(data), 1 << draw(rng, 13))
    return Damaged(data[:place] + bytes(size) + data[place + size :], f"zeros at {place}, {size}")


def append(data: bytes, rng: Rng) -> Damaged:
    """Append random bytes."""
    size = 1 << draw(rng, 13)
    return Damaged(data + rng.bytes(size), f"{size} bytes appended", 1.0)


def double(data: bytes, rng: Rng) -> Damaged:
    """Join the file with itself."""
    return Damaged(data + data, "joined with itself", 2.0)


def repeat_part(data: bytes, rng: Rng) -> Damaged:
    """Repeat a part of the file somewhere else in it."""
    first, place = draw(rng, len(data)), draw(rng, len(data))
    part = data[first : first + (1 << draw(rng, 13))]
    return Damaged(data[:place] + part + data[place:], f"{len(part)} of {first} again at {place}")


def tag_before(data: bytes, rng: Rng) -> Damaged:
    """Put an ID3v2 tag before the file; its size is right more often than not."""
    size = draw(rng, 4_000)
    said = size if rng.random() < 0.7 else draw(rng, 1 << 28)
    sizes = bytes(said >> shift & 127 for shift in (21, 14, 7, 0))
    how = f"ID3 tag of {size} bytes that says {said}"
    return Damaged(b"ID3\x04\0\0" + sizes + bytes(size) + data, how, 1.0 if said == size else None)


def tag_after(data: bytes, rng: Rng) -> Damaged:
    """Append an ID3v1 tag, and sometimes the file again."""
    more = data if rng.random() < 0.5 else b""
    tag = b"TAG" + rng.bytes(125)
    return Damaged(data + tag + more, "ID3v1 tag" + " in the middle" * bool(more), 1.0 + bool(more))


def number(data: bytes, rng: Rng) -> Damaged:
    """Write an extreme number of 1 to 8 bytes, mostly near the beginning."""
    width = (1, 2, 4, 8)[draw(rng, 4)]
    near = min(len(data), 300 if rng.random() < 0.7 else len(data))
    place = draw(rng, near - width)
    value = extreme(rng, 8 * width)
    little = rng.random() < 0.5
    new = value.to_bytes(width, "little" if little else "big")
    return Damaged(
        data[:place] + new + data[place + width :], f"{value} of {width} bytes at {place}"
    )


def extreme(rng: Rng, bits: int) -> int:
    """Return a number that a field of so many bits often has when something is wrong."""
    top = 1 << bits
    values = (0, 1, 2, 3, top - 1, top - 2, top >> 1, (top >> 1) - 1, top - 256, top >> 2)
    return values[draw(rng, len(values))] if rng.random() < 0.8 else int.from_bytes(
        rng.bytes(bits // 8), "little"
    )  # fmt: skip


ANY: tuple[Edit, ...] = (
    cut, lose_start, flip, flip_head, insert, delete, zero_block, append, repeat_part, number,
)  # fmt: skip
AUDIO: tuple[Edit, ...] = (*ANY, number, cut, flip_middle, double, tag_before, tag_after)


# Containers of audio -------------------------------------------------------------------------


def wav_field(data: bytes, rng: Rng) -> Damaged:
    """Change a field of a wav's header; its audio stays as it is."""
    name, offset, width = (
        ("data size", 40, 4), ("data size", 40, 4), ("riff size", 4, 4), ("format", 20, 2),
        ("channels", 22, 2), ("rate", 24, 4), ("align", 32, 2), ("bits", 34, 2),
    )[draw(rng, 8)]  # fmt: skip
    value = extreme(rng, 8 * width)
    if "size" in name and rng.random() < 0.5:
        value = draw(rng, len(data) + 1_000)
    changed = data[:offset] + value.to_bytes(width, "little") + data[offset + width :]
    return Damaged(changed, f"{name} is {value}", 1.0 if "size" in name else None)


def wav_chunk(data: bytes, rng: Rng) -> Damaged:
    """Put a chunk of a true or false size before a wav's audio."""
    size = draw(rng, 300) * 2
    said = size if rng.random() < 0.5 else extreme(rng, 32)
    chunk = b"LIST" + struct.pack("<I", said) + rng.bytes(size)
    return Damaged(data[:36] + chunk + data[36:], f"chunk of {size} that says {said}",
                   1.0 if said == size else None)  # fmt: skip


def aiff_field(data: bytes, rng: Rng) -> Damaged:
    """Change a field of an aiff's header."""
    comm, ssnd = data.find(b"COMM"), data.find(b"SSND")
    name, offset, width = (
        ("form size", 4, 4), ("channels", comm + 8, 2), ("frames", comm + 10, 4),
        ("bits", comm + 14, 2), ("exponent of the rate", comm + 16, 2), ("data size", ssnd + 4, 4),
        ("data offset", ssnd + 8, 4), ("COMM size", comm + 4, 4),
    )[draw(rng, 8)]  # fmt: skip
    value = extreme(rng, 8 * width) if rng.random() < 0.7 else draw(rng, 1 << (8 * width - 1))
    known = name in ("form size", "frames", "data size")
    changed = data[:offset] + value.to_bytes(width, "big") + data[offset + width :]
    return Damaged(changed, f"{name} is {value}", 1.0 if known else None)


def flac_length(data: bytes, rng: Rng) -> Damaged:
    """Change the number of samples in a flac's header."""
    value = extreme(rng, 32) if rng.random() < 0.5 else draw(rng, 50_000)
    return Damaged(data[:22] + value.to_bytes(4, "big") + data[26:], f"samples: {value}", 1.0)


def ogg_pages(data: bytes) -> list[bytes]:
    """Return the pages of an Ogg file."""
    pages, at = [], 0
    while data[at : at + 4] == b"OggS":
        segments = data[at + 26]
        size = 27 + segments + sum(data[at + 27 : at + 27 + segments])
        pages.append(data[at : at + size])
        at += size
    return pages


def ogg_page(data: bytes, rng: Rng) -> Damaged:
    """Drop, repeat, exchange or renumber pages of an Ogg file, with right checksums."""
    pages = ogg_pages(data)
    which = draw(rng, len(pages))
    way = ("dropped", "repeated", "moved", "granule", "serial", "flags")[draw(rng, 6)]
    page = bytearray(pages[which])
    if way == "dropped":
        del pages[which]
    elif way == "repeated":
        pages.insert(which, bytes(page))
    elif way == "moved":
        pages.insert(draw(rng, len(pages)), pages.pop(which))
    else:
        offset, width = {"granule": (6, 8), "serial": (14, 4), "flags": (5, 1)}[way]
        page[offset : offset + width] = extreme(rng, 8 * width).to_bytes(width, "little")
        page[22:26] = bytes(4)
        page[22:26] = _ogg_checksum(bytes(page)).to_bytes(4, "little")
        pages[which] = bytes(page)
    known = 1.0 if way == "serial" and which > 1 else None
    return Damaged(b"".join(pages), f"page {which} of {len(pages)}: {way}", known)


def _ogg_checksum(page: bytes) -> int:
    value = 0
    for byte in page:
        value ^= byte << 24
        for _ in range(8):
            value = (value << 1 ^ (0x04C11DB7 if value & 0x80000000 else 0)) & 0xFFFFFFFF
    return value


def mp4_box(data: bytes, rng: Rng) -> Damaged:
    """Change the size of a box, or a duration, of an mp4."""
    names = (b"ftyp", b"moov", b"mdat", b"trak", b"mdia", b"minf", b"stbl", b"stsd", b"stsz",
             b"stco", b"stts", b"stsc", b"esds", b"mvhd", b"mdhd", b"udta", b"elst")  # fmt: skip
    name = names[draw(rng, len(names))]
    at = data.find(name)
    if at < 4:
        return number(data, rng)
    if name in (b"mvhd", b"mdhd") and rng.random() < 0.7:
        offset = at + 20
        changed = data[:offset] + extreme(rng, 32).to_bytes(4, "big") + data[offset + 4 :]
        return Damaged(changed, f"duration in {name.decode()}", 1.0)
    offset = at - 4 if rng.random() < 0.5 else at + 4 + 4 * draw(rng, 5)
    value = extreme(rng, 32)
    changed = data[:offset] + value.to_bytes(4, "big") + data[offset + 4 :]
    return Damaged(changed, f"{value} at {offset - at} of {name.decode()}")


def webm_element(data: bytes, rng: Rng) -> Damaged:
    """Change the size or the first bytes of an element of a webm."""
    marks = (b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67", b"\x16\x54\xae\x6b", b"\x1f\x43\xb6\x75",
             b"\x15\x49\xa9\x66", b"\x44\x89", b"\xb5", b"\x63\xa2")  # fmt: skip
    mark = marks[draw(rng, len(marks))]
    at = data.find(mark)
    if at < 0:
        return number(data, rng)
    place = at + len(mark) + draw(rng, 6)
    return Damaged(data[:place] + rng.bytes(1) + data[place + 1 :],
                   f"byte {place - at} after element {mark.hex()}")  # fmt: skip


# Texts and documents ---------------------------------------------------------------------------

WORDS = (
    '"', "'", ",", ";", "\t", "\n", "\r\n", "\r", "\0", "\ufeff", "|", "/", "\\", "..", "~", "-",
    "", "=1+1", "@x", "{", "}", "[", "]", ":", "#", "%", "&a", "*a", "!!int x", "---", "null",
    "!!python/object:os.x", "true", "nan", "inf", "-inf", "1e308", "1e999", "-1", "0",
    "9" * 5_000, "1" * 20, "0x7fffffff", "2001-99-99", "12:30:45", "x" * 300, "x/" * 3_000,
    "\x1b[31m", "\x9b31m", "\u202e", "\ud7ff", "a\u0301", "é", "日本", "😀", "[" * 3_000, "train",
    "trian", "TRAIN", "1:1000000000", "<script>", "$HOME", "/dev/zero", "/dev/stdin",
    "/proc/self/mem", ".", "/",
)  # fmt: skip
"""Texts that readers of tables and settings have stumbled over."""
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**400, 0.5, -0.0, 1e308, float("inf"),
    float("nan"), "", "x", "x" * 300, "\0", "\x1b[2J", [], [[]], {}, {"": None}, ["a", "b"], "1e5",
    "/dev/zero", "..", [1] * 3_000,
)  # fmt: skip
"""Values in the place of another one in a document."""


def word(data: bytes, rng: Rng) -> Damaged:
    """Insert or replace text with a word that readers stumble over."""
    text = data.decode("utf-8", "replace")
    place, new = draw(rng, len(text) + 1), WORDS[draw(rng, len(WORDS))]
    end = place if rng.random() < 0.5 else place + draw(rng, 12)
    return Damaged((text[:place] + new + text[end:]).encode("utf-8", "replace"),
                   f"{new[:20]!r} at {place}")  # fmt: skip


def lines(data: bytes, rng: Rng) -> Damaged:
    """Drop, repeat or exchange lines, or end them otherwise."""
    parts = data.split(b"\n")
    which, way = draw(rng, len(parts)), draw(rng, 5)
    if way == 0:
        del parts[which]
    elif way == 1:
        parts.insert(which, parts[which])
    elif way == 2:
        parts.insert(draw(rng, len(parts)), parts.pop(which))
    ending = b"\n" if way < 3 else (b"\r\n", b"\r")[way - 3]
    return Damaged(ending.join(parts), f"line {which}, way {way}")


def encoding(data: bytes, rng: Rng) -> Damaged:
    """Write the text in another encoding."""
    name = ("utf-16", "utf-16-le", "latin-1", "utf-8-sig", "utf-32", "cp1252")[draw(rng, 6)]
    return Damaged(data.decode("utf-8", "replace").encode(name, "replace"), name)


TEXT: tuple[Edit, ...] = (
    word, word, word, word, lines, encoding, cut, flip, insert, delete, append, double, repeat_part,
)  # fmt: skip


def changed_value(document: Any, rng: Rng) -> tuple[Any, str]:
    """Return a copy of a document with another value, or without one, somewhere inside."""
    document = copy.deepcopy(document)
    node, path = document, ""
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not keys:
            return VALUES[draw(rng, len(VALUES))], "the whole"
        key = keys[draw(rng, len(keys))]
        path += f".{key}"
        inner = node[key]
        if isinstance(inner, (dict, list)) and inner and rng.random() < 0.8:
            node = inner
            continue
        if rng.random() < 0.15:
            del node[key]
            return document, f"without {path}"
        node[key] = VALUES[draw(rng, len(VALUES))]
        return document, f"{path} = {str(node[key])[:30]!r}"


def json_value(data: bytes, rng: Rng) -> Damaged:
    """Change a value of a JSON document."""
    document, how = changed_value(json.loads(data), rng)
    return Damaged(json.dumps(document).encode(), how)


DOCUMENT: tuple[Edit, ...] = (json_value, json_value, json_value, *TEXT)


# Weights and archives --------------------------------------------------------------------------


def safetensors_header(data: bytes, rng: Rng) -> Damaged:
    """Change a value of the header of a safetensors file, or its length."""
    (size,) = struct.unpack("<Q", data[:8])
    if rng.random() < 0.2:
        said = extreme(rng, 64)
        return Damaged(struct.pack("<Q", said) + data[8:], f"header of {said} bytes")
    header, how = changed_value(json.loads(data[8 : 8 + size]), rng)
    new = json.dumps(header).encode()
    return Damaged(struct.pack("<Q", len(new)) + new + data[8 + size :], f"header: {how}")


def tar_header(data: bytes, rng: Rng) -> Damaged:
    """Change a field of a member of a tar, with a right checksum."""
    members = [at for at in range(0, len(data) - 512, 512) if data[at + 257 : at + 262] == b"ustar"]
    at = members[draw(rng, len(members))]
    fields = ((0, 100), (100, 8), (124, 12), (124, 12), (136, 12), (157, 100), (345, 155))
    offset, width = fields[draw(rng, len(fields))]
    names = ("../x", "/x", "a/../../x", "x" * 99, "\\x", "c:x", "77777777777", "1")
    value = names[draw(rng, len(names))].encode() if rng.random() < 0.8 else rng.bytes(width)
    head = bytearray(data[at : at + 512])
    head[offset : offset + width] = value[:width].ljust(width, b"\0")
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return Damaged(data[:at] + bytes(head) + data[at + 512 :], f"member at {at}, {value!r}")


def zip_field(data: bytes, rng: Rng) -> Damaged:
    """Change a byte of the records of a zip: methods, flags, sizes, names, offsets."""
    signature = (b"PK\1\2", b"PK\3\4", b"PK\5\6")[draw(rng, 3)]
    places = [at for at in range(len(data)) if data[at : at + 4] == signature]
    at = places[draw(rng, len(places))] + 4 + draw(rng, 46)
    return Damaged(data[:at] + rng.bytes(1) + data[at + 1 :], f"byte {at} in a record")


def inside(edit: Edit, unpack: Callable[[bytes], bytes], pack: Callable[[bytes], bytes]) -> Edit:
    """Return an edit of what is packed inside."""

    def edited(data: bytes, rng: Rng) -> Damaged:
        found = edit(unpack(data), rng)
        return Damaged(pack(found.data), f"inside: {found.how}")

    return edited
