"""Embeddings on disk, and the nearest among them.

``.npz`` and ``.parquet`` hold names and vectors, ``.npy`` the vectors alone. Nearest means by
cosine: the angle says what a clip is like, the length mostly how loud or long it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from elastictool.errors import UsageError
from elastictool.files import atomic_path
from elastictool.metrics.retrieval import unit

SUFFIXES = (".npz", ".npy", ".parquet")
Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class EmbeddingTable:
    """Names and (n, D) vectors."""

    names: tuple[str, ...]
    vectors: Vectors

    def nearest(self, queries: Vectors, top: int) -> list[list[tuple[str, float]]]:
        """For each of (m, D) ``queries`` the ``top`` nearest names with their cosines.

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
            [(self.names[place], float(row[place])) for place in places]
            for row, places in zip(cosines, order, strict=True)
        ]


def check_suffix(path: Path) -> None:
    """Refuse a file name that says no known format, before hours of work.

    Raises:
        UsageError: It does not end in one of ``SUFFIXES``.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{path} says no known format", f"end it in {', '.join(SUFFIXES)}")


def write_vectors(path: Path, names: Sequence[str], vectors: Vectors) -> None:
    """Write embeddings in the format that the name says.

    Raises:
        UsageError: The name says no known format.
        ElasticToolError: The place cannot be written.
    """
    check_suffix(path)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        if path.suffix.lower() == ".npz":
            np.savez(file, names=np.array(names, dtype=np.str_), vectors=vectors)
        elif path.suffix.lower() == ".npy":
            np.save(file, vectors)
        else:
            flat = pa.array(vectors.reshape(-1), pa.float32())
            column = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
            pq.write_table(pa.table({"name": list(names), "vector": column}), file)


def read_vectors(path: Path) -> EmbeddingTable:
    """What ``write_vectors`` wrote, names included.

    Raises:
        UsageError: Not there, no table of embeddings, or without names.
    """
    try:
        if path.suffix.lower() == ".npz":
            with np.load(path, allow_pickle=False) as held:
                return EmbeddingTable(tuple(held["names"].tolist()), held["vectors"])
        if path.suffix.lower() == ".parquet":
            table = pq.read_table(path)
            width = table.schema.field("vector").type.list_size
            flat = table["vector"].combine_chunks().flatten().to_numpy()
            return EmbeddingTable(tuple(table["name"].to_pylist()), flat.reshape(-1, width))
    except (OSError, KeyError, ValueError, BadZipFile, pa.ArrowException) as error:
        raise UsageError(
            f"{path} is no table of embeddings: {error}", "make one with elastictool embed --out"
        ) from error
    raise UsageError(f"{path} cannot be searched", "an index is .npz or .parquet (with names)")
