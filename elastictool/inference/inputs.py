"""Convert the inputs of a call to recordings: paths, waveforms, pairs, mappings; one or many.

A fault of one waveform becomes an error of that recording; inputs that can never be recordings
(bytes, open files, lists of numbers) are errors of the call and stop it at once.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from elastictool.inference.recordings import Array, Recording, StoredClip, is_number
from elastictool.utils.errors import UsageError

Waveforms = npt.NDArray[np.floating | np.integer] | Tensor
Given = Recording | Waveforms | tuple[Waveforms, float] | Mapping[str, Any]
"""One recording as input; mappings hold ``array`` and ``sampling_rate``."""

_FORMS = (
    "give a path, a NumPy array or tensor with sample_rate_hz=..., a pair (waveform, rate), a "
    "mapping of array and sampling_rate, or a list of these"
)


def listed(
    given: Given | Iterable[Given], sample_rate_hz: float, own_rate_hz: int
) -> list[Recording]:
    """Returns the recordings that a caller gives.

    Args:
        given: One or many.
        sample_rate_hz: Rate of waveforms that do not hold it; 0 if not given.
        own_rate_hz: The model's, for the hint.

    Raises:
        UsageError: Something is no recording, or a waveform is without a rate.
    """
    whole = (str, bytes, bytearray, os.PathLike, Array, StoredClip, np.ndarray, Tensor, Mapping)
    many: list[Any]
    if isinstance(given, Iterable) and not (
        isinstance(given, whole) or _is_pair(given) or hasattr(given, "read")
    ):
        many = list(given)
    else:
        many = [given]
    return [_recording(item, index, sample_rate_hz, own_rate_hz) for index, item in enumerate(many)]


def _is_pair(given: Any) -> bool:
    """Returns whether it is (waveform, rate); a pair of waveforms is a list of two."""
    return isinstance(given, tuple) and len(given) == 2 and (
        isinstance(given[0], (np.ndarray, Tensor)) and is_number(given[1])
    )  # fmt: skip


def _recording(item: Any, index: int, rate_hz: float, own_rate_hz: int) -> Recording:
    name = f"array {index}"
    if isinstance(item, (str, Array, StoredClip)):
        return item
    if isinstance(item, os.PathLike):
        return Path(item)
    if _is_pair(item):
        item, rate_hz = item
    elif isinstance(item, Mapping):  # a decoded cell of Hugging Face's datasets
        if not {"array", "sampling_rate"} <= item.keys():
            keys = ", ".join(map(str, item)) or "nothing"
            raise UsageError(f"a mapping that holds {keys} is no recording", _FORMS)
        name, rate_hz = str(item.get("path") or name), item["sampling_rate"]
        item = item["array"] if isinstance(item["array"], Tensor) else np.asarray(item["array"])
    elif not isinstance(item, (np.ndarray, Tensor)):
        kind = "an open file" if hasattr(item, "read") else f"a value of type {type(item).__name__}"
        raise UsageError(f"{kind} is no recording", _FORMS)
    elif not rate_hz:
        raise UsageError(
            "a waveform does not say its rate",
            f"give sample_rate_hz=...; {own_rate_hz} is the model's own",
        )
    if isinstance(item, Tensor):
        if item.is_meta or item.layout != torch.strided:
            raise UsageError("a sparse tensor, or one without values, is no waveform", _FORMS)
        item = item.detach().cpu()
        item = (item.float() if item.is_floating_point() else item).numpy()  # it has no bfloat16
    return Array(item, rate_hz, name)
