"""Reads a weights file without running code that it contains.

A pickle is a program. torch's ``weights_only`` loader runs the few instructions that build
tensors and refuses the rest; there is no option to bypass it, only advice on how to convert a file
whose origin the user trusts. The type of a file follows from its first bytes, not from its name.
"""

from __future__ import annotations

import hashlib
import pickle
import re
import struct
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from elastictool.pretrained.locate import INDEXES, read_json, shard_of_tensors
from elastictool.pretrained.report import listed
from elastictool.utils.errors import CheckpointError, UsageError

OWN_FORMAT = "elastictool-1"
"""Value of ``format`` in the metadata of our own checkpoints."""
OWN_NAME = "run"
"""Name of their format in ``init.from``."""

_WRAPPERS = ("model_state", "model_state_dict", "state_dict", "model")
_CONVERT = (
    "if you trust its origin, convert it where it can do no harm (a container without network): "
    "python -c \"import torch; from safetensors.torch import save_file; d = torch.load('{name}', "
    "map_location='cpu', weights_only=False); d = d if isinstance(d, dict) else d.state_dict(); "
    "d = next((d[n] for n in {wrappers} if isinstance(d.get(n), dict)), d); save_file({{k: "
    "v.clone().contiguous() for k, v in d.items() if torch.is_tensor(v)}}, '{name}.safetensors')\""
)


@dataclass(frozen=True)
class Source:
    """A weights file and the JSON files next to it.

    Attributes:
        given: As the user wrote it.
        file: The weights file, or the index of several.
        sha256: Of the file; of shards, of all their bytes in the order of their names.
        tensors: By the file's own keys.
        others: Keys of the file that hold no tensor.
        metadata: Of a safetensors file.
        config: ``config.json`` next to the file; empty where there is none.
        preprocessor: ``preprocessor_config.json``, likewise.
    """

    given: str
    file: Path
    sha256: str
    tensors: Mapping[str, Tensor]
    others: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    preprocessor: Mapping[str, Any] = field(default_factory=dict)


def read_source(given: str, file: Path) -> Source:
    """Reads ``file``, or the shards that it is an index of, and the JSON files next to it.

    Raises:
        UsageError: It cannot be opened.
        CheckpointError: It is damaged, not a weights file, would run code, or holds values that
            are not finite.
    """
    metadata: Mapping[str, str] = {}
    if file.name in INDEXES:
        shards = shard_of_tensors(file)
        values = _read_shards(file, shards)
        files = sorted({file.with_name(name) for name in shards.values()})
    else:
        values, metadata = _read_file(file)
        files = [file]
    tensors = {key: value for key, value in values.items() if isinstance(value, Tensor)}
    _require_sound(file, tensors)
    digest = hashlib.sha256()
    for each in files:
        with each.open("rb") as opened:
            while block := opened.read(1 << 20):
                digest.update(block)
    return Source(
        given=given,
        file=file,
        sha256=digest.hexdigest(),
        tensors=tensors,
        others=tuple(str(key) for key in values if key not in tensors),
        metadata=metadata,
        config=read_json(file.with_name("config.json")),
        preprocessor=read_json(file.with_name("preprocessor_config.json")),
    )


def _read_shards(index: Path, shards: Mapping[str, str]) -> dict[str, Any]:
    """Returns the tensors of all shards; each must be in the shard that the index names."""
    values: dict[str, Any] = {}
    for name in sorted(set(shards.values())):
        held, _ = _read_file(index.with_name(name))
        wrong = [key for key in held if shards.get(key) != name]
        if wrong:
            raise CheckpointError(
                f"{name} holds {listed(wrong)}, which {index} looks for elsewhere", _REFETCH
            )
        values |= held
    missing = [key for key in shards if key not in values]
    if missing:
        raise CheckpointError(f"{index} promises {listed(missing)}, not in its shards", _REFETCH)
    return values


def _read_file(file: Path) -> tuple[dict[str, Any], Mapping[str, str]]:
    """Returns the content of one file, and its metadata if it is safetensors."""
    try:
        with file.open("rb") as opened:
            start = opened.read(16)
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}", "check the path") from error
    if start[8:9] == b"{":
        try:
            with safe_open(str(file), framework="pt") as opened:
                # safe_open has keys() but cannot be iterated over.
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
                return tensors, opened.metadata() or {}
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{file} is damaged: {error}", _REFETCH) from error
    is_pickle = len(start) > 1 and start[0] == 0x80 and start[1] <= pickle.HIGHEST_PROTOCOL
    if start[:4] == b"PK\x03\x04" or is_pickle:
        return _unwrapped(_read_pickle(file)), {}
    if not start:
        appearance = "it is empty"
    elif start.startswith(b"version https:/"):
        appearance = "it is a Git LFS pointer, the file itself was not fetched"
    elif start.lstrip()[:1] == b"<":
        appearance = "it is a web page"
    elif all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in start):
        appearance = "it is a text file"
    else:
        appearance = "its first bytes are of no format known here"
    raise CheckpointError(f"{file} is no weights file: {appearance}", _REFETCH)


_REFUSED = re.compile(
    r"(?:[Uu]nsupported (?:global: )?GLOBAL|reduce for unrecognized function|"
    r"via `add_safe_globals`,? but got) (.+?)( was not| whose|$)"
)
"""How torch's loader names a function or class that it does not allow."""
_REFETCH = "fetch the file again (.safetensors, .pth or .bin), and compare its size"
_LOADER_ERRORS = (
    RuntimeError, EOFError, OSError, ValueError, LookupError, AttributeError, TypeError,
    AssertionError, struct.error,
)  # fmt: skip
"""What torch's loader raises over damaged bytes; found by changing some."""


def _read_pickle(file: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol")  # reported below
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        refused = _REFUSED.search(str(error))
        if refused is None:
            raise CheckpointError(
                f"{file} is damaged, or no file of tensors that torch wrote", _REFETCH
            ) from error
        # Other names would be changed by a shell: the command shows FILE for them.
        name = file.name if re.fullmatch(r"[\w .+@-]+", file.name) else "FILE"
        raise CheckpointError(
            f"{file} is refused: reading it would run code ({refused[1]})",
            _CONVERT.format(name=name, wrappers=_WRAPPERS),
        ) from error
    except _LOADER_ERRORS as error:
        first_line = str(error).partition("\n")[0][:200]
        raise CheckpointError(f"{file} is damaged: {first_line}", _REFETCH) from error


def _unwrapped(values: Any) -> dict[str, Any]:
    """Returns the mapping that holds the weights: the file's own, or the one under a usual name."""
    if isinstance(values, Mapping):
        for name in _WRAPPERS:
            inner = values.get(name)
            if isinstance(inner, Mapping) and any(isinstance(v, Tensor) for v in inner.values()):
                others = {key: None for key in values if key != name}
                return {**others, **inner}
        return {str(key): value for key, value in values.items()}
    raise CheckpointError(
        f"the file holds a {type(values).__name__} and no mapping from names to tensors",
        "save the model's state_dict",
    )


def _require_sound(file: Path, tensors: Mapping[str, Tensor]) -> None:
    if not tensors:
        raise CheckpointError(f"{file} holds no tensors", "save the model's state_dict")
    strange = [
        f"{name} ({_kind(value)})"
        for name, value in tensors.items()
        if value.is_meta
        or value.layout != torch.strided
        or value.is_complex()
        or (value.is_floating_point() and value.dtype not in FLOATS)
    ]
    if strange:
        raise CheckpointError(
            f"{file} holds tensors that no model here has: {listed(strange)}", _AS
        )
    broken = [
        name for name, value in tensors.items()
        if value.is_floating_point() and not bool(value.isfinite().all())
    ]  # fmt: skip
    if broken:
        raise CheckpointError(
            f"{file} holds NaN or infinite values in {listed(broken)}",
            "the training that wrote it diverged, or it is damaged: take an earlier checkpoint",
        )


FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
"""Types that weights may have."""
_AS = "save the weights as plain tensors of float32, float16 or bfloat16"


def require_floats(file: object, tensors: Mapping[str, Tensor]) -> None:
    """Checks that weights are floats: quantised ones mean nothing without their scales.

    Raises:
        CheckpointError: Some are not.
    """
    wrong = [
        f"{name} ({_kind(value)})" for name, value in tensors.items() if value.dtype not in FLOATS
    ]
    if wrong:
        raise CheckpointError(f"{file} holds weights that are no floats: {listed(wrong)}", _AS)


def _kind(value: Tensor) -> str:
    """Returns a word for a tensor of an unusual kind."""
    kind = value.dtype if value.layout == torch.strided else value.layout
    return "without values" if value.is_meta else str(kind).removeprefix("torch.")
