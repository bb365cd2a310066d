"""What callers may pass as recordings, and the errors for everything else."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

import elastictool
from elastictool.data.store import PreparedStore
from elastictool.inference.model import ElasticModel
from elastictool.inference.recordings import Array
from elastictool.utils.errors import UsageError
from tests.helpers.corpus_trees import write_audio
from tests.helpers.saved_runs import save_run

RATE_HZ = 16_000
Waveform = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def model(toy_store: PreparedStore, tmp_path_factory: pytest.TempPathFactory) -> ElasticModel:
    run = save_run(tmp_path_factory.mktemp("runs") / "elastic", toy_store, max_frames=300)
    return elastictool.load(run, device="cpu")


def noise(seed: int = 0) -> Waveform:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, RATE_HZ).astype(np.float32)


PAIRS: dict[str, Callable[[Waveform], Any]] = {
    "pair": lambda x: (x, RATE_HZ),
    "pair of torch": lambda x: (torch.from_numpy(x), RATE_HZ),
    "pair with a float": lambda x: (x, float(RATE_HZ)),
    "pair with NumPy's number": lambda x: (x, np.int64(RATE_HZ)),
    "datasets": lambda x: {"array": x, "sampling_rate": RATE_HZ, "path": "a.wav"},
    "datasets as lists": lambda x: {"array": x.tolist(), "sampling_rate": RATE_HZ},
    "array": lambda x: Array(x, RATE_HZ),
    "list of pairs": lambda x: [(x, RATE_HZ)],
    "tuple of one": lambda x: ((x, RATE_HZ),),
    "generator": lambda x: (each for each in [(x, RATE_HZ)]),
}


@pytest.mark.parametrize("form", PAIRS)
def test_waveforms_with_a_rate_need_no_other(model: ElasticModel, form: str) -> None:
    expected = model.embed(noise(), sample_rate_hz=RATE_HZ)
    np.testing.assert_array_equal(model.embed(PAIRS[form](noise())), expected)


def test_items_of_datasets_are_named_by_their_path(model: ElasticModel) -> None:
    sound = {"array": noise(), "sampling_rate": RATE_HZ}
    found = model.predict([sound | {"path": "a.wav"}, sound | {"path": None}])
    assert [item.name for item in found] == ["a.wav", "array 1"]


def test_two_waveforms_in_a_tuple_are_two(model: ElasticModel) -> None:
    assert len(model.predict((noise(1), noise(2)), sample_rate_hz=RATE_HZ)) == 2


@pytest.mark.parametrize(
    "given",
    [
        b"RIFF", bytearray(b"x"), io.BytesIO(b"x"), [0.1, 0.2], [[0.1, 0.2]], None, [None], 3,
        np.float32(3), {"raw": [0.1], "sampling_rate": 8_000}, {"array": [0.1]}, {},
        torch.zeros(100, device="meta"), torch.zeros(100).to_sparse(),
    ],
    ids=lambda given: type(given).__name__,
)  # fmt: skip
def test_what_is_no_recording_is_an_error(model: ElasticModel, given: Any) -> None:
    for call in (model.predict, model.embed, model.windows, model.embeddings):
        with pytest.raises(UsageError) as caught:
            call(given, sample_rate_hz=RATE_HZ)
        assert "a pair (waveform, rate)" in caught.value.hint


def test_an_open_file_is_an_error(model: ElasticModel, tmp_path: Path) -> None:
    path = write_audio(tmp_path / "a.wav")
    with path.open("rb") as file, pytest.raises(UsageError, match="an open file is no recording"):
        model.predict(file)


@pytest.mark.parametrize("rate", [-1, math.nan, math.inf, "8000", None, True, [8_000]])
def test_a_rate_is_a_number_above_0(model: ElasticModel, rate: Any) -> None:
    for call in (lambda: model.predict([{"array": noise(), "sampling_rate": rate}]),
                 lambda: Array(noise(), rate)):  # fmt: skip
        with pytest.raises(UsageError, match="no rate in Hz"):
            call()
    if rate is not None:
        with pytest.raises(UsageError, match="no rate in Hz"):
            model.predict(noise(), sample_rate_hz=rate)


@pytest.mark.parametrize("rate", [1e-9, 1, 99.9, 10**9])
def test_a_rate_that_no_recorder_has_refuses_a_recording(model: ElasticModel, rate: float) -> None:
    (found,) = model.predict(noise(), sample_rate_hz=rate)
    assert "is not audio" in found.error


@pytest.mark.parametrize("top", [0, -1, 2.5, None])
def test_at_least_one_class_is_named(model: ElasticModel, top: Any) -> None:
    with pytest.raises(UsageError, match="names no class"):
        model.predict(noise(), top=top, sample_rate_hz=RATE_HZ)


def test_windows_take_one_path_or_many(model: ElasticModel, tmp_path: Path) -> None:
    path = write_audio(tmp_path / "a.wav", 1.0)
    for form in (lambda: path, lambda: str(path), lambda: [path], lambda: iter([path])):
        (found,) = model.windows(form())
        assert found.values.shape == (1, 3)
        (found,) = model.embeddings(form())
        assert found.values.shape == (1, 32)
    (found,) = model.windows(noise(), sample_rate_hz=RATE_HZ)
    assert found.values.shape == (1, 3)
