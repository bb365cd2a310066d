"""Reads recordings out of an HDF5 file that holds a 1-D array of samples for each (EPIC-SOUNDS).

A recording is named by its path through the file, ``audio.hdf5/P01_01``. Only the wanted slice is
read, block by block: the videos are hours long and the file is larger than the memory. Each use
opens the file anew (about a millisecond), so no handle crosses into another process.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from elastictool.audio.reader import (
    BLOCK_VALUES,
    Recording,
    Samples,
    Source,
    in_range,
    opened,
    split_member,
)
from elastictool.utils.errors import AudioError, ElasticToolError
from elastictool.utils.optional import missing_extra

RATE_ATTRIBUTE = "sample_rate"
"""Attribute of an array, or of the file, that gives the rate in Hz."""
DEFAULT_RATE_HZ = 24_000
"""Rate where no attribute states one: that of EPIC-SOUNDS, whose files have none."""


class _Array(Recording):
    """One array of samples, read as a recording."""

    def __init__(self, array: Any, name: str) -> None:
        rate_hz = array.attrs.get(
            RATE_ATTRIBUTE, array.file.attrs.get(RATE_ATTRIBUTE, DEFAULT_RATE_HZ)
        )
        super().__init__(name, int(np.asarray(rate_hz).reshape(-1)[0]), channels=1)
        self._array = array

    @property
    def num_samples(self) -> int:
        """Length of the array."""
        return int(self._array.shape[0])

    def samples(self, start: int, stop: int | None) -> Iterator[Samples]:
        """Reads slices of the array."""
        end = self.num_samples if stop is None else min(stop, self.num_samples)
        for first in range(start, end, BLOCK_VALUES):
            try:
                chunk = self._array[first : min(first + BLOCK_VALUES, end)]
            except (OSError, RuntimeError) as error:
                raise AudioError(f"{self.name}: damaged or truncated ({error})") from error
            yield in_range(chunk[:, None])


def members(path: Path) -> list[str]:
    """Returns the sorted paths of all arrays in an HDF5 file.

    Raises:
        ElasticToolError: h5py is not installed, or the file cannot be read.
    """
    if install := missing_extra("h5py"):
        raise ElasticToolError(f"reading {path} needs the extra h5py", install)
    try:
        with _file(path, str(path)) as file:
            return _names(file)
    except AudioError as error:
        raise ElasticToolError(error.message, "it may be an incomplete download") from error


def _names(file: Any) -> list[str]:
    import h5py

    found: list[str] = []
    file.visititems(
        lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None
    )
    return sorted(found)


@contextmanager
def _file(source: Source, name: str) -> Iterator[Any]:
    """Opens the file without a lock: network disks often have none, and nobody writes here."""
    import h5py

    with ExitStack() as stack:
        try:
            if isinstance(source, Path):
                file = h5py.File(source, "r", locking=False)
            else:
                file = h5py.File(stack.enter_context(opened(source, name)), "r")
        except OSError as error:
            raise AudioError(f"{name}: damaged or truncated ({error})") from error
        yield stack.enter_context(file)


def _find(file: Any, member: str, name: str) -> Any:
    """Returns the array called ``member``, or the only one."""
    import h5py

    if not member:
        known = _names(file)
        if len(known) != 1:
            raise AudioError(f"{name}: holds {len(known)} recordings; name one as FILE/NAME")
        member = known[0]
    found = file.get(member)
    if not isinstance(found, h5py.Dataset):
        raise AudioError(f"{name}: the HDF5 file holds no recording of this name")
    if found.ndim != 1 or found.dtype.kind not in "iuf":
        raise AudioError(
            f"{name}: is an array of {found.dtype} of shape {found.shape}, not of samples (n,)"
        )
    if found.shape[0] == 0:
        raise AudioError(f"{name}: holds no samples")
    return found


@contextmanager
def open_array(source: Source, name: str) -> Iterator[Recording]:
    """Opens an array; without a member's name the file's only one. ``name`` is for messages.

    Raises:
        AudioError: h5py is not installed, or the array is missing or cannot be read.
    """
    if install := missing_extra("h5py"):
        raise AudioError(f"{name}: reading hdf5 needs the extra h5py: {install}")
    holder, member = split_member(source)
    with _file(holder, name) as file:
        yield _Array(_find(file, member, name), name)
