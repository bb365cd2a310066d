"""Every listed format is read by its content, in full and in part, and no cut goes unnoticed."""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from elastictool.audio import trials
from elastictool.audio.decode import decode, probe, recording
from elastictool.audio.formats import AUDIO_SUFFIXES, FORMATS, misnamed, sniff
from elastictool.audio.reader import Waveform
from elastictool.utils.errors import AudioError

RATE_HZ = trials.RATE_HZ
KINDS = [kind.name for kind in FORMATS]
CHECKED_KINDS = [
    *("wav", "rf64", "w64", "nist", "flac", "aiff", "au", "caf", "mp3", "ogg", "opus", "ogg-flac")
]
"""Formats whose header or last page shows that a file was cut off anywhere."""
LOSSLESS = ("wav", "rf64", "w64", "nist", "flac", "aiff", "au", "caf", "avi", "hdf5")
SECONDS = 3.0


def music(seconds: float = SECONDS) -> Waveform:
    """A tone whose loudness changes, under noise: no two parts are alike."""
    size = round(seconds * RATE_HZ)
    noise = 0.02 * np.random.default_rng(0).standard_normal(size)
    swell = 0.3 * (1.2 + np.sin(np.arange(size) / RATE_HZ * 5))
    tone = np.sin(2 * np.pi * 440 / RATE_HZ * np.arange(size))
    return (swell * tone + noise).astype(np.float32)


_made: dict[str, bytes] = {}


def made(kind: str) -> bytes:
    """``music`` in a format; skips where this installation lacks the encoder."""
    if kind not in _made:
        if kind == "hdf5":
            pytest.importorskip("h5py")
        try:
            _made[kind] = trials.sample(kind, music())
        except AudioError as error:
            pytest.skip(error.message)
    return _made[kind]


def test_everything_that_can_be_tried_is_read_here() -> None:
    pytest.importorskip("h5py")
    tried = {kind.name: trials.try_format(kind) for kind in FORMATS}
    assert {name: detail for name, (reads, detail) in tried.items() if reads is False} == {}


@pytest.mark.parametrize("kind", KINDS)
def test_a_format_is_known_by_its_first_bytes_alone(kind: str, tmp_path: Path) -> None:
    content = made(kind)
    found = sniff(content[:64])
    assert found is not None and found.name == kind
    for name in ("x.wav", "x.mp3", "x.raw", "x"):
        (tmp_path / name).write_bytes(content)
        assert np.array_equal(decode(tmp_path / name)[0], decode(content)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_length_rate_and_samples_are_what_was_written(kind: str) -> None:
    decoded, rate_hz = decode(made(kind))
    info = probe(made(kind))
    assert (rate_hz, info.sample_rate_hz, info.channels) == (RATE_HZ, RATE_HZ, 1)
    assert abs(info.num_samples - len(decoded)) <= 0.01 * RATE_HZ
    if kind in LOSSLESS:
        assert len(decoded) == len(music())
        assert np.abs(decoded - music()).max() <= 1 / 32_768
    else:
        assert abs(len(decoded) - len(music())) < 0.1 * RATE_HZ
        assert kind != "mp4" or len(decoded) == len(music())  # it says where its filling begins
        assert np.corrcoef(_aligned(decoded), music()[:-8_000])[0, 1] > 0.95


def _aligned(decoded: Waveform) -> Waveform:
    """Without what an encoder put in front."""
    size = len(music()) - 8_000
    best = int(np.argmax(np.correlate(decoded[:12_000], music()[:8_000], "valid")))
    return decoded[best : best + size]


@pytest.mark.parametrize("kind", [k for k in KINDS if k not in ("webm", "mp4")])
def test_a_partial_read_is_the_slice_of_the_whole(kind: str) -> None:
    whole = decode(made(kind))[0]
    for start, stop in ((0, 10), (1, 999), (40_000, 50_000), (100_001, 140_000), (130_000, None)):
        part = decode(made(kind), start, stop)[0]
        np.testing.assert_allclose(part, whole[start:stop], atol=2e-7, rtol=0)


def test_a_slice_of_an_mp4_begins_where_it_should() -> None:
    content = trials.encode_with_av(music(), "mov", "alac")
    whole = decode(content)[0]
    for start in (0, 500, 60_001, 130_000):
        assert np.array_equal(decode(content, start, start + 5_000)[0], whole[start:][:5_000])


def test_a_slice_of_a_webm_begins_within_a_millisecond_of_where_it_should() -> None:
    whole = decode(made("webm"))[0]
    for start in (0, 500, 60_001, 130_000):
        part = decode(made("webm"), start, start + 5_000)[0]
        assert len(part) == 5_000
        lags = range(-RATE_HZ // 1_000, RATE_HZ // 1_000 + 1)
        off = [
            np.abs(part[100:-100] - whole[start + lag + 100 :][:4_800]).max()
            for lag in lags
            if start + lag + 100 >= 0
        ]
        assert min(off) < 1e-6


class _Counting(io.BytesIO):
    """Counts what is read."""

    count = 0

    def read(self, size: int | None = -1, /) -> bytes:
        content = super().read(size)
        self.count += len(content)
        return content


def test_a_slice_of_a_long_container_reads_a_part_of_it() -> None:
    content = trials.encode_with_av(np.tile(music(), 40), "mov", "pcm_s16le")
    file = _Counting(content)
    assert len(decode(file, 100 * RATE_HZ, 101 * RATE_HZ)[0]) == RATE_HZ
    assert file.count < len(content) / 10


@pytest.mark.parametrize("share", (0.15, 0.5, 0.9, 0.999))
@pytest.mark.parametrize("kind", KINDS)
def test_no_cut_goes_unnoticed(kind: str, share: float) -> None:
    content = made(kind)
    if share > 0.99 and kind not in CHECKED_KINDS:
        return  # only an index at the end is missing, no audio
    with pytest.raises(AudioError, match=r"truncated|malformed|no samples"):
        decode(content[: int(share * len(content))])


@pytest.mark.parametrize("kind", [k for k in CHECKED_KINDS if k != "flac"])
def test_a_cut_is_noticed_though_only_the_beginning_is_wanted(kind: str) -> None:
    with pytest.raises(AudioError, match=r"truncated|malformed"):
        decode(made(kind)[:-500], 0, 100)


def test_an_ogg_without_its_last_page_is_refused() -> None:
    content = made("ogg")
    last = content.rfind(b"OggS")
    with pytest.raises(AudioError, match="no end-of-stream page"):
        decode(content[:last])
    # libsndfile 1.2.0 (in soundfile 0.12) decodes the last bits of a vorbis stream differently.
    tagged, plain = decode(content + b"TAG junk")[0], decode(content)[0]
    np.testing.assert_allclose(tagged, plain, rtol=0, atol=1e-6)


def test_an_au_written_into_a_pipe_is_read_to_its_end() -> None:
    for unknown in (0xFFFFFFFF, 0x7FFFF000):
        au = bytearray(made("au"))
        au[8:12] = struct.pack(">I", unknown)
        assert len(decode(bytes(au))[0]) == len(music())


def _stripped(mp3: bytes) -> bytes:
    """Without the frame that says how many follow."""
    return mp3[mp3.index(mp3[:2], max(mp3.find(b"Xing"), mp3.find(b"Info"))) :]


@pytest.mark.parametrize("tag", [b"", b"ID3\x03\x00\x00\x00\x00\x01\x00" + bytes(128)])
def test_an_mp3_without_a_length_is_counted(tag: bytes) -> None:
    quiet_at_the_end = np.concatenate((music(), 0.001 * music(6.0)))
    whole = trials.sample("mp3", quiet_at_the_end)
    content = tag + _stripped(whole)
    guessed = soundfile.SoundFile(io.BytesIO(content)).frames
    decoded = decode(content)[0]
    assert guessed < 0.9 * len(quiet_at_the_end) < len(decoded)
    assert probe(content).num_samples == len(decoded)
    delay = len(decoded) - len(quiet_at_the_end)
    assert 0 <= delay < 3 * 1_152
    expected = decode(whole)[0]
    lag = min(range(delay + 1), key=lambda k: np.abs(decoded[k:][:9_000] - expected[:9_000]).max())
    np.testing.assert_array_equal(decoded[lag:][:300_000], expected[:300_000])
    np.testing.assert_allclose(decode(content, 200_000, 210_000)[0], decoded[200_000:210_000])


@pytest.mark.parametrize("rate_hz", (16_000, 44_100))
def test_a_part_of_an_mp3_has_the_bits_that_it_borrows(rate_hz: int) -> None:
    buffer = io.BytesIO()
    with soundfile.SoundFile(buffer, "w", rate_hz, 1, format="MP3") as file:
        file.write(music())
    whole = decode(buffer.getvalue())[0]
    for start in range(1_000, len(whole) - 2_000, 9_001):
        part = decode(buffer.getvalue(), start, start + 1_000)[0]
        np.testing.assert_allclose(part, whole[start : start + 1_000], atol=1e-6)


def test_a_flac_without_a_length_is_counted() -> None:
    content = bytearray(made("flac"))
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    assert soundfile.SoundFile(io.BytesIO(bytes(content))).frames > 1 << 60
    assert probe(bytes(content)).num_samples == len(music())
    assert np.array_equal(decode(bytes(content))[0], decode(made("flac"))[0])


SUBTYPES = [
    ("WAV", "PCM_U8", 1 / 127), ("WAV", "PCM_24", 1e-6), ("WAV", "PCM_32", 1e-6),
    ("WAV", "FLOAT", 0), ("WAV", "DOUBLE", 1e-7), ("WAV", "ULAW", 0.02), ("WAV", "ALAW", 0.02),
    ("WAVEX", "PCM_24", 1e-6), ("WAVEX", "FLOAT", 0), ("RF64", "PCM_24", 1e-6),
    ("AIFF", "PCM_S8", 1 / 127), ("AIFF", "PCM_24", 1e-6), ("AIFF", "FLOAT", 0),
    ("AU", "ULAW", 0.02), ("AU", "DOUBLE", 1e-7), ("CAF", "ALAC_24", 1e-6), ("W64", "FLOAT", 0),
    ("WAV", "MS_ADPCM", 0.3), ("WAV", "GSM610", 1.0),
]  # fmt: skip


@pytest.mark.parametrize(("container", "subtype", "error"), SUBTYPES)
def test_every_bit_depth_is_read(container: str, subtype: str, error: float) -> None:
    buffer = io.BytesIO()
    with soundfile.SoundFile(buffer, "w", RATE_HZ, 1, format=container, subtype=subtype) as file:
        file.write(music())
    decoded = decode(buffer.getvalue())[0]
    assert np.abs(decoded[: len(music())] - music()).max() <= error
    part = decode(buffer.getvalue(), 20_000, 30_000)[0]
    np.testing.assert_allclose(part, decoded[20_000:30_000], atol=1e-6)


@pytest.mark.parametrize(("valid", "container"), [(12, 16), (20, 24), (24, 32)])
def test_wave_extensible_with_fewer_valid_bits_than_it_stores(valid: int, container: int) -> None:
    """The valid bits are the upper ones (WAVEFORMATEXTENSIBLE)."""
    values = np.array([0, 1, -1, 2 ** (valid - 2), -(2 ** (valid - 1))], dtype=np.int64)
    width = container // 8
    stored = b"".join(
        int(value << (container - valid)).to_bytes(width, "little", signed=True) for value in values
    )
    pcm = bytes.fromhex("0100000000001000800000aa00389b71")
    form = struct.pack("<HHIIHH", 0xFFFE, 1, RATE_HZ, RATE_HZ * width, width, container)
    form += struct.pack("<HHI", 22, valid, 4) + pcm
    body = b"WAVEfmt " + struct.pack("<I", len(form)) + form
    body += b"data" + struct.pack("<I", len(stored)) + stored
    content = b"RIFF" + struct.pack("<I", len(body)) + body
    np.testing.assert_allclose(decode(content)[0], values / 2.0 ** (valid - 1), atol=1e-7)


@pytest.mark.parametrize("codec", ["libmp3lame", "ac3"])
def test_a_wav_of_another_codec_is_read(codec: str) -> None:
    content = trials.encode_with_av(music(), "wav", codec)
    decoded = decode(content)[0]
    assert abs(len(decoded) - len(music())) < 0.1 * RATE_HZ
    assert np.corrcoef(_aligned(decoded), music()[:-8_000])[0, 1] > 0.95
    with pytest.raises(AudioError, match="truncated"):
        decode(content[:-5_000])


def test_an_ending_of_another_format_is_found(tmp_path: Path) -> None:
    for name, kind, format_found in (
        ("a.mp3", "wav", "wav"), ("a.wav", "wav", ""), ("a.ogg", "opus", ""),
        ("a.opus", "ogg", "ogg"), ("a.WAV", "nist", ""), ("a.dat", "wav", ""),
    ):  # fmt: skip
        (tmp_path / name).write_bytes(made(kind))
        assert misnamed(tmp_path / name) == format_found
    (tmp_path / "text.wav").write_text("hello")
    assert misnamed(tmp_path / "text.wav") == misnamed(tmp_path / "gone.wav") == ""


def test_suffixes_are_lower_case_and_begin_with_a_dot() -> None:
    assert all(suffix == suffix.lower() and suffix[0] == "." for suffix in AUDIO_SUFFIXES)
    assert {".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".mp4", ".webm"} <= AUDIO_SUFFIXES


def test_a_video_without_sound_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as file:
        video = file.add_stream("mpeg4", rate=10)
        video.width = video.height = 64
        video.pix_fmt = "yuv420p"
        picture = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
        for packet in (*video.encode(picture), *video.encode(None)):
            file.mux(packet)
    with pytest.raises(AudioError, match="no audio stream"):
        decode(buffer.getvalue())


def test_a_list_of_files_opens_none_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("private.wav").write_bytes(made("wav"))
    with pytest.raises(AudioError, match="not readable as audio"):
        decode(b"ffconcat version 1.0\nfile 'private.wav'\n")


def test_an_index_that_leads_past_the_position_is_not_trusted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    content = trials.encode_with_av(music(), "mov", "alac")
    whole = decode(content)[0]
    monkeypatch.setattr("elastictool.audio.pyav.RUN_UP_SAMPLES", -48_000)
    assert np.array_equal(decode(content, 60_001, 65_000)[0], whole[60_001:65_000])


ID3V1, ID3V2 = b"TAG" + bytes(125), b"ID3\x04\x00\x00\x00\x00\x01\x48" + bytes(200)


@pytest.mark.parametrize(
    ("kind", "between"),
    [
        *((kind, b"") for kind in ("ogg", "opus", "ogg-flac", "mp3", "aac")),
        *(("mp3", tags) for tags in (ID3V1, ID3V2, ID3V1 + ID3V2)),
        ("aac", ID3V2),
    ],
)
def test_joined_files_are_read_to_the_end(kind: str, between: bytes) -> None:
    second = trials.sample(kind, music(2.0))
    parts = [decode(made(kind))[0], decode(second)[0]]
    joined = made(kind) + between + second
    whole = decode(joined)[0]
    assert abs(len(whole) - sum(map(len, parts))) < 3 * 1_152
    np.testing.assert_allclose(whole[5_000:90_000], parts[0][5_000:90_000], atol=1e-6)
    end = parts[1][-30_000:-20_000]
    lags = np.lib.stride_tricks.sliding_window_view(whole[-35_000:-15_000], len(end))[::4]
    assert max(np.corrcoef(lag, end)[0, 1] for lag in lags) > 0.98
    assert probe(joined).num_samples == len(whole)
    for start in (60_000, 170_001):
        part = decode(joined, start, start + 5_000)[0]
        np.testing.assert_allclose(part, whole[start : start + 5_000], atol=1e-6)


@pytest.mark.parametrize("kind", ["alac", "mp4", "ogg", "ogg-flac"])
def test_a_damaged_packet_becomes_silence_and_later_sounds_keep_their_times(kind: str) -> None:
    content = trials.encode_with_av(music(), "mov", "alac") if kind == "alac" else made(kind)
    whole = decode(content)[0]
    third = len(content) // 3
    damaged = bytearray(content)
    damaged[third : third + 60] = bytes(60)
    with recording(bytes(damaged)) as opened:
        assert opened.damaged_packets == 0
        read = np.concatenate(list(opened.blocks()))
        assert 1 <= opened.damaged_packets < 10
    assert abs(len(read) - len(whole)) < 100
    size = min(len(read), len(whole))
    assert np.corrcoef(read[size - 9_000 : size], whole[size - 9_000 : size])[0, 1] > 0.99
    assert np.array_equal(read[:10_000], whole[:10_000])
    assert not np.array_equal(read[:size], whole[:size])
    with recording(bytes(damaged)) as opened:
        list(opened.blocks(0, 10_000))
        assert opened.damaged_packets == 0


def test_a_file_of_mostly_damaged_packets_is_refused() -> None:
    content = bytearray(trials.encode_with_av(music(), "mov", "alac"))
    first = content.index(b"mdat") + 4
    last = max(content.rfind(b"moov") - 20, len(content) // 2)
    for at in range(first + 20_000, last - 20_000, 1_000):
        content[at : at + 600] = bytes(600)
    with pytest.raises(AudioError, match="damaged or truncated"):
        decode(bytes(content))


def test_a_part_of_a_vorbis_file_with_changing_block_sizes_is_the_slice_of_the_whole() -> None:
    rng = np.random.default_rng(5)
    sound = music(30.0)
    for click in rng.integers(0, len(sound) - 300, 60):
        sound[click : click + 300] += 0.5 * rng.standard_normal(300).astype(np.float32)
    content = trials.sample("ogg", np.clip(sound, -0.9, 0.9))
    whole = decode(content)[0]
    assert len(whole) == len(sound)
    for start in rng.integers(0, len(whole) - 1_000, 40):
        np.testing.assert_array_equal(
            decode(content, int(start), int(start) + 1_000)[0], whole[start : start + 1_000]
        )


@pytest.mark.parametrize("kind", ["wavpack", "ogg", "aac", "mp4", "mp3"])
def test_tags_behind_a_file_are_passed_over(kind: str) -> None:
    ape = b"APETAGEX" + struct.pack("<IIII8x", 2000, 32, 0, 1 << 31)
    for tail in (ID3V1, ape, ape + ID3V1):
        assert np.array_equal(decode(made(kind) + tail)[0], decode(made(kind))[0])


def test_joined_wavpack_files_are_refused() -> None:
    with pytest.raises(AudioError, match="damaged"):
        decode(made("wavpack") * 2)


@pytest.mark.parametrize("tail", [ID3V1, bytes(5_000), b"LYRICSBEGIN" + b"la" * 200 + ID3V1])
def test_what_follows_the_last_frame_of_an_mp3_is_no_reason_to_refuse_it(tail: bytes) -> None:
    decoded, whole = decode(made("mp3") + tail)[0], decode(made("mp3"))[0]
    assert 0 <= len(decoded) - len(whole) < 1_152
    assert np.array_equal(decoded[: len(whole)], whole)
    assert np.array_equal(decode(made("mp3") + tail, 100_000)[0], decoded[100_000:])


@pytest.mark.parametrize("kind", ["wav", "flac", "aiff", "mp3", "aac"])
def test_what_follows_an_id3_tag_decides_the_format(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"x.{kind}"
    path.write_bytes(ID3V2 + made(kind))
    assert np.array_equal(decode(path)[0], decode(made(kind))[0])
    assert misnamed(path) == ""
    path.write_bytes(ID3V2 + made(kind)[:-4_000])
    with pytest.raises(AudioError, match="truncated"):
        decode(path)


@pytest.mark.parametrize("stated", [0, 0x7FFFFFFF, 0x80000000, 0xFFFFFF00, 0xFFFFFFFF])
def test_a_wav_written_into_a_pipe_is_read_to_its_end(stated: int) -> None:
    content = bytearray(made("wav"))
    at = content.index(b"data") + 4
    content[at : at + 4] = struct.pack("<I", stated)
    assert np.array_equal(decode(bytes(content))[0], decode(made("wav"))[0])


def test_a_header_that_ends_early_is_refused() -> None:
    with pytest.raises(AudioError, match="truncated"):
        decode(b"RF64\xff\xff\xff\xffWAVEds64\x1c\0\0\0")


@pytest.mark.parametrize("container", ["mp4", "mov", "matroska", "avi"])
def test_tags_in_another_encoding_are_no_reason_to_refuse_a_file(container: str) -> None:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as file:
        file.metadata["title"] = "Caf\u00e9"
        stream_ = file.add_stream("pcm_s16le" if container == "avi" else "aac", rate=RATE_HZ)
        stream_.layout = "mono"
        frame = av.AudioFrame.from_ndarray(music()[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = RATE_HZ, 0
        for packet in (*stream_.encode(frame), *stream_.encode(None)):
            file.mux(packet)
    content = buffer.getvalue()
    assert "\u00e9".encode() in content
    latin = content.replace("Caf\u00e9".encode(), b"Caf\xe9 ")
    assert np.array_equal(decode(latin)[0], decode(content)[0])


@pytest.mark.parametrize("rate_hz", [1, 99, 655_350_000])
def test_a_sample_rate_that_no_recorder_has_is_refused(rate_hz: int) -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, music()[:1_000], rate_hz, format="WAV")
    with pytest.raises(AudioError, match=f"{rate_hz} Hz"):
        decode(buffer.getvalue())


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "live.wav")
    with pytest.raises(AudioError, match="a pipe, not a file"):
        decode(tmp_path / "live.wav")


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("strange"), KeyError("x")])
def test_whatever_a_decoder_raises_refuses_the_file_with_its_reason(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    content = made("mp3")
    monkeypatch.setattr(av, "open", fail)
    with pytest.raises(AudioError, match=f"cannot be decoded .{type(error).__name__}"):
        decode(content)


def test_errors_while_streaming_come_from_the_blocks() -> None:
    damaged = bytearray(made("flac"))
    damaged[len(damaged) // 2 : len(damaged) // 2 + 50] = bytes(50)
    with recording(bytes(damaged)) as opened:
        blocks = opened.blocks()
        assert opened.sample_rate_hz == RATE_HZ
        with pytest.raises(AudioError, match="damaged"):
            list(blocks)
