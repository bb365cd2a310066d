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
    if isinstance(given, (bytes, bytearray)) or not isinstance(given, Iterable) or _is_file(given):
        many: list[Any] = [given]
    else:
        many = [given] if _is_one(given) else list(given)
    return [_recording(item, index, sample_rate_hz, own_rate_hz) for index, item in enumerate(many)]


def _is_one(given: Any) -> bool:
    one = (str, os.PathLike, Array, StoredClip, np.ndarray, Tensor, Mapping)
    return isinstance(given, one) or _is_pair(given)


def _is_pair(given: Any) -> bool:
    """Whether it is (waveform, rate); a pair of waveforms is a list of two."""
    return isinstance(given, tuple) and len(given) == 2 and (
        isinstance(given[0], (np.ndarray, Tensor)) and is_number(given[1])
    )  # fmt: skip


def _is_file(given: Any) -> bool:
    return hasattr(given, "read")


def _recording(item: Any, index: int, sample_rate_hz: float, own_rate_hz: int) -> Recording:
    name = f"array {index}"
    if isinstance(item, (str, Array, StoredClip)):
        return item
    if isinstance(item, os.PathLike):
        return Path(item)
    if _is_pair(item):
        return Array(_numpy(item[0]), item[1], name)
    if isinstance(item, Mapping):
        return _of_mapping(item, name)
    if not isinstance(item, (np.ndarray, Tensor)):
        raise UsageError(f"{_called(item)} is no recording", _FORMS)
    if not sample_rate_hz:
        raise UsageError(
            "a waveform does not say its rate",
            f"give sample_rate_hz=...; {own_rate_hz} is the model's own",
        )
    return Array(_numpy(item), sample_rate_hz, name)


def _called(item: Any) -> str:
    if _is_file(item):
        return "an open file"
    kind = type(item).__name__
    return f"a value of type {kind}"


def _of_mapping(item: Mapping[str, Any], name: str) -> Array:
    """Returns the recording in a decoded cell of Hugging Face's datasets."""
    if not {"array", "sampling_rate"} <= item.keys():
        keys = ", ".join(map(str, item)) or "nothing"
        raise UsageError(f"a mapping that holds {keys} is no recording", _FORMS)
    samples = item["array"]
    if not isinstance(samples, Tensor):
        samples = np.asarray(samples)
    return Array(_numpy(samples), item["sampling_rate"], str(item.get("path") or name))


def _numpy(waveform: npt.NDArray[Any] | Tensor) -> npt.NDArray[Any]:
    if not isinstance(waveform, Tensor):
        return waveform
    if waveform.is_meta or waveform.layout != torch.strided:
        raise UsageError("a sparse tensor, or one without values, is no waveform", _FORMS)
    values = waveform.detach().cpu()
    return (
        values.float() if values.is_floating_point() else values
    ).numpy()  # NumPy knows no bfloat16
