"""More audio than a header states is read where its length can be known, and counted elsewhere."""

from __future__ import annotations

import io
import itertools
import re
import struct
import time
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from elastictool.audio import trials
from elastictool.audio.decode import decode, probe, recording, resample_blocks
from elastictool.audio.reader import Waveform
from elastictool.utils.errors import AudioError

RATE_HZ = trials.RATE_HZ
GIB = 1 << 30
ID3V1 = b"TAG" + bytes(125)
APE = b"APETAGEX" + struct.pack("<IIII8x", 2000, 40, 1, 0) + b"\3\0\0\0\0\0\0\0"
APE += b"APETAGEX" + struct.pack("<IIII8x", 2000, 40, 1, 1 << 31)


def noise(seconds: float = 0.5, seed: int = 0) -> Waveform:
    values = 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * RATE_HZ))
    return values.astype(np.float32)


def made(kind: str, seconds: float = 0.5) -> bytes:
    if kind == "hdf5":
        pytest.importorskip("h5py")
    try:
        return trials.sample(kind, noise(seconds))
    except AudioError as error:
        pytest.skip(error.message)


def read(source: bytes | Path) -> tuple[Waveform, dict[str, int]]:
    """The samples, and what was lost."""
    with recording(source) as opened:
        return np.concatenate(list(opened.blocks())), opened.losses


def patched(content: bytes, at: int, value: bytes) -> bytes:
    return content[:at] + value + content[at + len(value) :]


def with_length(kind: str, length: int) -> bytes:
    """Half a second of 16-bit samples, of which the header states ``length`` bytes."""
    content = made(kind)
    if kind == "flac":
        packed = int.from_bytes(content[18:26], "big") >> 36 << 36 | length // 2
        return patched(content, 18, packed.to_bytes(8, "big"))
    if kind == "nist":
        return content.replace(b"sample_count -i 24000", b"sample_count -i %05d" % (length // 2))
    name, offset, form, more = LENGTHS[kind]
    at = content.rfind(name) + offset
    return patched(content, at, struct.pack(form, length + more))


LENGTHS = {
    "wav": (b"data", 4, "<I", 0),
    "rf64": (b"ds64", 16, "<Q", 0),
    "w64": (b"data\xf3\xac", 16, "<Q", 24),
    "aiff": (b"SSND", 4, ">I", 8),
    "au": (b".snd", 8, ">I", 0),
    "caf": (b"data", 4, ">q", 4),
}
"""The name before the length, the bytes between, its form, and what else it counts."""
KINDS = ("wav", "rf64", "w64", "nist", "flac", "aiff", "au", "caf")


@pytest.mark.parametrize("kind", KINDS)
def test_audio_behind_the_length_of_the_header_is_counted(kind: str) -> None:
    first, losses = read(with_length(kind, 20_000))
    assert np.array_equal(first, decode(made(kind))[0][:10_000])
    if kind == "flac":
        assert 10_000 < losses.pop("unread_bytes") < 28_000 and not losses
    else:
        assert losses == {"unread_bytes": 28_000}


@pytest.mark.parametrize("kind", [*KINDS, "mp4", "asf"])
def test_a_second_file_behind_the_first_is_counted(kind: str) -> None:
    whole, second = decode(made(kind))[0], made(kind, 0.7)
    samples, losses = read(made(kind) + second)
    assert np.array_equal(samples, whole)
    assert losses == {"unread_bytes": len(second)}
    assert probe(made(kind) + second).num_samples == len(whole)


BEHIND = [
    *itertools.product(("wav", "au", "mp4", "asf"), ("ogg", "wavpack", "wav", "hdf5", "nist")),
    *itertools.product(("webm", "avi"), ("ogg", "wav", "mp4")),
]


@pytest.mark.parametrize(("first", "second"), BEHIND)
def test_a_file_of_another_format_behind_the_first_is_counted(first: str, second: str) -> None:
    whole, other = decode(made(first))[0], made(second)
    samples, losses = read(made(first) + other)
    assert np.array_equal(samples, whole)
    assert 0.9 * len(other) < losses["unread_bytes"] <= len(other)


def test_values_that_are_not_finite_give_no_warning(recwarn: pytest.WarningsRecorder) -> None:
    buffer = io.BytesIO()
    samples = np.stack([noise(), noise()], axis=1)
    samples[100] = np.inf, -np.inf
    soundfile.write(buffer, samples, RATE_HZ, format="WAV", subtype="FLOAT")
    with pytest.raises(AudioError, match="the first is 100"):
        decode(buffer.getvalue())
    assert not list(recwarn)


@pytest.mark.parametrize("subtype", ("FLOAT", "MS_ADPCM", "PCM_24"))
def test_a_second_wav_of_another_encoding_is_counted(subtype: str) -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, noise(), RATE_HZ, format="WAV", subtype=subtype)
    content = buffer.getvalue()
    samples, losses = read(content * 2)
    assert np.array_equal(samples, decode(content)[0])
    assert losses == {"unread_bytes": len(content)}


@pytest.mark.parametrize("kind", [*KINDS, "ogg", "opus", "mp4"])
@pytest.mark.parametrize("tail", [ID3V1, APE, APE + ID3V1, bytes(500)])
def test_tags_and_padding_behind_the_audio_are_no_loss(kind: str, tail: bytes) -> None:
    samples, losses = read(made(kind) + tail)
    assert np.array_equal(samples, decode(made(kind))[0]) and not losses


def test_junk_behind_the_audio_is_counted() -> None:
    junk = np.random.default_rng(1).bytes(6_000)
    for kind in ("wav", "flac", "ogg", "mp4", "wavpack"):
        samples, losses = read(made(kind) + junk)
        assert np.array_equal(samples, decode(made(kind))[0])
        assert 5_000 < losses["unread_bytes"] < 6_200


@pytest.mark.parametrize("odd", (0, 1))
def test_chunks_behind_the_audio_are_no_loss(odd: int) -> None:
    """Also where the byte is missing that makes the length of the samples even."""
    content = made("wav")
    chunks = b"LIST" + struct.pack("<I", 5) + b"hello\0" + b"bext" + struct.pack("<I", 2) + b"ab"
    content = patched(content[: len(content) - odd], 40, struct.pack("<I", 48_000 - odd))
    assert not read(content + chunks)[1]
    assert read(content + chunks + b"RIFF" + struct.pack("<I", 4) + b"WAVE")[1]


PLACEHOLDERS = {
    "wav": (0, 0x7FFFF000, 0x7FFFFFFC, 0x80000000, 0xFFFFFFDB),
    "au": (0x7FFFF000, 0xFFFFFFFF),
    "aiff": (-8, 0x7FFFFFFF - 8, 0xFFFFFFFF - 8),
    "caf": (-5, -4),
    "w64": (-24, (1 << 63) - 1 - 24, (1 << 64) - 1 - 24),
    "rf64": (0,),
    "flac": (0,),
}
"""What stands for a length that was not known when the header was written."""


@pytest.mark.parametrize(
    ("kind", "length"), [(kind, length) for kind, some in PLACEHOLDERS.items() for length in some]
)
def test_a_placeholder_means_to_the_end(kind: str, length: int) -> None:
    samples, losses = read(with_length(kind, length))
    assert np.array_equal(samples, decode(made(kind))[0]) and not losses


def sparse(path: Path, header: bytes, length: int, tail: bytes = b"") -> Path:
    """A file of ``length`` bytes of silence with a click at the end, which needs no disk."""
    with path.open("wb") as file:
        file.write(header)
        file.seek(len(header) + length - 2)
        file.write(b"\x40\x40" + tail)
    return path


def wav_header(length: int) -> bytes:
    form = struct.pack("<HHIIHH", 1, 1, RATE_HZ, 2 * RATE_HZ, 2, 16)
    sizes = (struct.pack("<I", size % (1 << 32)) for size in (length + 36, 16, length))
    riff, form_size, data = sizes
    return b"RIFF" + riff + b"WAVEfmt " + form_size + form + b"data" + data


def _clicks_at_the_end(path: Path, length: int) -> None:
    assert probe(path).num_samples == length // 2
    end, _ = decode(path, length // 2 - 1_000)
    assert len(end) == 1_000 and end[-1] > 0.4 and not end[:-1].any()


@pytest.mark.parametrize("length", [4 * GIB + 960_000, 13 * GIB + 2])
@pytest.mark.parametrize("tail", [b"", b"LIST\4\0\0\0abcd"])
def test_a_wav_over_4_gib_is_whole_where_size_and_header_agree(
    length: int, tail: bytes, tmp_path: Path
) -> None:
    path = sparse(tmp_path / "long.wav", wav_header(length), length, tail)
    _clicks_at_the_end(path, length)


def test_au_and_aiff_over_4_gib_are_whole(tmp_path: Path) -> None:
    length = 4 * GIB + 960_000
    header = patched(made("au")[:24], 8, struct.pack(">I", length % (1 << 32)))
    _clicks_at_the_end(sparse(tmp_path / "long.au", header, length), length)
    at = made("aiff").index(b"SSND") + 4
    header = patched(made("aiff")[: at + 12], at, struct.pack(">I", (length + 8) % (1 << 32)))
    _clicks_at_the_end(sparse(tmp_path / "long.aiff", header, length), length)


@pytest.mark.parametrize("stated", [0x7FFFFFFF, 0xFFFFFFFF])
def test_a_piped_wav_over_4_gib_is_read_to_its_end(stated: int, tmp_path: Path) -> None:
    length = 4 * GIB + 960_000
    header = patched(wav_header(0), 40, struct.pack("<I", stated))
    _clicks_at_the_end(sparse(tmp_path / "piped.wav", header, length), length)


def test_a_wav_over_4_gib_whose_header_disagrees_is_counted(tmp_path: Path) -> None:
    path = sparse(tmp_path / "long.wav", wav_header(50_000), 4 * GIB + 960_000)
    samples, losses = read(path)
    assert len(samples) == 25_000
    assert losses == {"unread_bytes": 4 * GIB + 910_000}


def test_what_a_compressed_wav_over_4_gib_does_not_count_is_counted(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, noise(), RATE_HZ, format="WAV", subtype="MS_ADPCM")
    content = buffer.getvalue()
    path = sparse(tmp_path / "long.wav", content, 4 * GIB)
    samples, losses = read(path)
    assert np.array_equal(samples, decode(content)[0])
    assert losses == {"unread_bytes": 4 * GIB}


def test_further_audio_streams_are_counted() -> None:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as file:
        streams = [file.add_stream("pcm_s16le", rate=RATE_HZ, layout="mono") for _ in range(3)]
        for number, stream in enumerate(streams):
            samples = (noise(seed=number)[None] * 32_767).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            frame.sample_rate, frame.pts = RATE_HZ, 0
            for packet in (*stream.encode(frame), *stream.encode(None)):
                file.mux(packet)
    samples, losses = read(buffer.getvalue())
    np.testing.assert_allclose(samples, noise(), atol=2 / 32_768)
    assert losses == {"other_streams": 2}


def test_a_header_without_audio_is_refused_at_once(tmp_path: Path) -> None:
    started = time.monotonic()
    path = sparse(tmp_path / "zeros.wav", wav_header(0)[:36], 8 * GIB)
    with pytest.raises(AudioError):
        decode(path)
    assert time.monotonic() - started < 5


def test_an_id3_tag_with_a_footer_is_passed_over() -> None:
    tag = b"ID3\4\0\x10\0\0\0\x14" + bytes(20)
    assert np.array_equal(decode(tag + b"3DI" + tag[3:10] + made("wav"))[0], decode(made("wav"))[0])


@pytest.mark.parametrize("rate_hz", [100, 127.5, 4_000])
def test_resampling_one_block_from_a_low_rate_is_bounded(rate_hz: float) -> None:
    samples = noise(2.0)
    blocks = [block for block, _ in resample_blocks([samples], rate_hz, 16_000)]
    assert abs(sum(map(len, blocks)) - len(samples) * 16_000 / rate_hz) < 2
    assert max(map(len, blocks)) <= 1 << 22


class _BadDisk(io.BytesIO):
    """Fails behind its first bytes."""

    def readinto(self, buffer: object, /) -> int:
        if self.tell() + len(buffer) > 30_000:  # type: ignore[arg-type]
            raise OSError(5, "Input/output error")
        return super().readinto(buffer)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["wav", "flac"])
def test_a_disk_that_fails_is_the_reason_and_prints_nothing(
    kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(AudioError, match=r"cannot be read .Input/output error"):
        decode(_BadDisk(made(kind)))
    assert not capfd.readouterr().err


def test_a_length_that_leads_nowhere_prints_no_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, noise(), RATE_HZ, format="CAF")
    content = buffer.getvalue()
    damaged = patched(content, content.find(b"data") + 4, struct.pack(">q", 1 << 62))
    assert np.array_equal(decode(damaged)[0], decode(content)[0])
    assert not capfd.readouterr().err


@pytest.mark.parametrize("stated", ("99:59:59.000000000", "00:00:00.200000000"))
def test_a_wrong_tag_of_the_duration_does_not_matter(stated: str) -> None:
    content = made("webm")
    at = content.find(b"DURATION")
    at = content.find(b"00:00:", at)
    assert at > 0
    samples, losses = read(patched(content, at, stated.encode()))
    assert len(samples) == len(decode(content)[0]) and not losses


@pytest.mark.parametrize("length", (b"\0\0\0\x20", b"\x7f\x7f\x7f\x7f"))
def test_a_file_that_holds_only_a_tag_says_so(length: bytes) -> None:
    with pytest.raises(AudioError, match="holds only an ID3 tag"):
        decode(b"ID3\4\0\0" + length + bytes(32))


@pytest.mark.parametrize("kind", ["ogg", "opus", "ogg-flac"])
def test_a_damaged_page_before_the_first_sound_is_refused(kind: str) -> None:
    whole = trials.sample(kind, trials.tone(2.0))
    pages = [match.start() for match in re.finditer(b"OggS", whole)]
    (first,) = [at for at in pages if int.from_bytes(whole[at + 6 : at + 14], "little")][:1]
    damaged = bytearray(whole)
    damaged[first + 200] ^= 1
    with pytest.raises(AudioError, match="before the first sound is damaged"):
        decode(bytes(damaged))
    tagged = b"ID3\4\0\0\0\0\0\x14" + bytes(20) + whole
    assert len(decode(tagged)[0]) == len(decode(whole)[0])
