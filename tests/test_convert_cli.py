"""``elastictool convert`` as a user meets it, and weights from the Hugging Face hub's cache."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from elastictool.checkpoint.weights import import_weights, load_run
from elastictool.config import InitConfig
from elastictool.utils.errors import ElasticToolError
from elastictool.utils.optional import install_command
from tests.helpers import foreign_weights
from tests.helpers.command_line import run_command
from tests.helpers.foreign_weights import Sample


def test_convert_writes_weights_and_report_and_prints_one_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = foreign_weights.hf_ast().write(tmp_path / "ast"), tmp_path / "out.safetensors"
    assert (
        run_command(monkeypatch, "convert", path, "--from", "hf-ast", "--out", out, "--json") == 0
    )
    document = json.loads(capsys.readouterr().out)
    assert document["label_names"][1] == "sound 1" and document["model"]["patch_stride"] == [10, 10]
    report = json.loads(Path(document["report_file"]).read_text())
    assert report == document["report"] and len(report["sha256"]) == 64
    loaded = load_run(out)
    assert (loaded.feature_extractor.mean, loaded.feature_extractor.std) == (-4.0, 4.5)
    assert loaded.metrics["imported_sha256"] == report["sha256"]
    assert loaded.label_names[6] == "sound 6"


def test_convert_shows_the_report_to_people(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = foreign_weights.ast().write(tmp_path), tmp_path / "out.safetensors"
    sets = ["--set", "model.preset=elasticast", "--set", "model.patch_stride=16"]
    assert run_command(monkeypatch, "convert", path, "--from", "ast", "--out", out, *sets) == 0
    shown = capsys.readouterr()
    for words in ("sha256", "module.v.head.weight", "never used", "marginal means", "12x12 to 8x8"):
        assert words in shown.out.replace("\n", " "), words
    assert "wrote" in shown.err


@pytest.mark.parametrize(
    ("change", "arguments", "code", "words"),
    [
        ("", ["--from", "elasticast"], 4, ["looks like ast", "name that format"]),
        ("unknown key", ["--from", "ast"], 4, ["unexplained v.gamma"]),
        ("text", ["--from", "ast"], 4, ["a text file", "fetch the file again"]),
        ("gone", ["--from", "ast"], 2, ["does not exist"]),
        ("", ["--from", "asst"], 2, ["unknown checkpoint format", "did you mean"]),
        ("", ["--from", "ast", "--set", "model.depth=9"], 2, ["cannot be changed"]),
        ("", ["--from", "ast", "--labels", "none.txt"], 2, ["none.txt"]),
    ],
)
def test_every_error_has_its_message_and_exit_code(
    change: str, arguments: list[str], code: int, words: list[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    sample = foreign_weights.ast(depth=1)
    if change == "unknown key":
        sample.tensors["v.gamma"] = torch.ones(1)
    path, out = sample.write(tmp_path), tmp_path / "out.safetensors"
    if change == "text":
        path.write_text("not weights at all")
    if change == "gone":
        path.unlink()
    assert run_command(monkeypatch, "convert", path, "--out", out, *arguments) == code
    shown = capsys.readouterr()
    text = " ".join(shown.err.split())
    assert all(word in text for word in words), text
    assert "Traceback" not in text and not shown.out and not out.exists()


# The hub -------------------------------------------------------------------------------------


def cached(cache: Path, name: str, sample: Sample) -> None:
    """Put a sample where huggingface_hub keeps what it has fetched."""
    folder = cache / f"models--{name.replace('/', '--')}"
    sample.write(folder / "snapshots" / "0123abc")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0123abc")


@pytest.fixture
def offline_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """HF_HUB_OFFLINE=1, an empty cache, and no network for whoever tries."""
    constants = pytest.importorskip("huggingface_hub.constants")

    def refuse(*arguments: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return tmp_path


@pytest.mark.parametrize("name", ["hf-ast", "hf-vit", "timm"])
def test_weights_come_from_the_hubs_cache_without_network(name: str, offline_cache: Path) -> None:
    sample = foreign_weights.SAMPLES[name]()  # hf-vit is a .bin, the others .safetensors
    cached(offline_cache, "someone/some-model", sample)
    weights = import_weights(InitConfig(name, "someone/some-model"))
    assert weights.report.source == "someone/some-model"
    assert weights.report.file.endswith(sample.file)
    assert weights.config.model.width == 128


def test_a_hub_id_that_is_not_cached_is_a_clear_error(offline_cache: Path) -> None:
    with pytest.raises(ElasticToolError, match="someone/else is neither") as caught:
        import_weights(InitConfig("hf-ast", "someone/else"))
    assert "HF_HUB_OFFLINE" in caught.value.hint and caught.value.exit_code == 1


def test_without_huggingface_hub_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ElasticToolError, match="needs the extra hub") as caught:
        import_weights(InitConfig("hf-ast", "someone/else"))
    assert install_command("hub") in caught.value.hint
