"""Prepared data reads the same however it is read, and opens where others expect it to."""

from __future__ import annotations

import io
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import soundfile
import torch

from elastictool.audio.fbank import fbank
from elastictool.config import FbankConfig
from elastictool.data.options import PrepOptions
from elastictool.data.paths import find_dataset
from elastictool.data.prepare import prepare
from elastictool.data.store import Clip, DatasetInfo, PreparedStore
from elastictool.utils.errors import ElasticToolError, UsageError
from tests.helpers.corpus_trees import csv_tree, write_audio, write_table


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> PreparedStore:
    folder = tmp_path_factory.mktemp("store")
    return prepare(PrepOptions("csv", csv_tree(folder / "bells", clips=40), folder / "data"))


def test_any_order_of_reading_gives_the_same_clips(store: PreparedStore) -> None:
    in_order = [bytes(store.audio_bytes(index)) for index in range(len(store))]
    for index in np.random.default_rng(0).permutation(len(store)):
        assert bytes(store.audio_bytes(index)) == in_order[index]
        assert store.clip(index).id == store.ids[index]


def test_a_part_of_a_clip_equals_that_part_of_the_whole(store: PreparedStore) -> None:
    whole = store.waveform(7)
    np.testing.assert_array_equal(store.waveform(7, 100, 900), whole[100:900])
    np.testing.assert_array_equal(store.waveform(7, 500), whole[500:])


def test_what_is_stored_is_what_was_recorded(store: PreparedStore, tmp_path: Path) -> None:
    root = csv_tree(tmp_path, clips=40)
    original, _ = soundfile.read(root / store.clip(3).source, dtype="float32")
    np.testing.assert_array_equal(store.waveform(3), original)


def test_a_clip_knows_where_it_comes_from(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", 2.0, 8_000)
    table = write_table(
        tmp_path / "t.csv",
        [
            ("path", "label", "split", "fold", "start", "stop", "group"),
            ("a.wav", "x|y", "val", 3, 0.5, 1.5, "g"),
        ],
    )
    store = prepare(PrepOptions("csv", table, tmp_path / "data"))
    assert store.clip(0) == Clip(
        "a.wav#0.5-1.5", 16_000, 16_000, ("x", "y"), "val", 3, "g", "a.wav", 0.5, 1.5
    )
    assert store.label_indices(0) == (0, 1)
    assert store.targets(0).tolist() == [1.0, 1.0]
    assert store.info.source_rates == {"8000": 1}


def test_arrays_agree_with_clips(store: PreparedStore) -> None:
    for index in range(len(store)):
        clip = store.clip(index)
        assert clip.num_samples == store.num_samples[index] == len(store.waveform(index))
        assert (clip.split, clip.fold) == (store.splits[index], store.folds[index])
        assert clip.group == store.groups[index]


def test_a_pickled_store_reads_the_same(store: PreparedStore) -> None:
    data = pickle.dumps(store)
    assert len(data) < 1_000
    copy: PreparedStore = pickle.loads(data)
    assert bytes(copy.audio_bytes(5)) == bytes(store.audio_bytes(5))


def test_audio_bytes_lie_in_the_memory_map(store: PreparedStore) -> None:
    before = pa.total_allocated_bytes()
    views = [store.audio_bytes(index) for index in range(len(store))]
    assert pa.total_allocated_bytes() == before
    assert sum(len(view) for view in views) > 10_000


def test_an_index_outside_is_refused(store: PreparedStore) -> None:
    for index in (-1, len(store)):
        with pytest.raises(IndexError):
            store.waveform(index)


def test_shards_describe_their_features_for_hugging_face_datasets(store: PreparedStore) -> None:
    """The rule of ``datasets``: metadata key ``huggingface``, features for exactly the columns."""
    schema = pa.ipc.open_stream(pa.memory_map(str(store.path / "shard-00000.arrow"))).schema
    features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    assert list(features) == schema.names
    assert features["audio"]["_type"] == "Audio"
    assert features["audio"]["sampling_rate"] == 16_000
    assert schema.field("audio").type == pa.struct({"bytes": pa.binary(), "path": pa.string()})
    assert features["labels"]["_type"] == "Sequence"
    for name, feature in features.items():
        if feature["_type"] == "Value":
            assert str(schema.field(name).type).replace("double", "float64") == feature["dtype"]


def test_hugging_face_datasets_opens_a_shard(store: PreparedStore) -> None:
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_file(str(store.path / "shard-00000.arrow"))
    data = data.cast_column("audio", datasets.Audio(decode=False))
    samples, rate = soundfile.read(io.BytesIO(data[2]["audio"]["bytes"]), dtype="float32")
    assert rate == data[2]["sample_rate_hz"]
    np.testing.assert_array_equal(samples, store.waveform(2))


def test_mean_and_deviation_are_those_of_all_frames(store: PreparedStore) -> None:
    config = FbankConfig()

    def frames(keep: np.ndarray) -> torch.Tensor:
        waves = [torch.from_numpy(store.waveform(int(index))) for index in np.flatnonzero(keep)]
        return torch.cat([fbank(wave, config) for wave in waves]).double()

    everything = frames(store.folds >= 0)
    assert store.info.fbank_stats() == pytest.approx(
        (float(everything.mean()), float(everything.std(correction=0))), rel=1e-9
    )
    some = frames(np.isin(store.folds, (2, 5)))
    assert store.info.fbank_stats(lambda split, fold: fold in (2, 5)) == pytest.approx(
        (float(some.mean()), float(some.std(correction=0))), rel=1e-9
    )


def test_statistics_of_nothing_are_an_error(store: PreparedStore) -> None:
    with pytest.raises(ElasticToolError, match="no frames"):
        store.info.fbank_stats(lambda split, fold: split == "no such")


def test_a_folder_that_is_no_dataset_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a prepared dataset"):
        PreparedStore.open(tmp_path)


def test_damage_is_named(store: PreparedStore, tmp_path: Path) -> None:
    def broken(name: str) -> Path:
        return Path(shutil.copytree(store.path, tmp_path / name))

    (broken("no shard") / "shard-00001.arrow").unlink()
    shard = broken("short shard") / "shard-00000.arrow"
    shard.write_bytes(shard.read_bytes()[:1000])
    (broken("bad json") / "dataset.json").write_text("{")
    (broken("other format") / "dataset.json").write_text('{"format": 99}')
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(ElasticToolError) as raised:
            PreparedStore.open(path)
        assert str(path) in raised.value.message
        assert "--overwrite" in raised.value.hint


def test_dataset_json_reads_back_as_it_was_written(store: PreparedStore) -> None:
    path = store.path / "dataset.json"
    assert DatasetInfo.read(path.parent).to_json() == json.loads(path.read_text())


def test_the_latest_dataset_is_the_one_finished_last(
    store: PreparedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("elastictool.data.paths.DATA_ROOT", tmp_path)
    with pytest.raises(UsageError, match="no prepared dataset"):
        find_dataset("")
    for name in ("b", "a"):
        shutil.copytree(store.path, tmp_path / name)
    (tmp_path / "b" / "dataset.json").touch()
    assert find_dataset("") == tmp_path / "b"
