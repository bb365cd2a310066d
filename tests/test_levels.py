"""Silence, constant samples and channels that cancel each other are noted, cut off or refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from elastictool.cli.prep import parse_silence
from elastictool.config import RunConfig
from elastictool.data.levels import Level, trimmed
from elastictool.data.options import PrepOptions, StorageOptions
from elastictool.data.prepare import prepare
from elastictool.data.store import PreparedStore
from elastictool.inference.recordings import windows
from elastictool.training.setup import resolve
from elastictool.utils.errors import UsageError
from tests.helpers.command_line import run_command

RNG = np.random.default_rng(0)


def noise(decibels: float, seconds: float = 1.0, rate: int = 16_000) -> np.ndarray:
    """Noise with a root mean square of ``decibels`` below full scale."""
    return 10 ** (decibels / 20) * RNG.standard_normal(int(seconds * rate))


def tone(decibels: float, seconds: float = 1.0, rate: int = 16_000) -> np.ndarray:
    """A tone with a root mean square of ``decibels`` below full scale."""
    at = np.arange(int(seconds * rate)) / rate
    return 2**0.5 * 10 ** (decibels / 20) * np.sin(2 * np.pi * 440 * at)


def click(where: int = 8_000) -> np.ndarray:
    """Silence around one sample at full scale."""
    samples = np.zeros(16_000)
    samples[where] = 0.9
    return samples


def prepared(
    folder: Path, waves: dict[str, np.ndarray], rate: int = 16_000, **storage: object
) -> PreparedStore:
    """The prepared recordings, all in class x; those called test… are test clips."""
    rows = ["path,label,split"]
    for name, wave in waves.items():
        soundfile.write(folder / f"{name}.wav", wave, rate, subtype="FLOAT")
        rows.append(f"{name}.wav,x,{'test' if name.startswith('test') else 'train'}")
    (folder / "t.csv").write_text("\n".join(rows) + "\n")
    settings = StorageOptions(**storage)  # type: ignore[arg-type]
    return prepare(PrepOptions("csv", folder / "t.csv", folder / "data", storage=settings))


def note_with(store: PreparedStore, text: str) -> str:
    """The one note that contains ``text``; empty if there is none."""
    notes = [note for note in store.info.notes if text in note]
    assert len(notes) < 2
    return notes[0] if notes else ""


SILENT = {
    "digital silence": np.zeros(16_000),
    "constant": np.full(16_000, 0.25),
    "noise at -86 dB": noise(-86),
    "tone at -85 dB": tone(-85),
    "noise on a constant": noise(-86) - 0.5,
}
AUDIBLE = {"noise": noise(-74), "tone": tone(-70), "click": click(), "loud": tone(-20)}


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_clips_under_80_db_are_silent_also_around_a_constant(rate: int, tmp_path: Path) -> None:
    waves = {f"s{i}": wave for i, wave in enumerate(SILENT.values())} | AUDIBLE
    store = prepared(tmp_path, waves, rate)
    assert store.info.splits["train"].silent == len(SILENT)
    assert note_with(store, "silent (").startswith(f"{len(SILENT)} clips are silent (under -80 dB")
    assert "s0.wav, s1.wav" in note_with(store, "silent (")


def test_what_only_higher_sample_rates_hold_is_silent_as_stored(tmp_path: Path) -> None:
    at = np.arange(192_000) / 192_000
    store = prepared(
        tmp_path, {"bat": np.hanning(len(at)) * np.sin(2 * np.pi * 45_000 * at)}, 192_000
    )
    assert store.info.splits["train"].silent == 1


def test_levels_do_not_depend_on_how_blocks_are_cut() -> None:
    for wave in (*SILENT.values(), *AUDIBLE.values()):
        whole, parts = Level(), Level()
        whole.add(wave)
        for block in np.array_split(wave, 7):
            parts.add(block)
        assert parts.silent == whole.silent
    assert not Level().silent


@pytest.mark.parametrize("kind", SILENT)
def test_training_data_that_are_all_silent_say_so_and_are_refused(
    kind: str, tmp_path: Path
) -> None:
    waves = {f"{name}{i}": SILENT[kind] for name in ("a", "b") for i in range(2)}
    store = prepared(tmp_path, waves | {"test1": tone(-20)})
    assert note_with(store, "silent (").startswith("all 4 training clips are silent")
    assert "a0.wav, a1.wav, b0.wav" in note_with(store, "silent (")
    with pytest.raises(UsageError, match=r"all 4 clips .* silent or constant: a0\.wav, ") as raised:
        resolve(RunConfig(), store)
    assert "--channel" in raised.value.hint


def test_one_audible_clip_is_enough_to_train(tmp_path: Path) -> None:
    store = prepared(tmp_path, {"a": SILENT["constant"], "b": tone(-20), "test1": click()})
    resolve(RunConfig(), store)


STEREO = {
    "inverted": (lambda left: (left, -left), True),
    "nearly inverted": (lambda left: (left, -0.9 * left + noise(-60)), True),
    "inverted on a constant": (lambda left: (left + 0.3, 0.3 - left), True),
    "equal": (lambda left: (left, left), False),
    "independent": (lambda left: (left, noise(-20)), False),
    "one empty": (lambda left: (left, 0 * left), False),
    "silent": (lambda left: (0 * left, 0 * left), False),
    "two of four": (lambda left: (left, -left, 0.5 * left, -0.5 * left), True),
}


@pytest.mark.parametrize("kind", STEREO)
@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT"])
def test_channels_that_cancel_each_other_are_noted(kind: str, subtype: str, tmp_path: Path) -> None:
    channels, cancelled = STEREO[kind]
    wave = np.stack(channels(noise(-20, rate=44_100)[:16_000]), axis=1)
    soundfile.write(tmp_path / "a.wav", wave, 44_100, subtype=subtype)
    (tmp_path / "t.csv").write_text("path,label,split\na.wav,x,train\n")
    options = PrepOptions("csv", tmp_path / "t.csv", tmp_path / "data")
    store = prepare(options)
    noted = note_with(store, "cancel each other")
    assert bool(noted) == cancelled
    if cancelled:
        assert "--channel" in noted and "a.wav" in noted
    first = PrepOptions(
        "csv", tmp_path / "t.csv", tmp_path / "first", storage=StorageOptions(channel=0)
    )
    assert not note_with(prepare(first), "cancel each other")


def test_recordings_to_predict_on_count_cancelled_channels(tmp_path: Path) -> None:
    left = noise(-20)
    for name, right in (("a.wav", -left), ("b.wav", left)):
        soundfile.write(tmp_path / name, np.stack([left, right], axis=1), 16_000)
        losses: dict[str, int] = {}
        list(windows(tmp_path / name, 16_000, 4_000, 4_000, losses))
        assert losses == ({"cancelled_channels": 2} if name == "a.wav" else {})


def test_silence_under_a_level_is_cut_off_both_ends(tmp_path: Path) -> None:
    parts = [noise(-80, 0.5), tone(-20, 0.5), noise(-80, 1.0), tone(-20, 0.5), noise(-80, 2.0)]
    wave = {"a": np.concatenate(parts)}
    assert prepared(tmp_path, wave, trim_silence=True).num_samples.tolist() == [72_000]
    (tmp_path / "data" / "t").rename(tmp_path / "whole")
    store = prepared(tmp_path, wave, trim_silence=-60.0)
    assert 31_900 < store.num_samples[0] <= 32_000
    assert note_with(store, "--trim-silence") == (
        "what stays under -60 dBFS at both ends was cut off (--trim-silence)"
    )


def test_long_quiet_parts_wait_on_disk(tmp_path: Path) -> None:
    loud, quiet = np.ones(1_000, dtype=np.float32), np.zeros(1 << 21, dtype=np.float32)
    blocks = [quiet, loud, quiet, quiet, loud, quiet]
    lengths = [len(block) for block in trimmed(iter(blocks), tmp_path)]
    assert sum(lengths) == 2 * len(loud) + 2 * len(quiet) and max(lengths) <= len(quiet)


@pytest.mark.parametrize(
    ("text", "value"), [("", False), ("on", True), ("-60", -60.0), ("-72.5dB", -72.5)]
)
def test_trim_silence_takes_a_level(text: str, value: bool | float) -> None:
    assert parse_silence(text) is value or parse_silence(text) == value


@pytest.mark.parametrize("text", ["60", "0", "loud", "nan", "-inf", "-1000"])
def test_a_level_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no level in dBFS"):
        parse_silence(text)


@pytest.mark.parametrize(
    ("arguments", "samples"),
    [
        (["--trim-silence", "--workers", "1"], 16_000),
        (["--trim-silence", "-50"], 8_000),
        (["--trim-silence=-50"], 8_000),
        (["--workers", "1", "--trim-silence"], 16_000),
        ([], 24_000),
    ],
)
def test_trim_silence_works_with_and_without_a_value(
    arguments: list[str], samples: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = [np.zeros(8_000), np.full(4_000, 1e-3), np.tile([0.5, -0.5], 4_000)]
    soundfile.write(tmp_path / "a.wav", np.concatenate([*parts, np.full(4_000, 1e-3)]), 16_000)
    (tmp_path / "t.csv").write_text("path,label,split\na.wav,x,train\n")
    command = ["prep", "-d", "csv", "--root", tmp_path / "t.csv", "--out", tmp_path / "data"]
    assert run_command(monkeypatch, *command, *arguments) == 0
    assert PreparedStore.open(tmp_path / "data" / "t").num_samples.tolist() == [samples]
