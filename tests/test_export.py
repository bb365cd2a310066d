"""An exported model computes what the model computes, and one file is enough to run it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import elastictool
from elastictool.audio.torchaudio_compat import load_torchaudio
from elastictool.cli.app import app
from elastictool.data.collate import Example, PatchSpec, collate
from elastictool.errors import UsageError
from elastictool.inference.onnx import SingleClip, export_onnx
from elastictool.models.transformer import SpectrogramTransformer
from elastictool.pretrained.hf_export import export_hf
from elastictool.training.checkpoint import LoadedRun, load_run
from tests.saved_runs import save_run
from tests.toy_data import toy_store

onnxruntime = pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    store = toy_store(folder / "toy")
    return {
        "elasticast": save_run(folder / "elasticast", store, max_frames=160),
        "ast": save_run(folder / "ast", store, "ast", fixed_frames=64),
    }


@pytest.mark.parametrize("preset, frames", [("elasticast", 48), ("elasticast", 160), ("ast", 64)])
def test_a_single_clip_without_packing_is_the_same_function(
    runs: dict[str, Path], preset: str, frames: int
) -> None:
    model = load_run(runs[preset]).model
    fbank = torch.randn(frames, 128)
    spec = PatchSpec(model.config.patch_size, model.config.patch_stride)
    example = Example(fbank, torch.zeros(1), "a", 10.0, 0, spec)
    with torch.no_grad():
        packed = model(collate([[example]], model.config.prefix_tokens))[0]
        torch.testing.assert_close(SingleClip(model)(fbank), packed, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_the_graph_takes_any_length_and_tells_what_it_needs(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    run = load_run(runs["elasticast"])
    worst = export_onnx(run, tmp_path / "model.onnx")
    assert worst < 1e-3
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    facts = session.get_modelmeta().custom_metadata_map
    assert json.loads(facts["label_names"]) == list(run.label_names)
    assert float(facts["mean"]) == run.front_end.mean
    for frames in (16, 112, 160):
        values = torch.randn(frames, 128)
        (found,) = session.run(None, {"spectrogram": values.numpy()})
        with torch.no_grad():
            expected = SingleClip(run.model)(values).numpy()
        np.testing.assert_allclose(found, expected, atol=1e-3)


def test_a_length_between_patches_is_refused(runs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="100 frames"):
        export_onnx(load_run(runs["elasticast"]), tmp_path / "model.onnx", frames=100)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def hf_ready(runs: dict[str, Path]) -> LoadedRun:
    """A standard AST with two prefix tokens and one eps, all parameters drawn anew."""
    run = load_run(runs["ast"])
    model_config = dataclasses.replace(
        run.config.model, prefix_tokens=2, head_norm_eps=run.config.model.norm_eps
    )
    config = dataclasses.replace(run.config, model=model_config)
    model = SpectrogramTransformer(model_config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return dataclasses.replace(run, config=config, model=model)


def test_hugging_face_loads_the_folder_and_computes_the_same(
    hf_ready: LoadedRun, tmp_path: Path
) -> None:
    load_torchaudio()
    transformers = pytest.importorskip("transformers")
    run = hf_ready
    export_hf(tmp_path / "hf", run.model, run.config, run.label_names, run.multi_label)
    theirs, report = transformers.ASTForAudioClassification.from_pretrained(
        tmp_path / "hf", output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert theirs.config.id2label == dict(enumerate(run.label_names))
    values = torch.randn(2, 64, 128)
    spec = PatchSpec(run.config.model.patch_size, run.config.model.patch_stride)
    clips = [Example(clip, torch.zeros(1), "a", 10.0, 0, spec) for clip in values]
    with torch.no_grad():
        ours = run.model(collate([clips], 2))
        found = theirs.eval()(values).logits
    assert ours.std() > 0.5
    torch.testing.assert_close(found, ours, rtol=0, atol=1e-4)


def test_what_hugging_face_cannot_express_is_refused(runs: dict[str, Path], tmp_path: Path) -> None:
    for name, reason in {"elasticast": "grid positions", "ast": "two prefix tokens"}.items():
        run = load_run(runs[name])
        with pytest.raises(UsageError, match=reason):
            export_hf(tmp_path, run.model, run.config, run.label_names, run.multi_label)
    assert not list(tmp_path.iterdir())


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
