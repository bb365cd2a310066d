"""Reads prepared data: Arrow stream shards, memory-mapped, so that any clip costs O(1).

Audio stays compressed inside the shards and is decoded clip by clip, partially if asked; what
planners need (lengths, splits, folds) is in plain arrays. Features are not stored, because the
frame shift changes during training. The shards also open with Hugging Face ``datasets``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from elastictool.audio.decode import decode
from elastictool.config import FbankConfig
from elastictool.config.check import within
from elastictool.config.coerce import from_dict
from elastictool.utils.errors import (
    AudioError,
    DamagedDataError,
    ElasticToolError,
    UsageError,
    is_out_of_memory,
)
from elastictool.utils.io import INFO_NAME, require_readable

DATA_ROOT = Path(os.environ.get("ELASTICTOOL_DATA") or "data")
"""Default folder of prepared datasets."""

_WRONG = (AttributeError, KeyError, RecursionError, TypeError, ValueError)
"""What reading a document raises that has other keys or values."""
_FINGERPRINT_KEY = "elastictool_fingerprint"
FORMAT = 1
COPIED_BYTES = 1 << 20
"""Below this size a copy in memory is read faster than a file."""


def shard_schema(sample_rate_hz: int, fingerprint: str = "") -> pa.Schema:
    """Returns the columns of a shard; metadata describe them for ``datasets`` and name the plan."""
    columns = {
        "id": pa.string(),
        "audio": pa.struct({"bytes": pa.binary(), "path": pa.string()}),
        "num_samples": pa.int64(),
        "sample_rate_hz": pa.int32(),
        "labels": pa.list_(pa.string()),
        "split": pa.string(),
        "fold": pa.int32(),
        "group": pa.string(),
        "source": pa.string(),
        "start": pa.float64(),
        "stop": pa.float64(),
    }
    names = {pa.float64(): "float64"}  # str() gives "double"
    features: dict[str, dict[str, Any]] = {
        name: {"dtype": names.get(kind, str(kind)), "_type": "Value"}
        for name, kind in columns.items()
    }
    features["audio"] = {"sampling_rate": sample_rate_hz, "decode": True, "_type": "Audio"}
    features["labels"] = {"feature": features["id"], "_type": "Sequence"}
    return pa.schema(
        columns,
        metadata={
            "huggingface": json.dumps({"info": {"features": features}}),
            _FINGERPRINT_KEY: fingerprint,
        },
    )


def shard_name(index: int) -> str:
    """Returns the file name of shard ``index``."""
    return f"shard-{index:05d}.arrow"


@dataclass(frozen=True)
class Clip:
    """One row of a prepared dataset, without its audio.

    Attributes:
        id: Unique within the dataset.
        num_samples: Length at ``sample_rate_hz``.
        sample_rate_hz: Rate of the stored audio.
        labels: Label names.
        split: ``train``, ``val``, ``test`` or the corpus's own name.
        fold: Cross-validation fold from 1; 0 is none.
        group: What must not be spread over splits; empty is none.
        source: File that the clip came from, relative to the corpus's folder.
        start_s: Start of the slice in that file in seconds; None is its start.
        stop_s: End of the slice in that file in seconds; None is its end.
    """

    id: str
    num_samples: int
    sample_rate_hz: int
    labels: tuple[str, ...]
    split: str
    fold: int
    group: str
    source: str
    start_s: float | None
    stop_s: float | None


@dataclass(frozen=True)
class FbankSums:
    """Sums over all frames and mel bins of the clips of one (split, fold)."""

    split: str
    fold: int
    frames: int
    sum: float
    sum_of_squares: float


@dataclass(frozen=True)
class SplitCounts:
    """Counts of the clips of one split.

    ``expected`` is the published number (0: none published); ``found`` = ``prepared`` +
    ``rejected``; ``silent`` counts prepared clips under −80 dBFS (``data/levels``),
    ``clipped`` those that went beyond full scale.
    """

    prepared: int = 0
    found: int = 0
    expected: int = 0
    missing: int = 0
    rejected: int = 0
    silent: int = 0
    clipped: int = 0


@dataclass(frozen=True)
class DatasetInfo:
    """Content of ``dataset.json``: facts that are known only when all shards are written.

    Attributes:
        name: Name of the dataset.
        corpus: Corpus that listed it.
        label_names: Labels in the corpus's order; the index of a label is its class.
        multi_label: Whether a clip may have several labels.
        sample_rate_hz: Rate of the stored audio.
        encoding: ``flac`` or ``wav``.
        channel: Which channel was taken of files with several.
        resampler: Library and quality that changed sample rates.
        source_rates: Clips per original sample rate (Hz, as text: it is JSON).
        fingerprint: Hash of clip list and settings.
        num_clips: Rows in all shards.
        num_shards: Shard files.
        splits: Counts per split.
        fbank_config: Settings with which ``fbank_sums`` were measured.
        fbank_sums: Sums per (split, fold), from which any mean and deviation is exact.
        notes: What the corpus said about its listing.
        stats_clips: Clips whose frames are in ``fbank_sums``, drawn with a seed; 0 are all.
    """

    name: str
    corpus: str
    label_names: list[str]
    multi_label: bool
    sample_rate_hz: int
    encoding: str
    channel: str
    resampler: str
    source_rates: dict[str, int]
    fingerprint: str
    num_clips: int
    num_shards: int
    splits: dict[str, SplitCounts]
    fbank_config: dict[str, Any]
    fbank_sums: list[FbankSums]
    notes: list[str]
    stats_clips: int = 0

    @property
    def rejected(self) -> int:
        """Clips that could not be used."""
        return sum(counts.rejected for counts in self.splits.values())

    @property
    def missing(self) -> int:
        """Clips that the annotations name but the disk lacked."""
        return sum(counts.missing for counts in self.splits.values())

    def fbank_stats(
        self, keep: Callable[[str, int], bool] = lambda split, fold: True
    ) -> tuple[float, float]:
        """Returns mean and deviation of the log-mel values, over (split, fold) that ``keep``.

        Raises:
            ElasticToolError: Nothing is kept.
        """
        kept = [sums for sums in self.fbank_sums if keep(sums.split, sums.fold)]
        values = sum(sums.frames for sums in kept) * int(self.fbank_config["num_mel_bins"])
        if not values:
            raise ElasticToolError(
                f"{self.name} has no frames in the chosen splits and folds",
                f"it has {sorted((sums.split, sums.fold) for sums in self.fbank_sums)}",
            )
        mean = sum(sums.sum for sums in kept) / values
        variance = sum(sums.sum_of_squares for sums in kept) / values - mean * mean
        return mean, max(variance, 0.0) ** 0.5

    def to_json(self) -> dict[str, Any]:
        """Returns the content of ``dataset.json``."""
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def read(cls, folder: Path) -> DatasetInfo:
        """Reads the ``dataset.json`` of a folder.

        Raises:
            UsageError: The folder is not a prepared dataset.
            ElasticToolError: It is damaged or of another format.
        """
        path = folder / INFO_NAME
        if not path.is_file():
            raise UsageError(
                f"{folder} is not a prepared dataset (no {INFO_NAME})",
                "prepare one: elastictool prep --dataset NAME (an unfinished one continues)",
            )
        require_readable(path)
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            if document.get("format") != FORMAT:
                raise ElasticToolError(
                    f"{path} has format {document.get('format')!r}, this version reads {FORMAT}",
                    "prepare the data again with --overwrite",
                )
            info = from_dict(cls, {field.name: document[field.name] for field in fields(cls)})
            from_dict(FbankConfig, {"num_mel_bins": 0} | info.fbank_config)
            if len(set(info.label_names)) < len(info.label_names):
                raise ValueError("a label stands twice in label_names")
            within("num_shards", info.num_shards, 0, 99_999)
            within("sample_rate_hz", info.sample_rate_hz, 1, 10_000_000)
        except (
            AttributeError,
            KeyError,
            RecursionError,
            TypeError,
            UsageError,
            ValueError,
        ) as error:
            raise ElasticToolError(
                f"{path} is damaged: {getattr(error, 'message', repr(error))}",
                "prepare the data again with --overwrite",
            ) from error
        return info


class PreparedStore:
    """A prepared dataset, opened for reading. Picklable: a copy opens its own memory maps.

    Args:
        path: Its folder.
        info: Its ``dataset.json``.
        shards: The rows of each shard file, in order.
    """

    def __init__(self, path: Path, info: DatasetInfo, shards: Mapping[Path, pa.Table]) -> None:
        self.path = path
        self.info = info
        self._shards = shards
        self._table = table = pa.concat_tables(shards.values() or [shard_schema(0).empty_table()])
        self._audio = table.column("audio")
        self._class_of = {label: index for index, label in enumerate(info.label_names)}

    @classmethod
    def open(cls, path: Path) -> PreparedStore:
        """Opens the dataset in the folder ``path``.

        Raises:
            UsageError: It is not a prepared dataset.
            ElasticToolError: It is one, but damaged.
        """
        store, faults = cls.open_readable_shards(path)
        if faults:
            raise faults[0]
        if len(store) != store.info.num_clips:
            raise ElasticToolError(
                f"{path} holds {len(store)} clips, its {INFO_NAME} says {store.info.num_clips}",
                "prepare the data again with --overwrite",
            )
        return store

    @classmethod
    def open_readable_shards(cls, path: Path) -> tuple[PreparedStore, list[ElasticToolError]]:
        """Opens all shards that can be read; returns what is wrong with the others.

        Raises:
            UsageError: It is not a prepared dataset.
            ElasticToolError: Its ``dataset.json`` is damaged.
        """
        info, left, faults = DatasetInfo.read(path), {}, []
        for shard in (path / shard_name(index) for index in range(info.num_shards)):
            try:
                left[shard] = _map_shard(shard)
            except ElasticToolError as error:
                faults.append(error)
        return cls(path, info, left), faults

    def __len__(self) -> int:
        return len(self._table)

    def __reduce__(self) -> tuple[Callable[..., PreparedStore], tuple[Path, list[str]]]:
        return _reopened, (self.path, self.info.label_names)

    def with_classes(self, names: Sequence[str]) -> PreparedStore:
        """Returns the same clips with the classes ``names``, among which are all of its own."""
        return PreparedStore(self.path, replace(self.info, label_names=list(names)), self._shards)

    @cached_property
    def num_samples(self) -> NDArray[np.int64]:
        """(n,) lengths in samples."""
        return self._numbers("num_samples")

    @cached_property
    def folds(self) -> NDArray[np.int64]:
        """(n,) folds; 0 is none."""
        return self._numbers("fold")

    @cached_property
    def splits(self) -> NDArray[np.str_]:
        """(n,) names of splits."""
        return self._texts("split")

    @property
    def sources(self) -> list[str]:
        """The file that each clip came from."""
        found: list[str] = self._table.column("source").to_pylist()
        return found

    @cached_property
    def groups(self) -> NDArray[np.str_]:
        """(n,) groups; empty is none."""
        return self._texts("group")

    @cached_property
    def ids(self) -> NDArray[np.str_]:
        """(n,) clip ids."""
        return self._texts("id")

    def clip(self, index: int) -> Clip:
        """Returns everything about clip ``index`` but its audio."""
        row = {
            name: self._table.column(name)[self._row(index)].as_py()
            for name in self._table.column_names
            if name != "audio"
        }
        row["start_s"], row["stop_s"] = row.pop("start"), row.pop("stop")
        return Clip(**{**row, "labels": tuple(row["labels"])})

    def label_indices(self, index: int) -> tuple[int, ...]:
        """Returns the classes of clip ``index``."""
        labels = self._table.column("labels")[self._row(index)].as_py()
        try:
            return tuple(self._class_of[label] for label in labels)
        except KeyError as error:
            raise self._damaged(index, f"its label {error} is none of the classes") from error

    def label_pairs(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Returns (pairs,) clips and (pairs,) classes, one pair for each label, clips ascending.

        The labels of all clips at once: a million clips cost what a few thousand
        ``label_indices`` would.
        """
        labels = self._table.column("labels")
        counts = pc.list_value_length(labels).to_numpy().astype(np.int64)
        names = pa.array(self.info.label_names, pa.string())
        classes = pc.index_in(pc.list_flatten(labels), value_set=names)
        if classes.null_count:
            raise DamagedDataError(
                f"{self.path}: {classes.null_count} labels of its clips are not in {INFO_NAME}",
                "prepare the data again with --overwrite",
            )
        return np.repeat(np.arange(len(counts)), counts), classes.to_numpy().astype(np.int64)

    def targets(self, index: int) -> NDArray[np.float32]:
        """Returns (C,) with 1 at the classes of clip ``index``."""
        targets = np.zeros(len(self.info.label_names), dtype=np.float32)
        targets[list(self.label_indices(index))] = 1.0
        return targets

    def audio_bytes(self, index: int) -> memoryview:
        """Returns the encoded audio of clip ``index``: a view into the memory map, not a copy."""
        return memoryview(self._audio[self._row(index)]["bytes"].as_buffer())

    def audio_source(self, index: int) -> bytes | BinaryIO:
        """Returns the encoded audio of clip ``index`` for a decoder; large ones are not copied."""
        view = self.audio_bytes(index)
        return bytes(view) if len(view) < COPIED_BYTES else cast(BinaryIO, pa.BufferReader(view))

    def waveform(self, index: int, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """Returns samples ``start`` to ``stop`` of clip ``index``, as float32 (n,) in -1..1.

        Raises:
            DamagedDataError: The bytes are no longer those that ``prep`` has decoded.
        """
        whole = int(self.num_samples[self._row(index)])
        expected = (whole if stop is None else min(stop, whole)) - start
        try:
            waveform = decode(self.audio_source(index), start, stop)[0]
        except AudioError as error:
            if error.__cause__ is not None and is_out_of_memory(error.__cause__):
                raise error.__cause__ from None  # the data are sound
            raise self._damaged(index, error.message) from error
        if len(waveform) != expected:
            raise self._damaged(index, f"{len(waveform)} samples instead of {expected}")
        return waveform

    def _damaged(self, index: int, what: str) -> DamagedDataError:
        ends = np.cumsum([len(table) for table in self._shards.values()])
        shard = list(self._shards)[int(np.searchsorted(ends, index, side="right"))]
        return DamagedDataError(
            f"clip {str(self.ids[index])!r} in {shard} is damaged: {what}",
            "prep had read it without a fault, so look at the disk; then prepare the data again, "
            f"with the options of the first time: elastictool prep --dataset {self.info.corpus} "
            f"--name {self.info.name} --overwrite",
        )

    def shard_fingerprints(self) -> list[str]:
        """Returns the fingerprint of the preparation that wrote each shard."""
        key = _FINGERPRINT_KEY.encode()
        return [
            (table.schema.metadata or {}).get(key, b"").decode() for table in self._shards.values()
        ]

    def _row(self, index: int) -> int:
        row = int(index)
        if not 0 <= row < len(self._table):
            raise IndexError(f"clip {row} of {len(self._table)}")
        return row

    def _numbers(self, name: str) -> NDArray[np.int64]:
        return cast("NDArray[np.int64]", self._table.column(name).to_numpy().astype(np.int64))

    def _texts(self, name: str) -> NDArray[np.str_]:
        return np.array(self._table.column(name).to_pylist(), dtype=np.str_)


def _reopened(path: Path, names: list[str]) -> PreparedStore:
    return PreparedStore.open(path).with_classes(names)


def _map_shard(path: Path) -> pa.Table:
    """Maps all record batches of one shard, without reading their audio.

    Closing the file keeps the mapping alive as long as the table, and spares a file handle for
    each of thousands of shards.
    """
    try:
        with pa.memory_map(os.fsencode(path)) as file:
            table = pa.ipc.open_stream(file).read_all()
            table.validate(full=True)  # offsets and texts; damaged ones would crash the process
            found = dict(zip(table.schema.names, table.schema.types, strict=True))
            for wanted in shard_schema(0):
                if (kind := found.get(wanted.name, "missing")) != wanted.type:
                    raise ValueError(f"its column {wanted.name!r} is {kind}")
            return table
    except PermissionError as error:
        raise ElasticToolError(
            f"cannot read {path}: {error.strerror}", "change its rights, or run as its owner"
        ) from error
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ElasticToolError(
            f"shard {path} is missing or damaged: {error}",
            "prepare the data again with --overwrite",
        ) from error
