"""What conversion shares with training, and what it keeps of a run."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

from elastictool.checkpoint.metadata import WeightsMetadata
from elastictool.checkpoint.weights import import_weights, load_run, save_weights
from elastictool.config import InitConfig
from elastictool.config.loader import load_run_config
from elastictool.data.store import PreparedStore
from elastictool.pretrained.transfer import model_for
from elastictool.training.convert import convert
from elastictool.utils.errors import UsageError
from tests.helpers import foreign_weights
from tests.helpers.saved_runs import save_run


def test_a_conversion_is_official_as_training_is(toy_store: PreparedStore, tmp_path: Path) -> None:
    path = foreign_weights.timm().write(tmp_path)
    sets = ["init.compat=official", "model.preset=elasticast", "length.fixed_frames=0"]
    out = tmp_path / "out.safetensors"
    result = convert("timm", str(path), out, [*sets, "data.mean=0", "data.std=1"])
    run = load_run(out)
    trained = model_for(
        import_weights(InitConfig("timm", str(path), compat="official")),
        load_run_config(None, ["init.from=timm", f"init.path={path}", "init.compat=official"]),
    ).model
    for name in ("attention_scale", "initialization"):
        assert getattr(run.config.model, name) == getattr(trained, name)
    assert run.config.model.attention_scale == 1.0
    assert 0.8 < float(run.model.state_dict()["attn_pool.latent"].std()) < 1.2
    assert "its sum over 12 (official)" in result.report.missing["attn_pool.q.weight"]


def test_the_published_scale_is_that_of_elasticasts_only(tmp_path: Path) -> None:
    path = foreign_weights.timm().write(tmp_path)
    sets = ["init.compat=official", "data.mean=0", "data.std=1"]
    result = convert("timm", str(path), tmp_path / "out.safetensors", sets)
    assert result.config.model.attention_scale == 0.0  # an AST keeps 1/sqrt(d)
    weights = import_weights(InitConfig("timm", str(path), compat="official", model="weights"))
    config = load_run_config(None, ["fbank.num_mel_bins=224", "model.num_mel_bins=224"])
    config = dataclasses.replace(config, init=InitConfig("timm", str(path), "weights"))
    assert model_for(weights, config).model.attention_scale == 0.0


def test_a_run_is_converted_by_its_name(
    toy_store: PreparedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_run(Path("runs/old one"), toy_store, max_frames=64)
    assert (
        convert("run", "old one", Path("own.safetensors")).label_names
        == load_run(Path("own.safetensors")).label_names
    )
    with pytest.raises(UsageError, match="'new'") as caught:
        convert("run", "new", Path("own.safetensors"))
    assert caught.value.hint == "runs there: old one"


def test_converting_a_run_keeps_what_is_still_true_of_it(
    toy_store: PreparedStore, tmp_path: Path
) -> None:
    run = load_run(save_run(tmp_path / "old", toy_store, max_frames=64))
    own = tmp_path / "own.safetensors"
    metrics, thresholds = {"epoch": 3, "map": 0.5}, (0.25, math.nan, 0.75)
    metadata = WeightsMetadata(run.config, run.label_names, True, metrics, thresholds)
    save_weights(own, run.model, metadata)
    same = load_run(convert("run", str(own), tmp_path / "same.safetensors").out)
    np.testing.assert_array_equal(same.thresholds, (0.25, math.nan, 0.75))
    assert same.metrics["map"] == 0.5 and same.metrics["imported_from"] == "run"
    assert same.multi_label, "though trained with cross-entropy"
    assert same.weights_sha256 == run.weights_sha256
    result = convert("run", str(own), tmp_path / "other.safetensors", ["model.patch_size=8"])
    other = load_run(result.out)
    assert other.thresholds == () and "map" not in other.metrics and other.multi_label
    assert "thresholds are left out" in result.report.notes[-1]
    assert other.weights_sha256 != run.weights_sha256


def test_class_names_come_from_audiosets_table(tmp_path: Path) -> None:
    path, table = str(foreign_weights.ast(classes=2).write(tmp_path)), tmp_path / "classes.csv"
    table.write_text('index,mid,display_name\n1,/m/1,"Cat, purr"\n0,/m/0,Dog\n')
    out = tmp_path / "out.safetensors"
    assert convert("ast", path, out, labels=table).label_names == ("Dog", "Cat, purr")
    for text in ("Dog\nCat\n", "index,mid,display_name\nx,/m/0,Dog\n"):
        table.write_text(text)
        with pytest.raises(UsageError, match=r"classes\.csv"):
            convert("ast", path, out, labels=table)
