"""Prepared shards are data sets of Hugging Face's library too, and the audio bytes decode."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile

from elastictool.data.store import PreparedStore
from tests.helpers.toy_data import toy_store

datasets = pytest.importorskip("datasets")


@pytest.fixture
def store(tmp_path: Path) -> PreparedStore:
    return toy_store(tmp_path)


def test_hugging_face_opens_a_shard_with_its_features(store: PreparedStore) -> None:
    shards = sorted(store.path.glob("shard-*.arrow"))
    opened = datasets.concatenate_datasets([datasets.Dataset.from_file(str(s)) for s in shards])
    assert opened.num_rows == len(store)
    assert isinstance(opened.features["audio"], datasets.Audio)
    assert opened.features["audio"].sampling_rate == store.info.sample_rate_hz
    assert opened["id"][:] == list(store.ids)
    assert opened["labels"][:] == [list(store.clip(i).labels) for i in range(len(store))]
    assert opened["num_samples"][:] == store.num_samples.tolist()


def test_the_audio_bytes_decode_to_the_stored_waveform(store: PreparedStore) -> None:
    shard = sorted(store.path.glob("shard-*.arrow"))[0]
    opened = datasets.Dataset.from_file(str(shard))
    undecoded = opened.cast_column("audio", datasets.Audio(decode=False))
    for index in range(min(3, len(undecoded))):
        waveform, rate_hz = soundfile.read(io.BytesIO(undecoded[index]["audio"]["bytes"]))
        assert rate_hz == store.info.sample_rate_hz
        np.testing.assert_array_equal(waveform.astype(np.float32), store.waveform(index))
