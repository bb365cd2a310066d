"""Find out what is installed and what of it works, for ``elastictool doctor``.

This runs on machines where something is broken. So nothing heavy is imported at the top, and every
library is tried through ``attempt``, which turns any exception into a sentence.
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

PACKAGES = (
    "torch", "numpy", "soundfile", "av", "soxr", "pyarrow", "safetensors", "scipy", "matplotlib",
    "joblib", "PyYAML",
)  # fmt: skip
"""Required distributions, without torchaudio."""

EXTRAS = {
    "dask": ("dask", "distributed"),
    "h5py": ("h5py",),
    "hub": ("huggingface_hub",),
    "onnx": ("onnx", "onnxruntime", "onnxscript"),
    "tensorboard": ("tensorboard",),
    "transformers": ("transformers",),
}
"""The extras, and the packages that each brings."""

GPU_RESULTS = Path(__file__).parents[2] / "docs" / "results" / "gpu.json"
"""The committed document of ``benchmarks.gpu`` that shows that the CUDA path works."""


@dataclass(frozen=True)
class Status:
    """The state of one part of the installation.

    Attributes:
        name: The part.
        ok: Whether it works; None where it is optional.
        text: The version, or what is wrong.
    """

    name: str
    ok: bool | None
    text: str


def attempt(look: Callable[[], T], otherwise: Callable[[str], T]) -> T:
    """Returns the result of ``look``, or of ``otherwise`` with the reason why it failed."""
    try:
        return look()
    except Exception as error:
        message = " ".join(str(error).split()) or type(error).__name__
        return otherwise(f"{type(error).__name__}: {message}")


def _status(name: str, look: Callable[[], str]) -> Status:
    return attempt(lambda: Status(name, True, look()), lambda why: Status(name, False, why))


def versions() -> list[Status]:
    """Returns the versions of Python, elastictool and the required packages, which it imports."""
    return [
        Status("python", True, f"{platform.python_version()} on {platform.platform()}"),
        Status("elastictool", True, __version__),
        *(_status(name, partial(_version, name)) for name in PACKAGES),
        _status(
            "libsndfile", lambda: str(importlib.import_module("soundfile").__libsndfile_version__)
        ),
        attempt(_torchaudio, lambda why: Status(torchaudio_compat.PACKAGE, False, why)),
    ]


def _version(name: str) -> str:
    """Returns the module's own version, to which torch adds the build, else the package's."""
    module = importlib.import_module({"PyYAML": "yaml"}.get(name, name))
    return str(getattr(module, "__version__", "")) or importlib.metadata.version(name)


def _torchaudio() -> Status:
    """Returns torchaudio's state; only tests and comparisons with Kaldi's values need it."""
    name = torchaudio_compat.PACKAGE
    state = torchaudio_compat.torchaudio_state()
    if state == "missing":
        return Status(name, None, "not installed (needed for comparisons only)")
    way = (
        "as it is" if state == "native" else "with its extension disabled, which does not load here"
    )
    return Status(name, True, f"{importlib.metadata.version(name)}, imported {way}")


def extras() -> list[Status]:
    """Returns for each extra the versions of its packages, or how to install it."""
    return [_extra(name, packages) for name, packages in EXTRAS.items()]


def _extra(name: str, packages: tuple[str, ...]) -> Status:
    def look() -> Status:
        found = [f"{package} {importlib.metadata.version(package)}" for package in packages]
        lack = missing_extra(name, *packages)
        return Status(name, None if lack else True, lack or ", ".join(found))

    return attempt(look, lambda _: Status(name, None, install_command(name)))


def devices() -> list[Status]:
    """Returns the processor and each CUDA device, with what they can compute."""
    statuses = attempt(_cuda, lambda why: [Status("cuda", False, why)])
    return [_status("cpu", _cpu), *statuses]


def _cpu() -> str:
    import torch

    from elastictool.evaluation.bench.timing import cpu_name

    native = attempt(torch.ops.mkldnn._is_mkldnn_bf16_supported, lambda _: False)
    matrices = attempt(torch.cpu._is_amx_tile_supported, lambda _: False)
    kind = "with AMX" if native and matrices else "native" if native else "emulated, slow"
    threads = f"{torch.get_num_threads()} threads on {os.cpu_count()} cores"
    return f"{cpu_name()}, {threads}, bf16: {kind}"


def _cuda() -> list[Status]:
    import torch

    def look(index: int) -> str:
        facts = torch.cuda.get_device_properties(index)
        memory = f"{facts.total_memory / 2**30:.0f} GiB"
        bf16 = "bf16" if torch.cuda.is_bf16_supported() else "no bf16"
        return f"{facts.name}, {memory}, compute capability {facts.major}.{facts.minor}, {bf16}"

    if not torch.cuda.is_available():
        built = torch.version.cuda
        why = f"torch is built for CUDA {built}" if built else "this torch is built without CUDA"
        return [Status("cuda", None, f"no CUDA device ({why})")]
    return [_status(f"cuda:{i}", partial(look, i)) for i in range(torch.cuda.device_count())]


def usable_devices() -> list[str]:
    """Returns ``cpu``, and ``cuda`` where there is such a device; nothing without torch."""

    def look() -> list[str]:
        import torch

        return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]

    return attempt(look, lambda _: [])


def attention() -> list[dict[str, Any]]:
    """Returns for each device and type the backend that ``auto`` takes, and why others cannot."""

    def look(device: str, dtype: str) -> dict[str, Any]:
        import torch

        from elastictool.models.attention.base import ATTENTION, AttentionInputs, choose_attention

        kind = getattr(torch, dtype)
        inputs = AttentionInputs(torch.device(device), kind)
        reasons = {name: ATTENTION[name].unsupported(inputs) for name in ATTENTION}
        return {
            "chosen": choose_attention("auto", device, kind),
            "available": [name for name, why in reasons.items() if not why and name != "auto"],
            "declined": {name: why for name, why in reasons.items() if why},
        }

    return [
        {"device": device, "dtype": dtype}
        | attempt(
            partial(look, device, dtype),
            lambda why: {"chosen": "", "available": [], "declined": {"all": why}},
        )
        for device in usable_devices()
        for dtype in ("float32", "bfloat16")
    ]


def cuda_evidence() -> str:
    """Returns whether a committed result of ``benchmarks/gpu.py`` verifies the CUDA path."""
    if not GPU_RESULTS.exists():
        return "unverified: no GPU result is committed with this version"

    def look() -> str:
        document = json.loads(GPU_RESULTS.read_text(encoding="utf-8"))
        made, revision = document["environment"], document["git_revision"]
        if doubt := _doubt(document):
            return f"unverified: {doubt} in {GPU_RESULTS}"
        source = f"source revision {revision[:12]}" if revision else "an unknown source revision"
        return f"verified on {made['gpu']} with torch {made['torch']}, {source} ({GPU_RESULTS})"

    return attempt(look, lambda why: f"unverified: {GPU_RESULTS} cannot be understood ({why})")


def _doubt(document: dict[str, Any]) -> str:
    """Returns why a document does not verify the CUDA paths, for example a missing comparison."""
    if document["device"] != "cuda" or not document["environment"]["gpu"]:
        return "no GPU was used"
    for part in ("agreement", "features"):
        if not document[part]:
            return f"there is no comparison ({part})"
        failed = [row for row in document[part] if row["agrees"] is not True]
        if failed:
            return f"{len(failed)} of {len(document[part])} comparisons disagree ({part})"
    return ""


def decoders() -> list[dict[str, Any]]:
    """Returns each audio format, and whether what was written in it can be read here."""
    from elastictool.audio.formats import FORMATS, Format

    def look(kind: Format) -> tuple[bool | None, str]:
        from elastictool.audio.trials import try_format

        return try_format(kind)

    rows = []
    for kind in FORMATS:
        reads, detail = attempt(partial(look, kind), lambda why: (False, why))
        row = {"format": kind.name, "endings": list(kind.suffixes), "decoder": kind.decoder}
        rows.append(row | {"reads": reads, "detail": detail})
    return rows


def disk(folder: Path) -> Status:
    """Returns the free space of a folder for data or runs, or of its parent if it is missing."""

    def look() -> Status:
        existing = folder.absolute()
        while not existing.exists():
            existing = existing.parent
        usage = shutil.disk_usage(existing)
        free = f"{usage.free / 1e9:.1f} GB free of {usage.total / 1e9:.1f} GB"
        writable = os.access(existing, os.W_OK)
        return Status(str(folder), writable, free if writable else f"{free}, not writable")

    return attempt(look, lambda why: Status(str(folder), False, why))
