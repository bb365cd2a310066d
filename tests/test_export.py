"""An exported model computes what the model computes, and one file is enough to run it."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor
from typer.testing import CliRunner

import elastictool
from elastictool.checkpoint.weights import LoadedRun, feature_extractor_of, load_run
from elastictool.cli.app import app
from elastictool.config.loader import load_run_config
from elastictool.data.collate import Example, PackSpec, collate
from elastictool.inference.model import ElasticModel
from elastictool.inference.onnx import SingleClip, export_onnx
from elastictool.models.transformer import SpectrogramTransformer
from elastictool.pretrained.hf_export import export_hf
from elastictool.utils.errors import UsageError
from tests.helpers.saved_runs import save_run
from tests.helpers.toy_data import toy_store

onnxruntime = pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    store = toy_store(folder / "toy")
    return {
        "elasticast": save_run(folder / "elasticast", store, max_frames=160),
        "ast": save_run(folder / "ast", store, "ast", fixed_frames=64),
    }


def packed(run: LoadedRun, fbank: Tensor) -> Tensor:
    """What the model itself makes of one clip."""
    spec = run.feature_extractor.pack_spec(run.config.model.prefix_tokens)
    example = Example(fbank, torch.zeros(1), "a", 10.0)
    with torch.no_grad():
        logits: Tensor = run.model(collate([[example]], spec))[0]
    return logits


def changed(run: LoadedRun, **model: Any) -> LoadedRun:
    """The run with another model of random weights."""
    config = dataclasses.replace(run.config, model=dataclasses.replace(run.config.model, **model))
    torch.manual_seed(0)
    network = SpectrogramTransformer(config.model).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape))
    feature_extractor = dataclasses.replace(
        run.feature_extractor,
        patch_size=config.model.patch_size,
        patch_stride=config.model.patch_stride,
    )
    return dataclasses.replace(
        run, config=config, model=network, feature_extractor=feature_extractor
    )


@pytest.mark.parametrize("preset, frames", [("elasticast", 48), ("elasticast", 160), ("ast", 64)])
def test_a_single_clip_without_packing_is_the_same_function(
    runs: dict[str, Path], preset: str, frames: int
) -> None:
    run = load_run(runs[preset])
    fbank = torch.randn(frames, 128)
    for length in (frames,) if preset == "ast" else (0, frames):
        clip = SingleClip(run.model, run.feature_extractor.pack_spec(), length)
        with torch.no_grad():
            torch.testing.assert_close(clip(fbank), packed(run, fbank), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "preset, frames, model",
    [
        ("ast", 100, {}),  # no whole number of patches
        ("ast", 90, {"patch_stride": (10, 10), "grid": (12, 9)}),  # overlapping
        ("ast", 64, {"grid": (9, 7)}),  # positions to be fitted
        ("elasticast", 50, {"patch_size": (24, 24), "patch_stride": (24, 24), "grid": (6, 7)}),
        ("elasticast", 155, {"grid": (8, 4)}),  # beyond the positions
        ("elasticast", 9, {}),  # less than a patch
    ],
)
@pytest.mark.parametrize("edge", ["pad", "drop"])
def test_a_clip_of_one_length_needs_no_patches_side_by_side(
    runs: dict[str, Path], preset: str, frames: int, model: dict[str, Any], edge: Any
) -> None:
    run = changed(load_run(runs[preset]), **model)
    length = dataclasses.replace(run.feature_extractor.length, edge=edge)
    feature_extractor = dataclasses.replace(run.feature_extractor, length=length)
    run, fbank = (
        dataclasses.replace(run, feature_extractor=feature_extractor),
        torch.randn(frames, 128),
    )
    clip = SingleClip(run.model, feature_extractor.pack_spec(), frames)
    with torch.no_grad():
        torch.testing.assert_close(clip(fbank), packed(run, fbank), rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("frames", [0, 100])
def test_the_graph_takes_any_length_and_its_metadata_has_all_it_needs(
    runs: dict[str, Path], frames: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = dataclasses.replace(
        load_run(runs["elasticast"]), multi_label=True, thresholds=(0.25, math.nan, 0.5)
    )
    worst = export_onnx(run, tmp_path / "model.onnx", frames)
    assert worst < 1e-3
    assert capfd.readouterr() == ("", ""), "libraries speak of what nobody asked for"
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    facts = session.get_modelmeta().custom_metadata_map
    assert json.loads(facts["label_names"]) == list(run.label_names)
    assert json.loads(facts["thresholds"]) == [0.25, None, 0.5]
    assert float(facts["mean"]) == run.feature_extractor.mean
    assert facts["frames"] == (str(frames) if frames else "1 to 10 times 16")
    for length in (frames,) if frames else (16, 112, 160):
        values = torch.randn(length, 128)
        (found,) = session.run(None, {"spectrogram": values.numpy()})
        np.testing.assert_allclose(found, packed(run, values).numpy(), atol=1e-3)


@pytest.mark.slow
def test_overlapping_patches_are_exported_at_one_length(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    run = changed(load_run(runs["ast"]), patch_stride=(10, 10), grid=(12, 5))
    assert export_onnx(run, tmp_path / "model.onnx") < 1e-3


@pytest.mark.parametrize(
    "preset, frames, model, words",
    [
        ("elasticast", 100_000, {}, "beyond the 160"),
        ("ast", 48, {}, "always takes 64 frames"),
        ("elasticast", 0, {"patch_stride": (16, 10)}, "overlap in time"),
        ("elasticast", 0, {"pos_embed": "grid"}, "fitted to each length"),
        ("elasticast", 0, {"grid": (4, 10)}, "the bands of its input"),
        ("elasticast", 64, {"num_classes": 0}, "no classifier"),
    ],
)
def test_what_no_graph_can_be_is_refused_before_the_work(
    runs: dict[str, Path], preset: str, frames: int, model: dict[str, Any], words: str,
    tmp_path: Path,
) -> None:  # fmt: skip
    with pytest.raises(UsageError, match=words):
        export_onnx(changed(load_run(runs[preset]), **model), tmp_path / "model.onnx", frames)
    assert not list(tmp_path.iterdir())


def test_a_graph_of_more_than_its_format_holds_is_refused(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("elastictool.inference.onnx.MOST_BYTES", 1000)
    with pytest.raises(UsageError, match="one ONNX file holds 2"):
        export_onnx(load_run(runs["elasticast"]), tmp_path / "model.onnx")


@pytest.mark.parametrize("to", ["hf", "safetensors"])
def test_frames_are_for_onnx_alone(runs: dict[str, Path], to: str, tmp_path: Path) -> None:
    out = tmp_path / ("folder" if to == "hf" else "a.safetensors")
    command = ["export", str(runs["elasticast"]), "--to", to, "--out", str(out), "--frames", "64"]
    refused = CliRunner().invoke(app, command).exception
    assert isinstance(refused, UsageError) and "--frames is for onnx" in refused.message


@pytest.fixture
def hf_ready(runs: dict[str, Path]) -> LoadedRun:
    """A standard AST as Hugging Face has it: two prefix tokens, one eps, zero padding."""
    run = load_run(runs["ast"])
    run = changed(run, prefix_tokens=2, fc_norm_eps=run.config.model.norm_eps)
    length = dataclasses.replace(run.config.length, padding="zero")
    config = dataclasses.replace(run.config, length=length)
    return dataclasses.replace(run, config=config, feature_extractor=feature_extractor_of(config))


def test_hugging_face_loads_the_folder_and_computes_the_same(
    hf_ready: LoadedRun, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    run = hf_ready
    export_hf(tmp_path / "hf", run.model, run.config, run.label_names, run.multi_label)
    theirs, report = transformers.ASTForAudioClassification.from_pretrained(
        tmp_path / "hf", output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert theirs.config.id2label == dict(enumerate(run.label_names))
    values = torch.randn(2, 64, 128)
    config = run.config.model
    spec = PackSpec(config.patch_size, config.patch_stride, prefix_tokens=2)
    clips = [Example(clip, torch.zeros(1), "a", 10.0) for clip in values]
    with torch.no_grad():
        ours = run.model(collate([clips], spec))
        found = theirs.eval()(values).logits
    assert ours.std() > 0.3
    torch.testing.assert_close(found, ours, rtol=0, atol=1e-4)


@pytest.mark.parametrize("seconds", [0.3, 0.9])
def test_hugging_face_hears_what_the_model_hears(
    hf_ready: LoadedRun, seconds: float, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    run = hf_ready
    export_hf(tmp_path / "hf", run.model, run.config, run.label_names, run.multi_label)
    theirs = transformers.ASTForAudioClassification.from_pretrained(tmp_path / "hf").eval()
    extractor = transformers.AutoFeatureExtractor.from_pretrained(tmp_path / "hf")
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, round(seconds * 16_000))
    sound = (np.rint(sound * 32_768) / 32_768).astype(np.float32)
    values = extractor(sound, sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        expected = theirs(**values).logits[0].softmax(0).numpy()
    (found,) = ElasticModel(run).predict(sound, sample_rate_hz=16_000)
    np.testing.assert_allclose(found.windows.values[0], expected, atol=1e-4)


@pytest.mark.parametrize(
    "section, change, words",
    [
        ("model", {"prefix_tokens": 1}, r"model\.prefix_tokens = 2 \(here 1\)"),
        ("model", {"fc_norm_eps": 1e-5}, r"model\.fc_norm_eps = 1e-06 .* \(here 1e-05\)"),
        ("model", {"attention_scale": 1.0}, r"model\.attention_scale = 0\.0 \(here 1\.0\)"),
        ("model", {"grid": (9, 4)}, r"model\.grid"),
        ("length", {"padding": "floor"}, r"length\.padding = zero \(here floor\)"),
        ("length", {"fixed_frames": 0}, r"length\.fixed_frames"),
        ("length", {"fixed_frames": 70}, r"length\.edge = drop.*\(here pad\)"),
        ("fbank", {"shift_ms": 5.0}, r"fbank\.shift_ms = 10\.0 \(here 5\.0\)"),
        ("fbank", {"window_ms": 20.0}, r"fbank\.window_ms"),
        ("fbank", {"low_frequency_hz": 50.0}, r"fbank\.low_frequency_hz"),
        ("fbank", {"high_frequency_hz": -400.0}, r"fbank\.high_frequency_hz"),
        ("fbank", {"preemphasis": 0.9}, r"fbank\.preemphasis = 0\.97 \(here 0\.9\)"),
        ("fbank", {"sample_rate_hz": 8_000}, r"fbank\.sample_rate_hz = 16000 \(here 8000\)"),
    ],
)
def test_what_hugging_face_would_compute_otherwise_is_refused(
    hf_ready: LoadedRun, section: str, change: dict[str, Any], words: str, tmp_path: Path
) -> None:
    part = dataclasses.replace(getattr(hf_ready.config, section), **change)
    config = dataclasses.replace(hf_ready.config, **{section: part})
    with pytest.raises(UsageError, match=words) as caught:
        export_hf(tmp_path, hf_ready.model, config, hf_ready.label_names, False)
    assert not list(tmp_path.iterdir())
    for name in ("model.prefix_tokens=2", "fc_norm_eps", "model.norm_eps", "length.padding=zero"):
        assert name in caught.value.hint


def test_an_ast_that_is_trained_as_the_hint_says_can_be_exported(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    run = load_run(runs["elasticast"])
    with pytest.raises(UsageError, match=r"model\.pos_embed = grid") as caught:
        export_hf(tmp_path, run.model, run.config, run.label_names, False)
    sets = re.findall(r"--set (\S+)", caught.value.hint)
    config = load_run_config(None, [*sets, "data.mean=0", "data.std=1", "model.num_classes=3"])
    small = dataclasses.replace(config.model, width=32, heads=2, depth=1, grid=(8, 64))
    config = dataclasses.replace(config, model=small)
    export_hf(tmp_path, SpectrogramTransformer(small), config, ["a", "b", "c"], False)


def test_one_safetensors_file_is_a_model(runs: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "alone.safetensors"
    command = ["export", str(runs["elasticast"]), "--to", "safetensors", "--out", str(out)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    waveform = np.random.default_rng(0).uniform(-0.5, 0.5, 16_000).astype(np.float32)
    alone, whole = (elastictool.load(path, device="cpu") for path in (out, runs["elasticast"]))
    np.testing.assert_array_equal(
        alone.embed(waveform, sample_rate_hz=16_000), whole.embed(waveform, sample_rate_hz=16_000)
    )
    assert (
        alone.predict(waveform, sample_rate_hz=16_000)[0].labels
        == whole.predict(waveform, sample_rate_hz=16_000)[0].labels
    )


PAGE = (Path(__file__).parents[1] / "docs" / "using.md").read_text("utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("library", ["onnxruntime", "transformers"])
def test_the_examples_of_the_page_run_in_a_fresh_process(
    library: str, runs: dict[str, Path], hf_ready: LoadedRun, tmp_path: Path
) -> None:
    """They give elastictool's own answer for a recording at another rate than the model's."""
    pytest.importorskip(library)
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
    (block,) = [block for block in blocks if re.search(f"^(import|from) {library}", block, re.M)]
    time_s = np.arange(13_230) / 22_050
    soundfile.write(tmp_path / "talk.wav", 0.3 * np.sin(1_400 * time_s**2), 22_050)
    if library == "onnxruntime":
        run = load_run(runs["elasticast"])
        export_onnx(run, tmp_path / "model.onnx")
    else:
        run = hf_ready
        names = (run.label_names, run.multi_label)
        export_hf(tmp_path / "folder", run.model, run.config, *names)
    done = subprocess.run(
        [sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    (found,) = ElasticModel(run).predict(str(tmp_path / "talk.wav"))
    assert found.labels[0][0] in done.stdout.strip().splitlines()[-1].split("}")[0]
