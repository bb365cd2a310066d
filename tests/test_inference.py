"""A trained model in daily use: results as from eval, for any recording, in bounded memory."""

from __future__ import annotations

import csv
import io
import json
import math
import pydoc
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner

import elastictool
from elastictool.cli.app import app
from elastictool.data.dataset import ClipDataset
from elastictool.data.options import PrepOptions
from elastictool.data.prepare import prepare
from elastictool.data.store import PreparedStore
from elastictool.inference.model import ElasticModel, WindowRule
from elastictool.inference.recordings import Array, expand, num_windows, windows
from elastictool.inference.vectors import EmbeddingTable, read_vectors, write_vectors
from elastictool.packing.batch import PackedBatch
from elastictool.training.predict_logits import score_clips
from elastictool.utils.errors import AudioError, UsageError
from elastictool.utils.signals import Stopped, StopRequest
from tests.helpers.command_line import run_command
from tests.helpers.corpus_trees import write_audio, write_table
from tests.helpers.saved_runs import save_run
from tests.helpers.toy_data import toy_store

RATE_HZ = 16_000


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> PreparedStore:
    return toy_store(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def run(store: PreparedStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_run(tmp_path_factory.mktemp("runs") / "elastic", store, max_frames=300)


@pytest.fixture(scope="module")
def model(run: Path) -> ElasticModel:
    return elastictool.load(run, device="cpu")


def noise(seconds: float, seed: int = 0) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    samples = np.random.default_rng(seed).uniform(-0.5, 0.5, round(seconds * RATE_HZ))
    return samples.astype(np.float32)


@pytest.mark.parametrize("size, hop", [(10, 10), (10, 4), (7, 3), (30, 30), (100, 1)])
def test_windows_cover_every_sample_and_none_lies_within_the_one_before(
    size: int, hop: int
) -> None:
    for length in range(1, 61):
        samples = np.arange(1, length + 1, dtype=np.float32) / 64
        found = list(windows(Array(samples, RATE_HZ), RATE_HZ, size, hop))
        assert all((w.waveform == samples[w.start : w.stop]).all() for w in found)
        assert all(len(w.waveform) == size for w in found[:-1])
        assert set().union(*(range(w.start, w.stop) for w in found)) == set(range(length))
        stops = [w.stop for w in found]
        assert stops == sorted(set(stops))
        assert [w.start for w in found] == [hop * i for i in range(len(found))]


def test_predictions_equal_those_of_eval(model: ElasticModel, store: PreparedStore) -> None:
    clips = list(range(len(store)))
    scores = score_clips(model.run.model, ClipDataset(store, model.run.feature_extractor), clips)
    expected = torch.from_numpy(scores.logits).softmax(1).numpy()
    arrays = [store.waveform(clip) for clip in clips]
    for row, found in zip(
        expected, model.predict(arrays, top=3, sample_rate_hz=RATE_HZ), strict=True
    ):
        names = [model.label_names[index] for index in np.argsort(-row)[:3]]
        assert [label for label, _ in found.labels] == names
        np.testing.assert_allclose([p for _, p in found.labels], sorted(row)[::-1][:3], atol=1e-5)


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 44_100])
def test_a_source_file_is_heard_as_its_prepared_clip(
    model: ElasticModel, rate_hz: int, tmp_path: Path
) -> None:
    # A tone in few bands: in the others, the rounding to 16 bits is all that there is.
    tone = 0.3 * np.sin(2 * np.pi * 300 * np.arange(rate_hz) / rate_hz)
    rows = [["path", "label"]]
    for number, label in enumerate(("high", "low", "noise")):
        soundfile.write(tmp_path / f"{number}.wav", tone, rate_hz, subtype="FLOAT")
        rows.append([f"{number}.wav", label])
    listing = write_table(tmp_path / "clips.csv", rows)
    store = prepare(PrepOptions("csv", listing, tmp_path / "data", name="tones"))
    path = tmp_path / "0.wav"
    (window,) = windows(path, RATE_HZ, 10 * RATE_HZ, RATE_HZ)
    np.testing.assert_array_equal(window.waveform, store.waveform(0))
    logits = score_clips(
        model.run.model, ClipDataset(store, model.run.feature_extractor), [0]
    ).logits
    expected = torch.from_numpy(logits).softmax(1).numpy()[0]
    (found,) = model.predict(path)
    np.testing.assert_allclose(found.windows.mean, expected, atol=1e-6)


def test_a_long_recording_is_the_average_of_its_windows(model: ElasticModel) -> None:
    samples = noise(7.0)
    (found,) = model.predict(samples, sample_rate_hz=RATE_HZ)
    size = round(model.longest_s * RATE_HZ)
    parts = [samples[start : start + size] for start in range(0, len(samples), size)]
    assert len(found.windows.values) == len(parts) > 2
    answers = [model.predict(part, sample_rate_hz=RATE_HZ)[0] for part in parts]
    alone = np.stack([answer.windows.values[0] for answer in answers])
    np.testing.assert_allclose(found.windows.values, alone, atol=1e-5)
    expected = np.average(alone, axis=0, weights=[len(part) for part in parts])
    np.testing.assert_allclose(found.windows.mean, expected, atol=1e-5)
    assert found.duration_s == 7.0


def test_a_tail_of_less_than_a_frame_counts_as_time(model: ElasticModel) -> None:
    size = round(model.longest_s * RATE_HZ)
    (found,) = model.predict(noise((size + 10) / RATE_HZ), sample_rate_hz=RATE_HZ)
    assert len(found.windows.values) == 1
    assert found.duration_s == found.windows.duration_s == (size + 10) / RATE_HZ


def test_recordings_that_share_a_batch_do_not_change_one_another(model: ElasticModel) -> None:
    arrays = [noise(seconds, seed) for seed, seconds in enumerate((0.3, 2.0, 9.0, 0.5))]
    together = model.embed(arrays, sample_rate_hz=RATE_HZ)
    alone = np.stack([model.embed(array, sample_rate_hz=RATE_HZ)[0] for array in arrays])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_files_of_any_rate_and_arrays_give_the_same(model: ElasticModel, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(1.0), RATE_HZ, subtype="FLOAT")
    by_array = model.embed(noise(1.0), sample_rate_hz=RATE_HZ)
    np.testing.assert_allclose(model.embed(path), by_array, atol=1e-6)
    tone = np.sin(np.arange(44_100) * 0.05).astype(np.float32)
    soundfile.write(path, tone, 44_100, subtype="FLOAT")
    by_array = model.embed(tone, sample_rate_hz=44_100)
    np.testing.assert_allclose(model.embed(str(path)), by_array, atol=1e-6)


@pytest.mark.parametrize(
    "dtype, scale, middle", [(np.int16, 2**15, 0), (np.int32, 2**31, 0), (np.uint8, 2**7, 128)]
)
def test_integers_span_their_full_range(
    model: ElasticModel, dtype: type[np.integer[Any]], scale: int, middle: int
) -> None:
    samples = (np.round(noise(1.0) * scale * 0.9) + middle).astype(dtype)
    as_float = (samples.astype(np.float64) - middle) / scale
    found, wanted = (model.embed(s, sample_rate_hz=RATE_HZ) for s in (samples, as_float))
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_channels_are_averaged_and_tensors_taken(model: ElasticModel) -> None:
    left, right = noise(1.0, 1), noise(1.0, 2)
    wanted = model.embed((left + right) / 2, sample_rate_hz=RATE_HZ)
    stereo = np.stack((left, right), axis=1)
    for samples in (stereo, torch.from_numpy(stereo), torch.from_numpy(stereo).requires_grad_()):
        found = model.embed(samples, sample_rate_hz=RATE_HZ)
        np.testing.assert_allclose(found, wanted, atol=1e-5)
    mono = torch.from_numpy(left)
    alone = model.embed([mono, mono[None]], sample_rate_hz=RATE_HZ)
    np.testing.assert_allclose(alone[0], alone[1], atol=1e-6)
    (refused,) = model.predict(stereo.T, sample_rate_hz=RATE_HZ)
    assert "(n, channels), not (2, 16000)" in refused.error
    (refused,) = model.predict(left > 0, sample_rate_hz=RATE_HZ)
    assert "neither floats nor integers" in refused.error


def test_a_waveform_needs_its_rate_and_nothing_gives_nothing(model: ElasticModel) -> None:
    for samples in (noise(1.0), torch.from_numpy(noise(1.0)), [noise(1.0)]):
        with pytest.raises(UsageError, match="does not say its rate"):
            model.predict(samples)
    assert model.predict([]) == []
    assert model.embed([]).shape == (0, 32)


def test_the_text_of_a_model_describes_it(model: ElasticModel) -> None:
    words = repr(model)
    assert "elastic" in words and "3 classes" in words and "16000 Hz" in words


def test_one_bad_recording_does_not_stop_the_others(model: ElasticModel, tmp_path: Path) -> None:
    good = write_audio(tmp_path / "good.wav", 0.5)
    broken = tmp_path / "broken.wav"
    broken.write_text("no audio")
    short = write_audio(tmp_path / "short.wav", 0.01)
    one = tmp_path / "one.wav"  # of whose sample nothing is left at 16 kHz
    soundfile.write(one, [0.5], 44_100)
    loud = tmp_path / "loud.wav"
    soundfile.write(loud, 1e4 * noise(0.5), RATE_HZ, subtype="FLOAT")
    found = model.predict([broken, good, tmp_path / "gone.wav", short, one, loud])
    assert [bool(item.error) for item in found] == [True, False, True, True, True, True]
    assert "gone.wav" in found[2].error
    for item in found[3:5]:
        assert f"{item.name}: is shorter than one frame (25 ms)" == item.error
    assert f"{loud}: holds floats of up to" in found[5].error
    with pytest.raises(AudioError, match="shorter than one frame"):
        _ = found[4].windows.mean
    with pytest.raises(AudioError, match=r"broken\.wav"):
        model.embed([good, broken])


def test_a_recording_is_read_no_further_than_its_next_batch_of_windows(
    model: ElasticModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []

    @contextmanager
    def hours(path: Path) -> Iterator[SimpleNamespace]:
        def blocks() -> Iterator[np.ndarray[Any, Any]]:
            for second in range(60):
                drawn.append(second)
                yield noise(1.0, second)

        yield SimpleNamespace(sample_rate_hz=RATE_HZ, blocks=blocks, losses={})

    monkeypatch.setattr("elastictool.inference.recordings.open_recording", hours)
    monkeypatch.setattr("elastictool.inference.windowing.MAX_TOKENS", 200)
    seen: list[tuple[int, int]] = []
    features = model.run.model.forward_features

    def spy(batch: PackedBatch) -> torch.Tensor:
        seen.append((len(drawn), batch.layout.num_tokens))
        return features(batch)

    monkeypatch.setattr(model.run.model, "forward_features", spy)
    model.embed("hours.wav", WindowRule(2.0))
    assert all(tokens <= 200 for _, tokens in seen)
    # A batch holds two windows of two blocks each; the third window and its next block wait.
    assert all(blocks <= 4 * (index + 1) + 4 for index, (blocks, _) in enumerate(seen))


@pytest.mark.parametrize(
    "rule",
    [(1.0, 2.0), (-1.0, 0.0), (math.nan, 0.0), (1.0, math.nan), (math.inf, 1.0), (0.0, 1.0)],
)
def test_windows_that_leave_gaps_are_refused(rule: tuple[float, float]) -> None:
    with pytest.raises(UsageError):
        WindowRule(*rule)


def test_a_window_beyond_the_model_is_refused(model: ElasticModel) -> None:
    with pytest.raises(UsageError, match="outside what the model takes") as caught:
        model.predict(noise(1.0), rule=WindowRule(60.0), sample_rate_hz=RATE_HZ)
    told = re.search(r"to ([\d.]+) s\)", caught.value.message)
    assert told and model.predict(noise(1.0), 1, WindowRule(float(told[1])), RATE_HZ)


@pytest.mark.parametrize(
    "how",
    [
        {"precision": "fp16"}, {"patch_size": 3.5}, {"patch_size": 129}, {"resolution": math.inf},
        {"resolution": math.nan}, {"device": "tpu"},
    ],
)  # fmt: skip
def test_a_model_is_loaded_as_it_can_be_used(run: Path, how: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        elastictool.load(run, **how)


def test_a_model_is_loaded_by_name_file_or_folder(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run.parent)
    (run.parent / "runs").mkdir(exist_ok=True)
    (run.parent / "runs" / "mine").symlink_to(run)
    for place in ("mine", run, str(run / "checkpoints" / "best.safetensors")):
        found = elastictool.load(place, device=torch.device("cpu"))
        assert found.run.weights_sha256 == elastictool.load(run).run.weights_sha256
    with pytest.raises(UsageError, match="neither a run directory") as caught:
        elastictool.load("minne")
    assert "mine" in caught.value.hint


def test_what_is_public_is_at_hand(capsys: pytest.CaptureFixture[str]) -> None:
    assert set(elastictool.__all__) <= set(dir(elastictool))
    assert elastictool.WindowRule is WindowRule and elastictool.Array is Array
    page = pydoc.render_doc(elastictool, renderer=pydoc.plaintext)
    assert "load(path" in page and "class WindowRule" in page
    with pytest.raises(AttributeError, match="lod"):
        _ = elastictool.lod


def test_inputs_are_files_folders_patterns_and_lists(tmp_path: Path) -> None:
    paths = [write_audio(tmp_path / "deep" / name) for name in ("a.wav", "b.flac")]
    (tmp_path / "deep" / "notes.txt").write_text("x")
    hidden = [write_audio(tmp_path / place) for place in (".old/c.wav", "deep/._a.wav")]
    assert expand([str(tmp_path)]) == paths
    assert expand([str(hidden[0].parent), str(hidden[1])]) == hidden, "where asked for by name"
    assert expand([f"{tmp_path}/**/*.wav"]) == paths[:1]
    assert expand(["-", str(paths[0])], [f"{paths[1]}\n", "\n"]) == [paths[1], paths[0]]
    for nothing in ([], [str(tmp_path / "*.ogg")]):
        with pytest.raises(UsageError):
            expand(nothing)


def test_folders_are_looked_into_whatever_they_are_called(tmp_path: Path) -> None:
    inner = write_audio(tmp_path / "a" / "folder.wav" / "b.wav")
    outside = write_audio(tmp_path / "elsewhere" / "c.wav")
    (tmp_path / "a" / "link").symlink_to(outside.parent)
    linked = tmp_path / "a" / "link" / "c.wav"
    assert expand([f"{tmp_path}/*"]) == [inner, linked, outside], "patterns match folders too"
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "a")
    assert expand([str(tmp_path / "a")]) == [inner, linked]
    (tmp_path / "a" / "broken.wav").symlink_to(tmp_path / "nowhere.wav")
    assert tmp_path / "a" / "broken.wav" in expand([str(tmp_path / "a")]), "to be reported"


def test_lines_are_names_to_the_last_letter(tmp_path: Path) -> None:
    odd = write_audio(tmp_path / " a .wav ".replace("wav ", "wav"))
    assert expand(["-"], [f"{odd}\n", "\r\n"]) == [odd]


@pytest.mark.parametrize("suffix", [".npz", ".parquet", ".NPZ"])
def test_vectors_come_back_with_their_names(suffix: str, tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    path = tmp_path / f"all{suffix}"
    write_vectors(path, EmbeddingTable(("a", "b", "ü", "d"), vectors))
    table = read_vectors(path)
    assert table.names == ("a", "b", "ü", "d")
    np.testing.assert_array_equal(table.vectors, vectors)


def test_the_nearest_is_by_cosine_and_not_by_length() -> None:
    table = EmbeddingTable(("long", "near"), np.array([[100.0, 100.0], [1.0, 0.1]], np.float32))
    ((first, second),) = table.nearest(np.array([[1.0, 0.0]], np.float32), top=5)
    assert first[0] == "near" and second[0] == "long"
    assert first[1] == pytest.approx(1 / np.sqrt(1.01), abs=1e-6)


def test_predict_prints_a_table_csv_or_one_document(run: Path, tmp_path: Path) -> None:
    path = write_audio(tmp_path / "a, b.wav", 2.0)
    base = ["predict", str(path), "--run", str(run), "--top", "2"]
    document = json.loads(CliRunner().invoke(app, [*base, "--json", "--window", "1"]).stdout)
    (item,) = document["predictions"]
    assert len(item["labels"]) == 2 and len(item["windows"]) == 2
    rows = list(csv.reader(io.StringIO(CliRunner().invoke(app, [*base, "--format", "csv"]).stdout)))
    assert [row[:2] for row in rows[1:]] == [[str(path), "1"], [str(path), "2"]]
    result = CliRunner().invoke(app, [*base, "--timeline", str(tmp_path / "pictures")])
    assert result.exit_code == 0 and "likeliest" in result.stdout
    assert (tmp_path / "pictures" / "a, b.png").stat().st_size > 5_000


def test_predict_leaves_with_3_when_a_recording_was_left_out(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_audio(tmp_path / "a.wav")
    (tmp_path / "b.wav").write_text("x")
    assert run_command(monkeypatch, "predict", tmp_path, "-r", run) == 3
    errors = capsys.readouterr().err
    assert "b.wav" in errors and "1 of 2 recordings" in errors
    assert "Traceback" not in errors


def test_embed_writes_an_index_and_finds_the_recording_itself(run: Path, tmp_path: Path) -> None:
    paths = [write_audio(tmp_path / f"{i}.wav", 0.5 + i, seed=i) for i in range(3)]
    out = tmp_path / "all.npz"
    made = CliRunner().invoke(app, ["embed", str(tmp_path), "-r", str(run), "--out", str(out)])
    assert made.exit_code == 0, made.output
    command = ["embed", "-r", str(run), "--index", str(out), "--query", str(paths[1]), "--json"]
    ((first, *_),) = json.loads(CliRunner().invoke(app, command).stdout).values()
    assert first["recording"] == str(paths[1])
    assert first["cosine"] == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(
    "arguments", [["a.wav"], ["a.wav", "--index", "x.npz"], ["a.wav", "--out", "x.txt"]]
)
def test_embed_without_a_purpose_is_a_usage_error(arguments: list[str]) -> None:
    result = CliRunner().invoke(app, ["embed", *arguments])
    assert isinstance(result.exception, UsageError)


@pytest.mark.parametrize("size, hop", [(10, 10), (10, 4), (7, 3), (30, 30), (100, 1)])
def test_the_number_of_windows_is_known_before(size: int, hop: int) -> None:
    for length in range(1, 61):
        recording = Array(np.ones(length, np.float32), RATE_HZ)
        found = len(list(windows(recording, RATE_HZ, size, hop)))
        assert num_windows(recording, RATE_HZ, size, hop) == found


class _Heard:
    """A progress that remembers."""

    def __init__(self) -> None:
        self.words: list[str] = []
        self.steps: list[float] = []

    @contextmanager
    def task(self, what: str, total: float | None) -> Iterator[_Heard]:
        yield self

    def log(self, message: str) -> None:
        self.words.append(message)

    def advance(self, amount: float = 1, note: str = "") -> None:
        self.steps.append(amount)


def test_the_bar_moves_within_a_recording(
    model: ElasticModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("elastictool.inference.windowing.MAX_TOKENS", 200)
    path, heard = write_audio(tmp_path / "long.wav", 8.0), _Heard()
    (found,) = model.predict(path, rule=WindowRule(1.0, 0.5), progress=heard)
    assert heard.words == [f"{len(found.windows.values)} windows of 1 s"]
    assert sum(step > 0 for step in heard.steps) > 3
    assert sum(heard.steps) == pytest.approx(1)


def test_the_bar_moves_within_a_long_recording_without_a_rule(
    model: ElasticModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("elastictool.inference.windowing.MAX_TOKENS", 200)
    path, heard = write_audio(tmp_path / "long.wav", 30.0), _Heard()
    (found,) = model.predict(path, progress=heard)
    assert len(found.windows.values) > 5 and not heard.words
    assert sum(step > 0 for step in heard.steps) > 3
    assert sum(heard.steps) == pytest.approx(1)


def test_a_stop_takes_effect_between_batches_and_keeps_earlier_results(
    model: ElasticModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("elastictool.inference.windowing.MAX_TOKENS", 100)
    stop, found = StopRequest(), []
    with pytest.raises(Stopped):
        for item in model.predictions([noise(1.0)] * 6, 1, WindowRule(), RATE_HZ, stop=stop):
            found.append(item)
            stop.requested = len(found) == 2
    assert len(found) == 2 and all(item.labels for item in found)


def test_predictions_are_compared_by_what_they_say(model: ElasticModel) -> None:
    one, two = (model.predict(noise(1.0), sample_rate_hz=RATE_HZ)[0] for _ in range(2))
    assert one == two and hash(one) == hash(two)
    assert one != model.predict(noise(1.0, 5), sample_rate_hz=RATE_HZ)[0]
