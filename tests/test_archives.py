"""Archives are unpacked whole or refused with the reason, whatever is in them."""

from __future__ import annotations

import io
import random
import shutil
import struct
import tarfile
import zipfile
from collections import namedtuple
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from elastictool.corpora.archives import BadArchive, extract
from elastictool.utils.errors import ElasticToolError
from tests.helpers.files import content

FILES = {"a/0.wav": random.Random(0).randbytes(20_000), "a/1.wav": b"x" * 3_000, "list.txt": b"l"}
TARS = {"tar": "w", "tar.gz": "w:gz", "tar.bz2": "w:bz2", "tar.xz": "w:xz"}


def pack(folder: Path, kind: str, files: dict[str, bytes] = FILES) -> Path:
    """An archive of ``files``; a name that ends in ``/`` is a folder."""
    path = folder / f"archive.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
            for name, data in files.items():
                packed.writestr(name, data)
        return path
    with tarfile.open(path, TARS[kind]) as tar:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name.rstrip("/") if name != "/" else name)
            info.size = len(data)
            if name.endswith(("/", ".")):
                info.type = tarfile.DIRTYPE
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize("kind", [*TARS, "zip"])
@pytest.mark.parametrize("first", [".", "./", "a/", "./a/"])
def test_members_that_name_the_folder_itself_are_no_files(
    first: str, kind: str, tmp_path: Path
) -> None:
    inside = {f"./{name}" if first.startswith(".") else name: FILES[name] for name in FILES}
    archive = pack(tmp_path, kind, {first: b"", **inside} if kind != "zip" else inside)
    assert extract(archive, tmp_path / "to") == len(FILES)
    assert content(tmp_path / "to") == dict(sorted(FILES.items()))


def test_the_top_folder_that_is_taken_off_is_no_file(tmp_path: Path) -> None:
    archive = pack(tmp_path, "tar.gz", {"top": b"", **{f"top/{k}": v for k, v in FILES.items()}})
    assert extract(archive, tmp_path / "to", strip=1) == len(FILES)


def patched(archive: Path, field: str, value: int) -> Path:
    """A zip with another value in a field of each local and central header."""
    local, central, size = {"flags": (6, 8, 2), "method": (8, 10, 2), "size": (22, 24, 4)}[field]
    data = bytearray(archive.read_bytes())
    for mark, place in ((b"PK\3\4", local), (b"PK\1\2", central)):
        at = data.find(mark)
        while at >= 0:
            data[at + place : at + place + size] = value.to_bytes(size, "little")
            at = data.find(mark, at + 4)
    archive.write_bytes(data)
    return archive


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("flags", 1, "is encrypted"),
        ("method", 9, "method 9 .*deflate64"),
        ("method", 93, "method 93"),
        ("size", 0xFFFFFFFE, "over 100 times its size"),
    ],
)
def test_a_sound_zip_that_python_cannot_unpack_is_named_and_kept(
    field: str, value: int, reason: str, tmp_path: Path
) -> None:
    archive = patched(pack(tmp_path, "zip"), field, value)
    with pytest.raises(ElasticToolError, match=reason) as caught:
        extract(archive, tmp_path / "to")
    assert not isinstance(caught.value, BadArchive)  # which a download deletes
    assert "unpack it yourself" in caught.value.hint
    assert not (tmp_path / "to").exists()


@pytest.mark.parametrize("size", [1 << 40, 1 << 62])
def test_a_tar_that_promises_more_than_it_could_hold_is_refused(size: int, tmp_path: Path) -> None:
    archive = pack(tmp_path, "tar")
    info = tarfile.TarInfo("huge.wav")
    info.size = size
    archive.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + archive.read_bytes())
    with pytest.raises(ElasticToolError, match="over 100 times its size; nothing was unpacked"):
        extract(archive, tmp_path / "to")
    assert not (tmp_path / "to").exists()


def test_an_archive_without_room_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(9, 0, 9))
    with pytest.raises(ElasticToolError, match=r"has 0\.0 GB left"):
        extract(pack(tmp_path, "zip"), tmp_path / "to" / "deeper")


@pytest.mark.parametrize("kind", [*TARS, "zip"])
def test_a_damaged_archive_is_one_error_and_never_half_read_in_silence(
    kind: str, tmp_path: Path
) -> None:
    whole = pack(tmp_path, kind).read_bytes()
    archive = tmp_path / f"archive.{kind}"
    for seed in range(60):
        draw = random.Random(seed)
        data = bytearray(whole)
        place = draw.randrange(len(data))
        if seed % 3:
            data[place] ^= draw.randrange(1, 256)
        else:
            del data[place:]
        archive.write_bytes(data)
        shutil.rmtree(tmp_path / "to", ignore_errors=True)
        with suppress(ElasticToolError):
            assert extract(archive, tmp_path / "to") == len(FILES)  # its padding is damaged
            assert kind == "tar" or content(tmp_path / "to") == dict(sorted(FILES.items()))


def broken_gzip(archive: Path) -> None:
    data = bytearray(archive.read_bytes())
    data[-8:-4] = struct.pack("<I", 1)  # the checksum: BadGzipFile, when the end is read
    archive.write_bytes(data)


def broken_header(archive: Path) -> None:
    data = bytearray(archive.read_bytes())
    at = data.find(b"a/1.wav")
    data[at : at + 4] = b"zzzz"  # tarfile alone would take it for the end
    archive.write_bytes(data)


def longer_record(archive: Path) -> None:
    """Lets the second record of a zip's list reach over the third one."""
    data = bytearray(archive.read_bytes())
    second = data.find(b"PK\1\2", data.find(b"PK\1\2") + 1)
    third = data.find(b"PK\1\2", second + 1)
    struct.pack_into("<H", data, second + 32, data.find(b"PK\1\2", third + 1) - third)
    archive.write_bytes(data)


def zero_in_a_name(archive: Path) -> None:
    archive.write_bytes(archive.read_bytes().replace(b"a/1.wav", b"a/\0\0wav"))


def cut(archive: Path) -> None:
    archive.write_bytes(archive.read_bytes()[:-6_000])


@pytest.mark.parametrize(
    ("kind", "damage"),
    [("tar", broken_header), ("tar", cut), ("tar.gz", cut), ("tar.bz2", cut), ("tar.xz", cut),
     ("zip", cut), ("zip", longer_record), ("zip", zero_in_a_name), ("tar.gz", broken_gzip)],
)  # fmt: skip
def test_damage_is_named(kind: str, damage: Any, tmp_path: Path) -> None:
    archive = pack(tmp_path, kind, {**FILES, "last.wav": random.Random(1).randbytes(9_000)})
    damage(archive)
    with pytest.raises(BadArchive, match=r"is not a readable (zip|tar) archive"):
        extract(archive, tmp_path / "to")
