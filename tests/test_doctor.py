"""The doctor reports what is missing or broken instead of failing on it, and tests itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from elastictool.audio.torchaudio_compat import load_torchaudio
from elastictool.evaluation import installation, selftest
from elastictool.models.resize import pi_resize, resample_patch_embed
from elastictool.models.transformer import SpectrogramTransformer
from elastictool.packing.batch import PackedBatch
from elastictool.utils.errors import ElasticToolError
from elastictool.utils.optional import install_command
from tests.helpers.command_line import run_command
from tests.helpers.toy_data import hide_module

ROOT = Path(__file__).parents[1]


def test_the_document_holds_everything_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command(monkeypatch, "doctor", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] and all(check["passed"] for check in report["self_test"])
    versions = {row["name"]: row["text"] for row in report["versions"]}
    assert versions["torch"] == torch.__version__
    assert "imported" in versions["torchaudio"] or "not installed" in versions["torchaudio"]
    assert {"python", "numpy", "soundfile", "libsndfile", "soxr", "pyarrow"} <= set(versions)
    assert [row["name"] for row in report["extras"]] == list(installation.EXTRAS)
    assert "threads" in report["devices"][0]["text"] and "bf16" in report["devices"][0]["text"]
    chosen = {(row["device"], row["dtype"]): row["chosen"] for row in report["attention"]}
    assert chosen["cpu", "float32"] == "split"
    reads = {row["format"]: row["reads"] for row in report["decoders"]}
    assert reads["wav"] and reads["flac"]
    assert [row["name"] for row in report["disk"]] == ["data", "runs"]
    assert list(tmp_path.iterdir()) == []


def test_people_get_tables(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(monkeypatch, "doctor") == 0
    shown = capsys.readouterr()
    for wanted in ("versions", "extras", "devices", "attention", "audio formats", "self test"):
        assert wanted in shown.out
    assert "CUDA path" in shown.err


def _doctor_without(*modules: str) -> subprocess.CompletedProcess[str]:
    """The program where these modules cannot be imported."""
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({modules!r})); "
        "sys.argv = ['elastictool', 'doctor', '--json']; "
        "from elastictool.cli.app import main; main()"
    )
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def test_it_outlives_whatever_is_missing() -> None:
    done = _doctor_without("soundfile", "soxr", "pyarrow", "torchaudio", "av", "scipy", "joblib")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    broken = {row["name"] for row in report["versions"] if row["ok"] is False}
    assert {"soundfile", "libsndfile", "av", "soxr", "pyarrow", "scipy", "joblib"} <= broken
    assert not any(row["reads"] for row in report["decoders"])
    assert all("soundfile" in row["detail"] for row in report["decoders"])


def test_without_torch_doctor_reports_it_and_exits_with_1() -> None:
    done = _doctor_without("torch")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr and "the self test failed" in done.stderr
    report = json.loads(done.stdout)
    assert not report["ok"]
    assert {row["name"]: row["ok"] for row in report["versions"]}["torch"] is False


def test_an_extra_that_is_missing_comes_with_its_install_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hide_module(monkeypatch, "h5py")
    extras = {answer.name: answer for answer in installation.extras()}
    assert extras["h5py"].ok is None
    assert extras["h5py"].text == install_command("h5py")
    rows = {row["format"]: row for row in installation.decoders()}
    assert rows["hdf5"]["reads"] is False and extras["h5py"].text in rows["hdf5"]["detail"]
    assert rows["wav"]["reads"] is True


def test_the_extras_are_those_of_the_project() -> None:
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {
        name: tuple(line.split(">=")[0].split("[")[0] for line in lines)
        for name, lines in project["optional-dependencies"].items()
        if name != "dev"
    }
    declared["dask"] = ("dask", "distributed")
    assert declared == installation.EXTRAS


def test_a_wrong_filterbank_fails_the_self_test(monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = {**selftest.FBANK_PEAKS, 23: (48, 6.0939 + 0.01, -13.0278)}
    monkeypatch.setattr(selftest, "FBANK_PEAKS", peaks)
    with pytest.raises(ElasticToolError, match="filterbank") as raised:
        from elastictool.cli.doctor import doctor

        doctor(json_output=True)
    assert raised.value.exit_code == 1


def test_clips_that_see_each_other_fail_the_self_test(monkeypatch: pytest.MonkeyPatch) -> None:
    forward = SpectrogramTransformer.forward

    def leaking(self: SpectrogramTransformer, batch: PackedBatch) -> Tensor:
        logits = forward(self, batch)
        return logits + 0.1 * logits.mean(dim=0)

    monkeypatch.setattr(SpectrogramTransformer, "forward", leaking)
    checks = {check.name: check.passed for check in selftest.self_test()}
    assert checks["filterbank"]
    assert not checks["packed equals unpacked (cpu, float32)"]


def test_kernels_that_are_only_interpolated_fail_the_self_test(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "elastictool.models.resize.pi_resize",
        lambda kernel, size: resample_patch_embed(kernel, size, "bl"),
    )
    checks = {check.name: check.passed for check in selftest.self_test()}
    assert [name for name, passed in checks.items() if not passed] == ["resized kernels (cpu)"]


@pytest.mark.parametrize("nonsense", [float("nan"), float("inf"), 0.0])
def test_nan_fails_the_self_test(nonsense: float, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = SpectrogramTransformer.forward
    monkeypatch.setattr(
        SpectrogramTransformer, "forward", lambda self, batch: nonsense * forward(self, batch)
    )
    monkeypatch.setattr(
        "elastictool.models.resize.pi_resize", lambda *kernels: nonsense * pi_resize(*kernels)
    )
    passed = [check.name for check in selftest.self_test() if check.passed]
    assert passed == ["filterbank"]


def test_no_device_judges_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only float64 tensors of the host are compared."""
    compare = selftest.compare
    seen: list[Tensor] = []

    def watched(name: str, found: Tensor, expected: Tensor, *rest: Any) -> selftest.Check:
        seen.extend((found, expected))
        return compare(name, found, expected, *rest)

    monkeypatch.setattr(selftest, "compare", watched)
    assert all(check.passed for check in selftest.self_test())
    assert {(values.device.type, values.dtype) for values in seen} == {("cpu", torch.float64)}
    assert not compare("", torch.tensor([-1.0]), torch.tensor([-1.5]), 0.1).passed


def test_the_stored_filterbank_values_are_torchaudios() -> None:
    load_torchaudio()
    kaldi = pytest.importorskip("torchaudio.compliance.kaldi")
    time_s = np.arange(8_000) / 16_000
    chirp = 0.5 * np.sin(2 * np.pi * (200 * time_s + 2_000 * time_s * time_s))
    frames = kaldi.fbank(
        torch.from_numpy(chirp)[None], sample_frequency=16_000.0, num_mel_bins=128, dither=0.0,
        htk_compat=True, use_energy=False, window_type="hanning", frame_shift=10.0,
    )  # fmt: skip
    for frame, (peak, highest, mean) in selftest.FBANK_PEAKS.items():
        assert int(frames[frame].argmax()) == peak
        assert float(frames[frame, peak]) == pytest.approx(highest, abs=1e-3)
        assert float(frames[frame].mean()) == pytest.approx(mean, abs=1e-3)


GOOD, BAD = {"agrees": True}, {"agrees": False}
GPU = {"environment": {"gpu": "Some GPU", "torch": "2"}}


@pytest.mark.parametrize(
    ("differs", "words"),
    [
        ({}, "verified on Some GPU with torch 2, source revision 0123456789ab ("),
        ({"git_revision": None}, "verified on Some GPU with torch 2, an unknown source"),
        ({"device": "cpu"}, "unverified: no GPU was used"),
        ({"environment": {"gpu": None, "torch": "2"}}, "unverified: no GPU was used"),
        ({"agreement": []}, "unverified: there is no comparison"),
        ({"features": []}, "unverified: there is no comparison"),
        ({"agreement": [GOOD, BAD]}, "unverified: 1 of 2 comparisons disagree (agreement)"),
        ({"features": [BAD, GOOD]}, "unverified: 1 of 2 comparisons disagree (features)"),
        ({"agreement": [{}]}, "unverified: "),
        ({"agreement": None}, "unverified: "),
    ],
)
def test_the_cuda_path_is_verified_by_a_committed_result_only(
    differs: dict[str, object], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = tmp_path / "gpu.json"
    monkeypatch.setattr(installation, "GPU_RESULTS", result)
    assert installation.cuda_evidence().startswith("unverified: no GPU result")
    document = GPU | {"device": "cuda", "agreement": [GOOD], "features": [GOOD]}
    document |= {"git_revision": "0123456789abcdef"}
    result.write_text(json.dumps(document | differs), encoding="utf-8")
    assert installation.cuda_evidence().startswith(words)


def test_the_help_text_has_an_example(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(monkeypatch, "doctor", "--help") == 0
    assert "elastictool doctor" in capsys.readouterr().out
