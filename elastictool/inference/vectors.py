"""Write and read embeddings, and find the nearest among them.

``.npz`` and ``.parquet`` hold names, vectors and the record of what made them; ``.npy`` holds the
vectors alone. Nearest means by cosine: the angle shows what a clip is like, the length mostly how
loud or long it is.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.lib.npyio import NpzFile

from elastictool.checkpoint.weights import LoadedRun
from elastictool.config.coerce import from_dict, to_dict
from elastictool.inference.results import WindowRule
from elastictool.metrics.retrieval import unit
from elastictool.utils.errors import UsageError, first_line
from elastictool.utils.io import as_argument, atomic_path, open_file, readable

SUFFIXES = (".npz", ".npy", ".parquet")
Vectors = npt.NDArray[np.float32]
_MADE_BY = "made_by"
"""Key of the JSON text of the ``EmbeddingMeta`` in a file."""


@dataclass(frozen=True)
class EmbeddingMeta:
    """The record of how vectors were made; only vectors with equal records can be compared.

    Attributes:
        weights: SHA-256, see ``LoadedRun.weights_sha256``.
        run: The weights file.
        patch_size: (frequency, time) of the patches.
        shift_ms: Time between frames.
        window_s: Length of windows; 0 took recordings whole as far as possible.
        hop_s: From window to window; 0 with ``window_s`` 0.
    """

    weights: str
    run: str
    patch_size: tuple[int, int]
    shift_ms: float
    window_s: float
    hop_s: float

    @classmethod
    def of(cls, run: LoadedRun, rule: WindowRule) -> EmbeddingMeta:
        """Returns the record of the vectors of a run for recordings that are cut by ``rule``."""
        feature_extractor = run.feature_extractor
        return cls(
            run.weights_sha256,
            str(run.file),
            feature_extractor.patch_size,
            feature_extractor.shift_ms,
            rule.window_s,
            rule.hop_s or rule.window_s,
        )

    def check_compatible(self, other: EmbeddingMeta, file: Path) -> None:
        """Rejects queries made by ``other`` for the vectors in ``file``.

        Raises:
            UsageError: They cannot be compared; the hint names the options that help.
        """
        if other.weights != self.weights:
            raise UsageError(
                f"{file} was made with other weights than {other.run}",
                f"--run {as_argument(self.run)}",
            )
        if (other.patch_size, other.shift_ms) != (self.patch_size, self.shift_ms):
            raise UsageError(
                f"{file} holds vectors of {_patches(self)}, the query is of {_patches(other)}",
                "give the query the --patch-size and --resolution of the index",
            )
        if (other.window_s, other.hop_s) != (self.window_s, self.hop_s):
            raise UsageError(
                f"{file} holds vectors of {_windows(self)}, the query is of {_windows(other)}",
                f"--window {self.window_s:g} --hop {self.hop_s:g}",
            )


def _patches(meta: EmbeddingMeta) -> str:
    height, width = meta.patch_size
    return f"patches of {height}x{width} at {meta.shift_ms:g} ms a frame"


def _windows(meta: EmbeddingMeta) -> str:
    if not meta.window_s:
        return "whole recordings"
    return f"windows of {meta.window_s:g} s, {meta.hop_s:g} s apart"


@dataclass(frozen=True, eq=False)
class EmbeddingTable:
    """Names and (n, D) vectors, and what made them; None where the file has no record."""

    names: tuple[str, ...]
    vectors: Vectors
    meta: EmbeddingMeta | None = None

    def nearest(self, queries: Vectors, top: int) -> list[list[tuple[str, float]]]:
        """Returns for each of (m, D) ``queries`` the ``top`` nearest names with their cosines.

        Raises:
            UsageError: The queries have another width: they come from another model.
        """
        if queries.shape[1] != self.vectors.shape[1]:
            raise UsageError(
                f"the index holds vectors of {self.vectors.shape[1]} values, the model gives "
                f"{queries.shape[1]}",
                "make the index with the same run",
            )
        cosines = unit(queries) @ unit(self.vectors).T
        order = np.argsort(-cosines, axis=1, kind="stable")[:, :top]
        return [
            [(self.names[index], float(row[index])) for index in indices]
            for row, indices in zip(cosines, order, strict=True)
        ]


def check_suffix(path: Path) -> None:
    """Rejects a file name without a known ending, before hours of work.

    Raises:
        UsageError: It does not end in one of ``SUFFIXES``.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{path} has no known ending", f"end it in {', '.join(SUFFIXES)}")


def write_vectors(path: Path, table: EmbeddingTable) -> None:
    """Writes embeddings in the format of the file's ending.

    Raises:
        UsageError: The ending is not known.
        ElasticToolError: The file cannot be written.
    """
    check_suffix(path)
    vectors = table.vectors
    record: dict[str, Any] = {_MADE_BY: json.dumps(to_dict(table.meta))} if table.meta else {}
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        if path.suffix.lower() == ".npz":
            np.savez(file, names=np.array(table.names, dtype=np.str_), vectors=vectors, **record)
        elif path.suffix.lower() == ".npy":
            np.save(file, vectors)
        else:
            flat = pa.array(vectors.reshape(-1), pa.float32())
            column = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
            names = [readable(name) for name in table.names]  # Arrow's text is UTF-8
            columns = pa.table({"name": pa.array(names, pa.string()), "vector": column})
            pq.write_table(columns.replace_schema_metadata(record or None), file)


def read_vectors(path: Path) -> EmbeddingTable:
    """Reads a table that ``write_vectors`` wrote with names.

    Raises:
        UsageError: Not there, no table of embeddings, or without names.
    """
    readers = {".npz": _read_npz, ".parquet": _read_parquet}
    if path.suffix.lower() not in readers:
        raise UsageError(f"{path} cannot be searched", "an index is .npz or .parquet (with names)")
    try:
        with open_file(path) as file:
            names, vectors, record = readers[path.suffix.lower()](file)
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError("its names are no text")
        if vectors.ndim != 2 or vectors.dtype.kind != "f" or len(vectors) != len(names):
            raise ValueError(f"{len(names)} names and vectors of {vectors.shape}, {vectors.dtype}")
        if not len(vectors) or not np.isfinite(vectors).all():
            raise ValueError("it holds no vectors, or some that are not finite")
        meta = from_dict(EmbeddingMeta, json.loads(record)) if record else None
    except (OSError, KeyError, ValueError, TypeError, EOFError, RuntimeError, BadZipFile,
            zlib.error, pa.ArrowException, UsageError) as error:  # fmt: skip
        reason = getattr(error, "strerror", "") or first_line(error)
        raise UsageError(
            f"{path} is no table of embeddings: {reason}",
            "make one with elastictool embed --out",
        ) from error
    return EmbeddingTable(tuple(names), vectors.astype(np.float32, copy=False), meta)


def _read_npz(file: IO[bytes]) -> tuple[list[Any], npt.NDArray[Any], str]:
    arrays = np.load(file, allow_pickle=False)
    if not isinstance(arrays, NpzFile):
        raise ValueError("it holds one array and no names")
    with arrays:
        record = str(arrays[_MADE_BY]) if _MADE_BY in arrays else ""
        return arrays["names"].tolist(), arrays["vectors"], record


def _read_parquet(file: IO[bytes]) -> tuple[list[Any], npt.NDArray[Any], str]:
    table = pq.read_table(file)
    kind = table.schema.field("vector").type
    if not pa.types.is_fixed_size_list(kind):
        raise ValueError(f"its vectors are of the type {kind}")
    flat = table["vector"].combine_chunks().flatten().to_numpy()
    record = (table.schema.metadata or {}).get(_MADE_BY.encode(), b"")
    return table["name"].to_pylist(), flat.reshape(-1, kind.list_size), record.decode()
