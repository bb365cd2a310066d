"""What every importer must do, over the whole registry; and each format's own traps."""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import math
import os
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from elastictool.checkpoint.weights import import_weights, load_run, weight_format, weight_formats
from elastictool.cli import convert as command
from elastictool.config import InitConfig
from elastictool.config.loader import frontend_config
from elastictool.data.collate import Example, PackSpec, collate
from elastictool.models.transformer import SpectrogramTransformer
from elastictool.packing.batch import PackedBatch
from elastictool.pretrained.importer import Imported
from elastictool.pretrained.shapes import audio_grid, encoder
from elastictool.training.convert import convert
from elastictool.utils.errors import CheckpointError, UsageError
from tests.helpers import foreign_weights
from tests.helpers.foreign_weights import SAMPLES, Sample

each_format = pytest.mark.parametrize("name", SAMPLES)


@pytest.fixture(scope="module")
def samples() -> dict[str, Sample]:
    return {name: make() for name, make in SAMPLES.items()}


def load(name: str, path: Path | str, **how: Any) -> Imported:
    return import_weights(InitConfig(source=name, path=str(path), **how))


def batch_for(model: SpectrogramTransformer, frames: int, seed: int = 3) -> PackedBatch:
    """One clip, cut into patches as the model's kernel wants it."""
    config = model.config
    generator = torch.Generator().manual_seed(seed)
    fbank = torch.randn(frames, config.num_mel_bins, generator=generator)
    spec = PackSpec(
        config.patch_size, config.patch_stride, "drop", prefix_tokens=config.prefix_tokens
    )
    return collate([[Example(fbank, torch.zeros(1), "", 10.0)]], spec)


def test_every_format_has_a_sample_and_is_named_in_the_help() -> None:
    assert set(weight_formats()) == set(SAMPLES)
    described = command.convert.__annotations__["form"]
    assert all(name in described for name in weight_formats())


@each_format
def test_every_key_is_accounted_for(name: str, samples: dict[str, Sample], tmp_path: Path) -> None:
    path = samples[name].write(tmp_path)
    weights = load(name, path)
    report = weights.report
    used = {key for keys in report.loaded.values() for key in keys}
    ignored = set(report.ignored)
    assert used | ignored == set(samples[name].tensors) and not used & ignored
    assert all(report.ignored.values())
    file = tmp_path / samples[name].file
    assert report.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert report.file == str(file)
    assert set(weights.state) == set(weights.model().state_dict())


@each_format
def test_an_unknown_key_stops_the_import(
    name: str, samples: dict[str, Sample], tmp_path: Path
) -> None:
    sample = samples[name].copy()
    sample.tensors["blocks.0.gamma"] = torch.ones(3)
    with pytest.raises(CheckpointError, match=r"unexplained blocks\.0\.gamma") as caught:
        load(name, sample.write(tmp_path))
    assert caught.value.exit_code == 4


@each_format
def test_a_missing_key_stops_the_import(
    name: str, samples: dict[str, Sample], tmp_path: Path
) -> None:
    sample = samples[name].copy()
    gone = next(key for key in sample.tensors if "norm2" in key or "_after" in key)
    del sample.tensors[gone]
    own_spelling = re.escape(weight_format(name).spell(gone))
    with pytest.raises(CheckpointError, match=f"missing {own_spelling}$") as caught:
        load(name, sample.write(tmp_path))
    assert caught.value.exit_code == 4


@each_format
def test_nan_weights_are_refused(name: str, samples: dict[str, Sample], tmp_path: Path) -> None:
    sample = samples[name].copy()
    key = next(key for key in sample.tensors if key.endswith("bias"))
    sample.tensors[key][0] = torch.nan
    with pytest.raises(CheckpointError, match="NaN") as caught:
        load(name, sample.write(tmp_path))
    assert key in caught.value.message and caught.value.exit_code == 4


@each_format
def test_a_truncated_file_is_refused(name: str, samples: dict[str, Sample], tmp_path: Path) -> None:
    path = samples[name].write(tmp_path)
    file = tmp_path / samples[name].file
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(CheckpointError, match="is damaged") as caught:
        load(name, path)
    assert "fetch the file again" in caught.value.hint


@pytest.mark.parametrize(("right", "named"), list(itertools.permutations(SAMPLES, 2)))
def test_a_wrong_format_is_rejected_with_the_right_one_named(
    right: str, named: str, samples: dict[str, Sample], written: dict[str, Path]
) -> None:
    if {right, named} == {"ast", "ssast"}:
        pytest.skip("fine-tuned, both are the same file; see the next test")
    with pytest.raises(CheckpointError) as caught:
        load(named, written[right])
    assert caught.value.exit_code == 4
    assert right in caught.value.hint, caught.value.hint


@pytest.fixture(scope="module")
def written(
    samples: dict[str, Sample], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("written")
    return {name: sample.write(root / name) for name, sample in samples.items()}


def test_a_pretrained_ssast_is_not_taken_for_an_ast(written: dict[str, Path]) -> None:
    with pytest.raises(CheckpointError) as caught:
        load("ast", written["ssast"])
    assert "ssast" in caught.value.hint


@each_format
def test_a_converted_file_is_a_model_of_the_same_function(
    name: str, written: dict[str, Path], tmp_path: Path
) -> None:
    weights = load(name, written[name])
    statistics = ["data.mean=-4", "data.std=4"]
    keep = [] if not weights.image else [
        "fbank.num_mel_bins=224", "model.num_mel_bins=224", "length.fixed_frames=224",
    ]  # fmt: skip
    result = convert(name, str(written[name]), tmp_path / "out.safetensors", statistics + keep)
    again = load_run(result.out)
    assert again.config.model == weights.config.model
    assert again.label_names == result.label_names
    assert json.loads(result.report_file.read_text())["sha256"] == weights.report.sha256
    batch = batch_for(again.model, 224)
    with torch.no_grad():
        expected, found = weights.model()(batch), again.model(batch)
    assert torch.allclose(expected, found, atol=1e-5)
    assert found.std() > (0.1 if again.config.model.num_classes else 1e-4)
    state = again.model.state_dict()
    assert all(torch.equal(state[key], value) for key, value in weights.state.items())


@pytest.mark.parametrize("name", [name for name in SAMPLES if name != "run"])
def test_half_precision_files_become_float32(
    name: str, samples: dict[str, Sample], tmp_path: Path
) -> None:
    sample = samples[name].copy()
    sample.tensors = {
        key: value.bfloat16() if value.is_floating_point() else value
        for key, value in sample.tensors.items()
    }
    state = load(name, sample.write(tmp_path)).state
    assert {value.dtype for value in state.values()} == {torch.float32}


def test_newer_names_of_transformers_are_the_same_model(tmp_path: Path) -> None:
    old = foreign_weights.hf_ast()
    new = old.copy()
    spelling = {
        "encoder.layer": "layers", "attention.attention.query": "attention.q_proj",
        "attention.attention.key": "attention.k_proj",
        "attention.attention.value": "attention.v_proj",
        "attention.output.dense": "attention.o_proj", "intermediate.dense": "mlp.fc1",
        ".output.dense": ".mlp.fc2",
    }  # fmt: skip

    def newer(name: str) -> str:
        for before, after in spelling.items():
            name = name.replace(before, after)
        return name

    new.tensors = {newer(name): value for name, value in old.tensors.items()}
    assert not set(new.tensors) & {name for name in old.tensors if "layer." in name}
    one = load("hf-ast", old.write(tmp_path / "old")).state
    two = load("hf-ast", new.write(tmp_path / "new")).state
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_published_shapes_of_ast_and_ssast(tmp_path: Path) -> None:
    ast = foreign_weights.ast(width=768, depth=1, positions=1214, classes=527)
    weights = load("ast", ast.write(tmp_path))
    model, length = weights.config.model, weights.config.length
    assert (model.grid, model.patch_stride, model.prefix_tokens) == ((12, 101), (10, 10), 2)
    assert (model.heads, model.norm_eps, model.fc_norm_eps) == (12, 1e-6, 1e-5)
    assert (length.fixed_frames, length.edge, length.padding) == (1024, "drop", "zero")
    assert (weights.config.data.mean, weights.config.train.loss) == (-4.2677393, "bce")
    assert weights.report.ignored["module.v.head_dist.bias"].startswith("the ImageNet classifier")
    weights = load("ssast", foreign_weights.ssast(width=768, depth=1).write(tmp_path))
    model = weights.config.model
    assert (model.grid, model.patch_stride, model.num_classes) == ((8, 64), (16, 16), 0)
    assert model.pooling == "mean" and model.prefix_tokens == 2
    assert "pretraining" in weights.report.ignored["module.cpredlayer.0.weight"]
    assert {"module.p_input_fdim", "module.mask_embed"} <= set(weights.report.ignored)


def test_unused_tensors_of_flexiast_are_ignored(tmp_path: Path) -> None:
    weights = load("flexiast", foreign_weights.flexiast().write(tmp_path))
    stale = weights.report.ignored
    for key in ("module.v.pos_embed", "module.v.patch_embed.proj.weight"):
        assert "left over" in stale[key]
    assert weights.report.loaded["pos_embed.grid"] == ["module.pos_embed.pos_embed"]
    distilled = load("flexiast", foreign_weights.flexiast(distilled=True).write(tmp_path))
    assert distilled.config.model.prefix_tokens == 2


def test_frame_models_are_refused(tmp_path: Path) -> None:
    path = foreign_weights.ssast(patch=(128, 2)).write(tmp_path)
    with pytest.raises(CheckpointError, match="frame model") as caught:
        load("ssast", path)
    assert "patch model" in caught.value.hint


@pytest.mark.parametrize("name", ["timm", "hf-vit"])
def test_two_classifiers_of_a_distilled_model_are_left_out(name: str, tmp_path: Path) -> None:
    weights = load(name, SAMPLES[name](distilled=True).write(tmp_path))
    assert weights.config.model.num_classes == 0 and weights.config.model.prefix_tokens == 2
    assert sum("two classifiers" in reason for reason in weights.report.ignored.values()) == 4


@pytest.mark.parametrize(
    ("positions", "grid", "stride", "frames"),
    [
        (1212, (12, 101), 10, 1024),
        (850, (10, 85), 12, 1024),
        (657, (9, 73), 14, 1024),
        (512, (8, 64), 16, 1024),
        (600, (12, 50), 10, 512),
        (144, (12, 12), 10, 128),
    ],
)
def test_grids_of_published_asts_are_inferred(
    positions: int, grid: tuple[int, int], stride: int, frames: int
) -> None:
    assert audio_grid(positions, (16, 16)) == (grid, (stride, stride), frames)


def test_a_grid_in_doubt_is_asked_for(tmp_path: Path) -> None:
    path = foreign_weights.ast(positions=2 + 720).write(tmp_path)  # 12x60, 10x72, 9x80, 8x90
    with pytest.raises(CheckpointError, match="10x72 at stride 12") as caught:
        load("ast", path)
    assert "init.source_stride" in caught.value.hint
    model = load("ast", path, source_stride=(12, 12)).config.model
    assert (model.grid, model.patch_stride) == ((10, 72), (12, 12))


@pytest.mark.parametrize("patch", [(16, 16), (8, 8), (32, 32), (24, 24), (16, 8), (8, 16)])
@pytest.mark.parametrize("stride", [(0, 0), (10, 10), (7, 7)])
def test_the_hint_names_a_stride_that_fits(patch: tuple[int, int], stride: tuple[int, int]) -> None:
    named = 0
    for positions in range(1, 1_300):
        try:
            grid = audio_grid(positions, patch, stride)
        except CheckpointError as error:
            hint = error.hint
        else:
            assert math.prod(grid.shape) == positions
            continue
        if "source_stride" not in hint:
            assert "no stride" in hint
            bands = [(128 - patch[0]) // step + 1 for step in range(1, min(patch) + 1)]
            assert all(positions % count for count in bands)
            continue
        value = json.loads(hint.rpartition("=")[2])
        advised = tuple(value) if isinstance(value, list) else (value, value)
        grid = audio_grid(positions, patch, advised)
        assert math.prod(grid.shape) == positions and grid.stride == advised
        named += 1
    assert named > 50


def test_a_grid_that_cannot_be_is_refused(tmp_path: Path) -> None:
    path = foreign_weights.ast(positions=2 + 7).write(tmp_path)
    with pytest.raises(CheckpointError, match="cannot be inferred"):
        load("ast", path)
    sample = foreign_weights.timm()
    sample.tensors["pos_embed"] = torch.zeros(1, 190, 128)
    with pytest.raises(CheckpointError, match="no square"):
        load("timm", sample.write(tmp_path))


def test_heads_that_cannot_be_inferred_are_asked_for(tmp_path: Path) -> None:
    path = foreign_weights.ast(width=100).write(tmp_path)
    with pytest.raises(CheckpointError, match="100 wide") as caught:
        load("ast", path)
    assert "init.heads" in caught.value.hint
    assert load("ast", path, heads=5).config.model.heads == 5
    with pytest.raises(CheckpointError, match=r"init\.heads = 3 does not divide"):
        load("ast", path, heads=3)


@pytest.mark.parametrize(
    ("width", "heads"),
    [(192, 3), (384, 6), (768, 12), (1024, 16), (1280, 16), (1408, 16), (1536, 24), (1664, 16)],
)
def test_heads_of_published_image_models(width: int, heads: int) -> None:
    shapes = {"blocks.0.mlp.fc1.weight": torch.empty(4 * width, width, device="meta")}
    init = InitConfig("timm", "x")
    found = encoder(shapes, "blocks", width, init)
    assert found["heads"] == heads


@pytest.mark.parametrize("name", ["timm", "ast", "ssast", "flexiast", "elasticast"])
def test_heads_are_assumed_with_a_note_or_set(name: str, tmp_path: Path) -> None:
    path = SAMPLES[name](depth=1).write(tmp_path)
    weights = load(name, path)
    assert weights.config.model.heads == 2
    assert any("2 heads are assumed, of 64 values" in note for note in weights.report.notes)
    given = load(name, path, heads=4)
    assert given.config.model.heads == 4
    assert not any("heads" in note for note in given.report.notes)


def test_heads_that_a_configuration_states_cannot_be_set_otherwise(tmp_path: Path) -> None:
    path = foreign_weights.hf_ast(depth=1).write(tmp_path)
    assert load("hf-ast", path, heads=2).config.model.heads == 2
    with pytest.raises(UsageError, match=r"init\.heads = 4, but"):
        load("hf-ast", path, heads=4)


def test_only_the_user_can_distinguish_fine_tuned_asts_from_ssasts(tmp_path: Path) -> None:
    path = foreign_weights.ast(depth=1).write(tmp_path)
    for name, other, pooling in (("ast", "ssast", "prefix"), ("ssast", "ast", "mean")):
        weights = load(name, path)
        assert weights.config.model.pooling == pooling
        assert f"else --from {other}" in weights.report.notes[-1]
    pretrained = load("ssast", foreign_weights.ssast(depth=1).write(tmp_path / "pretrained"))
    assert not any("have the same keys" in note for note in pretrained.report.notes)


@pytest.mark.parametrize("content", [[torch.zeros(2)], {"epoch": 3}])
def test_files_without_named_tensors_are_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"no mapping|no tensors"):
        load("ast", tmp_path / "a.pth")


class _Harmful:
    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return (self.call[0], self.call[1:])


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("call", [os.mkdir, os.system, eval])
def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path, legacy: bool, call: Any) -> None:
    trace, file = tmp_path / "trace", tmp_path / "bad.pth"
    arguments = {
        os.mkdir: str(trace),
        os.system: f"mkdir {trace}",
        eval: f"open({str(trace)!r}, 'w')",
    }
    content = {"v.cls_token": torch.zeros(1, 1, 64), "args": _Harmful(call, arguments[call])}
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError, match="would run code") as caught:
        load("ast", file)
    assert not trace.exists()
    assert "safetensors" in caught.value.hint and "container" in caught.value.hint
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "model_state", "model_state_dict", ""])
def test_the_advice_for_a_refused_pickle_works(
    wrapper: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = foreign_weights.ast(depth=1).tensors
    content = {wrapper: tensors} if wrapper else tensors
    torch.save({**content, "args": argparse.Namespace(lr=1)}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError) as caught:
        load("ast", tmp_path / "a.pth")
    line = caught.value.hint.partition("python -c ")[2]
    monkeypatch.chdir(tmp_path)
    exec(line.strip().strip('"'), {})
    assert load("ast", tmp_path / "a.pth.safetensors").config.model.grid == (12, 12)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"these are not the weights you look for", "a text file"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"", "is empty"),
        (bytes(range(128, 160)), "first bytes"),
        (pickle.dumps([1, 2, 3], protocol=2), "damaged"),
        (b"PK\x03\x04 and then nothing", "is damaged"),
        (b"\x10\x00\x00\x00\x00\x00\x00\x00{ no header here", "is damaged"),
    ],
)
def test_files_that_are_no_weights_say_what_they_are(
    tmp_path: Path, content: bytes, words: str
) -> None:
    file = tmp_path / "weights.pth"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=words) as caught:
        load("ast", file)
    assert caught.value.exit_code == 4


def test_a_missing_file_and_an_empty_folder_are_usage_errors(tmp_path: Path) -> None:
    for path in (tmp_path / "none.pth", Path("weights/none.pth"), tmp_path):
        with pytest.raises(UsageError) as caught:
            load("ast", path)
        assert caught.value.exit_code == 2
    with pytest.raises(UsageError, match="asst") as caught:
        load("asst", tmp_path)
    assert "did you mean" in caught.value.hint


def test_hugging_face_weights_without_their_json_are_refused(tmp_path: Path) -> None:
    path = foreign_weights.hf_ast().write(tmp_path)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        load("hf-ast", path)
    for change, words in (
        ({"hidden_act": "relu"}, "hidden_act = 'relu'"),
        ({"layer_norm_eps": None}, "layer_norm_eps"),
        ({"model_type": "wav2vec2"}, "wav2vec2"),
        ({"num_hidden_layers": 1}, "holds 2 blocks, its configuration says 1"),
        ({"max_length": 1024}, r"not \(1212, 128\)"),
    ):
        (path / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(CheckpointError, match=words):
            load("hf-ast", path)
    (path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="not valid JSON"):
        load("hf-ast", path)


def test_settings_of_hugging_faces_feature_extractor_are_used(tmp_path: Path) -> None:
    sample = foreign_weights.hf_ast()
    extractor = sample.documents["preprocessor_config.json"]
    extractor |= {"do_normalize": False, "sampling_rate": 22_050}
    sample.documents["config.json"]["problem_type"] = "multi_label_classification"
    config = load("hf-ast", sample.write(tmp_path)).config
    assert (config.data.mean, config.data.std) == (0.0, 0.5)  # x = (x - 0) / (2 x 0.5)
    assert (config.fbank.sample_rate_hz, config.train.loss) == (22_050, "bce")
    del extractor["do_normalize"], extractor["mean"]
    with pytest.raises(CheckpointError, match="no usable mean"):
        load("hf-ast", sample.write(tmp_path))
    (tmp_path / "preprocessor_config.json").unlink()
    weights = load("hf-ast", tmp_path)
    assert weights.config.data.mean is None and "mean and std unknown" in weights.report.notes[0]


def test_epic_sounds_weights_select_their_frontend(tmp_path: Path) -> None:
    path = foreign_weights.elasticast(classes=44, columns=192).write(tmp_path)
    weights = load("elasticast", path)
    assert weights.config.model.grid == (8, 192) and weights.config.length.max_frames == 3072
    assert any("EPIC-SOUNDS" in note for note in weights.report.notes)
    assert weights.config.fbank == frontend_config("epic-librosa")
    assert (weights.config.data.mean, weights.config.data.std) == (0.0, 0.5)
    run = load_run(convert("elasticast", str(path), tmp_path / "epic.safetensors").out)
    assert run.feature_extractor.fbank.frontend == "epic-librosa"
    assert run.feature_extractor.fbank.sample_rate_hz == 24_000


def test_one_key_under_two_names_is_refused(tmp_path: Path) -> None:
    sample = foreign_weights.ast()
    sample.tensors["v.cls_token"] = sample.tensors["module.v.cls_token"].clone()
    with pytest.raises(CheckpointError, match="twice"):
        load("ast", sample.write(tmp_path))


def test_a_damaged_configuration_of_our_own_is_refused(tmp_path: Path) -> None:
    sample = foreign_weights.run()
    assert sample.metadata is not None
    sample.metadata["config"] = '{"modle": {}}'
    with pytest.raises(CheckpointError, match="cannot read"):
        load("run", sample.write(tmp_path))
