"""Forged or broken weights files: each ends in one message, soon and in little memory."""

from __future__ import annotations

import json
import random
import resource
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from elastictool.checkpoint.weights import import_weights, load_run, weight_format
from elastictool.config import InitConfig
from elastictool.pretrained.importer import Imported
from elastictool.utils.errors import CheckpointError, UsageError
from tests.helpers import foreign_weights
from tests.helpers.foreign_weights import SAMPLES

each_format = pytest.mark.parametrize("name", SAMPLES)


def load(name: str, path: Path | str, **how: Any) -> Imported:
    return import_weights(InitConfig(source=name, path=str(path), **how))


@pytest.fixture(autouse=True)
def little_memory() -> Iterator[None]:
    """A model that is built before it is looked at fails here, and not the machine."""
    if torch.cuda.is_initialized():  # which has taken more addresses than there is memory
        yield
        return
    former, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = 12 << 30
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard < 0 else min(limit, hard), hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (former, hard))


# Tensors -------------------------------------------------------------------------------------


@each_format
def test_every_tensor_without_axes_is_an_error(name: str, tmp_path: Path) -> None:
    sample = SAMPLES[name](depth=1)
    for key in sample.tensors:
        broken = sample.copy()
        broken.tensors[key] = torch.tensor(1.0)
        path = broken.write(tmp_path)
        try:
            load(name, path)
        except CheckpointError as error:
            spelled = weight_format(name).spell(key)
            assert spelled in error.message or "does not fit the model" in error.message
        else:  # stale parts and the sizes of pretraining mean nothing
            assert "head" in key or "predlayer" in key or "mask" in key or "v.p" in key or (
                "p_input" in key
            )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda value: value.to(torch.int8), "int8"),
        (lambda value: value.to(torch.complex64), "complex64"),
        (lambda value: value.to(torch.float8_e4m3fn), "float8_e4m3fn"),
        (lambda value: value.to_sparse(), "sparse_coo"),
        (lambda value: value.to("meta"), "without values"),
    ],
)
def test_only_plain_floats_are_weights(
    change: Callable[[Tensor], Tensor], words: str, tmp_path: Path
) -> None:
    sample = foreign_weights.ast(depth=1)
    sample.tensors = {key: change(value) for key, value in sample.tensors.items()}
    with pytest.raises(CheckpointError, match=words):
        load("ast", sample.write(tmp_path))


@pytest.mark.parametrize("legacy", [False, True])
def test_changed_bytes_end_in_one_sentence(legacy: bool, tmp_path: Path) -> None:
    tensors = foreign_weights.ast(depth=1, width=64).tensors
    file, rng = tmp_path / "a.pth", random.Random(0)
    torch.save(tensors, file, _use_new_zipfile_serialization=not legacy)
    good = file.read_bytes()
    for _ in range(60):
        content = bytearray(good)
        for place in rng.choices(range(3_000), k=6):  # where the pickle is, or its beginning
            content[place] = rng.randrange(256)
        file.write_bytes(content)
        with suppress(CheckpointError):  # some changes are to numbers only
            load("ast", file)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_floats_of_any_size_are_weights(dtype: torch.dtype, tmp_path: Path) -> None:
    sample = foreign_weights.ast(depth=1)
    sample.tensors = {key: value.to(dtype) for key, value in sample.tensors.items()}
    state = load("ast", sample.write(tmp_path)).state
    assert {value.dtype for value in state.values()} == {torch.float32}


@each_format
@pytest.mark.parametrize("number", ["5", "99999999", "9" * 5000, "٣"])
def test_blocks_are_numbered_from_0_on(name: str, number: str, tmp_path: Path) -> None:
    sample = SAMPLES[name](depth=2)
    for before in ("blocks.1.", "modules_list.1.", "layer.1."):
        after = before.replace("1", number)
        sample.tensors = {
            key.replace(before, after) if "blocks" in key or "layer" in key else key: value
            for key, value in sample.tensors.items()
        }
    with pytest.raises(CheckpointError, match="not numbered from 0 to 1"):
        load(name, sample.write(tmp_path))


# Hugging Face's JSON -------------------------------------------------------------------------

SIZES = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "patch_size",
    "frequency_stride", "time_stride", "max_length", "num_mel_bins", "layer_norm_eps",
)  # fmt: skip


@pytest.mark.parametrize("key", SIZES)
def test_numbers_of_config_json_are_checked(key: str, tmp_path: Path) -> None:
    sample = foreign_weights.hf_ast(depth=1)
    path = sample.write(tmp_path)
    config = sample.documents["config.json"]
    for value in (0, -3, 3, 10**9, 10**400, 2.5, float("nan"), float("inf"), "16", [16], True, {}):
        if key == "layer_norm_eps" and value in (0, 3, 2.5, 10**9):
            continue  # an eps may be so
        (path / "config.json").write_text(json.dumps(config | {key: value}))
        with pytest.raises(CheckpointError):
            load("hf-ast", path)


@pytest.mark.parametrize(
    "change",
    [
        {"mean": float("nan")}, {"std": 0}, {"std": -1.0}, {"mean": "x"}, {"sampling_rate": 0},
        {"sampling_rate": "fast"}, {"sampling_rate": 10**300},
    ],
)  # fmt: skip
def test_numbers_of_the_feature_extractor_are_checked(
    change: dict[str, Any], tmp_path: Path
) -> None:
    sample = foreign_weights.hf_ast(depth=1)
    sample.documents["preprocessor_config.json"] |= change
    with pytest.raises(CheckpointError):
        load("hf-ast", sample.write(tmp_path))


def test_broken_json_is_an_error(tmp_path: Path) -> None:
    path = foreign_weights.hf_ast(depth=1).write(tmp_path)
    for text in ("[" * 100_000, "{", "[]", '{"a": 1' + "0" * 5_000 + "}"):
        (path / "config.json").write_text(text)
        with pytest.raises(CheckpointError, match=r"config\.json"):
            load("hf-ast", path)
    (path / "config.json").write_bytes(b"\xff")
    with pytest.raises(CheckpointError, match="not valid JSON"):
        load("hf-ast", path)


# Our own files -------------------------------------------------------------------------------


def own_file(folder: Path, **metadata: str | None) -> Path:
    sample = foreign_weights.run(depth=1)
    held = dict(sample.metadata or {}) | metadata
    sample.metadata = {key: text for key, text in held.items() if text is not None}
    return sample.write(folder)


def config_with(**changes: Any) -> str:
    config = json.loads((foreign_weights.run(depth=1).metadata or {})["config"])
    for name, value in changes.items():
        section, _, key = name.partition("__")
        config[section][key] = value
    return json.dumps(config)


@pytest.mark.parametrize(
    ("key", "text", "words"),
    [
        *((key, None, f"{key} is missing") for key in ("config", "label_names", "multi_label",
                                                       "metrics")),
        *((key, "[x", f"{key} is no JSON") for key in ("config", "label_names", "thresholds")),
        ("config", "[" * 100_000, "config is no JSON"),
        ("label_names", '["a"]', "1 and should be 7 names"),
        ("label_names", "[1,2,3,4,5,6,7]", "7 names"),
        ("label_names", "7", "no list"),
        ("multi_label", '"no"', "no truth value"),
        ("metrics", "[]", "no object"),
        ("thresholds", '"x"', "no list"),
        ("thresholds", "[0.5]", "1 and should be 7 numbers"),
        ("thresholds", '["a","b","c","d","e","f","g"]', "7 numbers"),
        ("config", "{}", "7 and should be 0 names"),
        ("config", '{"model": {"width": -1}}', "must be in 1..65,536"),
        ("config", config_with(model__depth=100), "1 blocks, and model.depth 100"),
        ("config", config_with(model__depth=10**400), "not a whole number"),
        ("config", config_with(model__width=2**15), "should be"),
        ("config", config_with(model__width=2**40), "must be in 1..65,536"),
        ("config", config_with(model__grid=[10**6, 10**6]), "should be"),
        ("config", config_with(model__patch_size=[10**4, 10**4]), "should be"),
        ("config", config_with(model__mlp_ratio=99), "should be"),
    ],
)  # fmt: skip
def test_metadata_of_our_own_files_are_checked(
    key: str, text: str | None, words: str, tmp_path: Path
) -> None:
    path = own_file(tmp_path, **{key: text})
    with pytest.raises(CheckpointError, match=words):
        load_run(path)
    with pytest.raises(CheckpointError):
        load("run", path)


def test_weights_of_others_are_sent_to_convert(tmp_path: Path) -> None:
    pickled = foreign_weights.ast(depth=1).write(tmp_path / "a")
    folder = foreign_weights.hf_ast(depth=1).write(tmp_path / "b")
    for path, kind in (
        (pickled, CheckpointError), (folder, UsageError),
        (folder / "model.safetensors", CheckpointError),
    ):  # fmt: skip
        with pytest.raises(kind) as caught:
            load_run(path)
        assert f"elastictool convert {path} --from" in caught.value.hint


def test_the_folder_of_checkpoints_is_not_the_run(tmp_path: Path) -> None:
    path = own_file(tmp_path)
    path.rename(tmp_path / "best.safetensors")
    with pytest.raises(UsageError) as caught:
        load_run(tmp_path)
    assert f"name the run, {tmp_path.parent}" in caught.value.hint
