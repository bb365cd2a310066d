"""What is installed here and what of it works: the facts behind ``elastictool doctor``.

This runs on machines where something is broken, to say what. So nothing heavy is imported at the
top, and every look at a library is taken through ``attempt``, which turns whatever it throws into
a sentence: here, and only here, any exception is an answer and not a fault of ours.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from elastictool import __version__
from elastictool.audio import torchaudio_compat
from elastictool.utils.optional import install_command, missing_extra

T = TypeVar("T")

PACKAGES = {
    "torch": "torch",
    "numpy": "numpy",
    "soundfile": "soundfile",
    "av": "av",
    "soxr": "soxr",
    "pyarrow": "pyarrow",
    "safetensors": "safetensors",
    "scipy": "scipy",
    "scikit-learn": "sklearn",
    "matplotlib": "matplotlib",
    "joblib": "joblib",
    "PyYAML": "yaml",
}
"""Distributions that elastictool cannot do without (torchaudio apart), and how each is imported."""

EXTRAS = {
    "dask": ("dask", "distributed"),
    "h5py": ("h5py",),
    "hub": ("huggingface_hub",),
    "onnx": ("onnx", "onnxruntime", "onnxscript"),
    "tensorboard": ("tensorboard",),
    "transformers": ("transformers",),
}
"""Extras of ours, and the packages that each brings."""

_GPU_RESULTS = Path(__file__).parents[2] / "docs" / "results" / "gpu.json"


@dataclass(frozen=True)
class Answer:
    """What came of one look.

    Attributes:
        name: What was looked at.
        ok: Whether it is as it should be; None where that does not matter.
        text: The version, or what is wrong.
    """

    name: str
    ok: bool | None
    text: str


def attempt(look: Callable[[], T], otherwise: Callable[[str], T]) -> T:
    """The result of ``look``, or of ``otherwise`` for a sentence on why it failed."""
    try:
        return look()
    except Exception as error:
        message = " ".join(str(error).split()) or type(error).__name__
        return otherwise(f"{type(error).__name__}: {message}")


def versions() -> list[Answer]:
    """Python, elastictool and what it cannot do without; each package is imported."""
    answers = [
        Answer("python", True, f"{platform.python_version()} on {platform.platform()}"),
        Answer("elastictool", True, __version__),
    ]
    answers += [_package(name, module) for name, module in PACKAGES.items()]
    answers.append(attempt(_libsndfile, lambda why: Answer("libsndfile", False, why)))
    answers.append(attempt(_torchaudio, lambda why: Answer(torchaudio_compat.PACKAGE, False, why)))
    return answers


def _package(name: str, module: str) -> Answer:
    def look() -> Answer:
        # What the module says of itself: torch adds the build (2.11.0+cu130).
        found = getattr(importlib.import_module(module), "__version__", "")
        return Answer(name, True, str(found) or importlib.metadata.version(name))

    return attempt(look, lambda why: Answer(name, False, why))


def _libsndfile() -> Answer:
    soundfile = importlib.import_module("soundfile")
    return Answer("libsndfile", True, str(soundfile.__libsndfile_version__))


def _torchaudio() -> Answer:
    """Only tests and the comparison with Kaldi's values need it: missing is no fault."""
    name = torchaudio_compat.PACKAGE
    state = torchaudio_compat.torchaudio_state()
    if state == "missing":
        return Answer(name, None, "not installed (needed for comparisons only)")
    ways = {
        "native": "imported as it is",
        "extension disabled": "imported with its extension disabled, which does not load here",
    }
    return Answer(name, True, f"{importlib.metadata.version(name)}, {ways[state]}")


def extras() -> list[Answer]:
    """Each extra: the versions of its packages, or what to do before it can be used."""
    return [_extra(name, packages) for name, packages in EXTRAS.items()]


def _extra(name: str, packages: tuple[str, ...]) -> Answer:
    def look() -> Answer:
        found = [f"{package} {importlib.metadata.version(package)}" for package in packages]
        lack = missing_extra(name, *packages)
        return Answer(name, None if lack else True, lack or ", ".join(found))

    return attempt(look, lambda _: Answer(name, None, install_command(name)))


def devices() -> list[Answer]:
    """The processor and each CUDA device, with what they can compute."""
    answers = [attempt(_cpu, lambda why: Answer("cpu", False, why))]
    return answers + attempt(_cuda, lambda why: [Answer("cuda", False, why)])


def _cpu() -> Answer:
    import torch

    from elastictool.evaluation.bench.timing import cpu_name

    native = attempt(torch.ops.mkldnn._is_mkldnn_bf16_supported, lambda _: False)
    matrices = attempt(torch.cpu._is_amx_tile_supported, lambda _: False)
    kind = "with AMX" if native and matrices else "native" if native else "emulated, slow"
    threads = f"{torch.get_num_threads()} threads on {os.cpu_count()} cores"
    return Answer("cpu", True, f"{cpu_name()}, {threads}, bf16: {kind}")


def _cuda() -> list[Answer]:
    import torch

    if not torch.cuda.is_available():
        built = torch.version.cuda
        why = f"torch is built for CUDA {built}" if built else "this torch is built without CUDA"
        return [Answer("cuda", None, f"no CUDA device ({why})")]
    return [_gpu(index) for index in range(torch.cuda.device_count())]


def _gpu(index: int) -> Answer:
    import torch

    name = f"cuda:{index}"

    def look() -> Answer:
        facts = torch.cuda.get_device_properties(index)
        memory = f"{facts.total_memory / 2**30:.0f} GiB"
        bf16 = "bf16" if torch.cuda.is_bf16_supported() else "no bf16"
        capability = f"compute capability {facts.major}.{facts.minor}"
        return Answer(name, True, f"{facts.name}, {memory}, {capability}, {bf16}")

    return attempt(look, lambda why: Answer(name, False, why))


def usable_devices() -> list[str]:
    """``cpu``, and ``cuda`` where there is such a device."""

    def look() -> list[str]:
        import torch

        return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]

    return attempt(look, lambda _: [])


def attention() -> list[dict[str, Any]]:
    """For each device and type: the backend that ``auto`` takes, and why others decline."""
    return [
        attempt(partial(_attention, device, dtype), partial(_no_attention, device, dtype))
        for device in usable_devices()
        for dtype in ("float32", "bfloat16")
    ]


def _attention(device: str, dtype: str) -> dict[str, Any]:
    import torch

    from elastictool.models.attention.base import ATTENTION, AttentionInputs, choose_attention

    kind = getattr(torch, dtype)
    inputs = AttentionInputs(torch.device(device), kind)
    reasons = {name: ATTENTION[name].unsupported(inputs) for name in ATTENTION}
    return {
        "device": device,
        "dtype": dtype,
        "chosen": choose_attention("auto", device, kind),
        "available": [name for name, reason in reasons.items() if not reason and name != "auto"],
        "declined": {name: reason for name, reason in reasons.items() if reason},
    }


def _no_attention(device: str, dtype: str, why: str) -> dict[str, Any]:
    return {
        "device": device,
        "dtype": dtype,
        "chosen": "",
        "available": [],
        "declined": {"all": why},
    }


def cuda_evidence() -> str:
    """What is known of the CUDA path: the committed result of ``benchmarks/gpu.py``, or none."""
    if not _GPU_RESULTS.exists():
        return "unverified: no GPU result is committed with this version"

    def look() -> str:
        document = json.loads(_GPU_RESULTS.read_text(encoding="utf-8"))
        doubt = _doubt(document)
        return f"unverified: {doubt} in {_GPU_RESULTS}" if doubt else _verified(document)

    return attempt(look, lambda why: f"unverified: {_GPU_RESULTS} cannot be understood ({why})")


def _doubt(document: dict[str, Any]) -> str:
    """Why a document does not show that the CUDA paths compute what they should; empty if it does.

    What was not compared, because the run ended before, shows nothing.
    """
    if document["device"] != "cuda" or not document["environment"]["gpu"]:
        return "no GPU was used"
    for part in ("agreement", "features"):
        if not document[part]:
            return f"there is no comparison ({part})"
        failed = [row for row in document[part] if row["agrees"] is not True]
        if failed:
            return f"{len(failed)} of {len(document[part])} comparisons disagree ({part})"
    return ""


def _verified(document: dict[str, Any]) -> str:
    made = document["environment"]
    revision = document["git_revision"]
    source = f"source revision {revision[:12]}" if revision else "an unknown source revision"
    return f"verified on {made['gpu']} with torch {made['torch']}, {source} ({_GPU_RESULTS})"


def decoders() -> list[dict[str, Any]]:
    """Each audio format, and whether what was written in it can be read here."""
    from elastictool.audio.formats import FORMATS, Format

    def look(kind: Format) -> tuple[bool | None, str]:
        from elastictool.audio.trials import try_format

        return try_format(kind)

    rows = []
    for kind in FORMATS:
        reads, detail = attempt(partial(look, kind), lambda why: (False, why))
        rows.append(
            {
                "format": kind.name,
                "endings": list(kind.suffixes),
                "decoder": kind.decoder,
                "reads": reads,
                "detail": detail,
            }
        )
    return rows


def disk(folder: Path) -> Answer:
    """Free space where data or runs go; of a folder that is yet to come, its parent's."""

    def look() -> Answer:
        place = folder.absolute()
        while not place.exists():
            place = place.parent
        usage = shutil.disk_usage(place)
        free = f"{usage.free / 1e9:.1f} GB free of {usage.total / 1e9:.1f} GB"
        writable = os.access(place, os.W_OK)
        return Answer(str(folder), writable, free if writable else f"{free}, not writable")

    return attempt(look, lambda why: Answer(str(folder), False, why))
