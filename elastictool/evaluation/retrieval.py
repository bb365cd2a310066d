"""Measure embeddings of a prepared dataset: retrieval and verification.

ElasticAST's conclusion names retrieval as a use beyond classification.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from elastictool.data.store import PreparedStore
from elastictool.inference.model import ElasticModel
from elastictool.inference.recordings import StoredClip
from elastictool.inference.results import WindowRule
from elastictool.metrics.retrieval import (
    equal_error_rate,
    pair_similarities,
    retrieval_map,
    verification_pairs,
)
from elastictool.utils.errors import AudioError
from elastictool.utils.io import as_argument, finite
from elastictool.utils.progress import SILENT, Progress


@dataclass(frozen=True)
class RetrievalResult:
    """The quality of embeddings.

    Attributes:
        names: Clip ids.
        vectors: (n, D).
        retrieval_map: Mean average precision over the queries; NaN without any.
        queries: Clips that have another of their class.
        equal_error_rate: Over the pairs; NaN where all are of one kind.
        pairs: Number of pairs.
        same_pairs: Those of one class.
    """

    names: tuple[str, ...]
    vectors: npt.NDArray[np.float32]
    retrieval_map: float
    queries: int
    equal_error_rate: float
    pairs: int
    same_pairs: int

    def document(self) -> dict[str, Any]:
        """Returns plain values for JSON; a value that could not be measured is None."""
        return {
            "clips": len(self.names),
            "retrieval_map": finite(self.retrieval_map),
            "queries": self.queries,
            "equal_error_rate": finite(self.equal_error_rate),
            "pairs": self.pairs,
            "same_pairs": self.same_pairs,
        }


def measure_retrieval(
    model: ElasticModel,
    store: PreparedStore,
    clips: Sequence[int] | npt.NDArray[np.int64],
    rule: WindowRule = WindowRule(),
    progress: Progress = SILENT,
) -> RetrievalResult:
    """Embeds ``clips``, cut by ``rule``, and measures retrieval mAP and equal error rate.

    Raises:
        AudioError: A clip of the store cannot be read.
    """
    recordings = [StoredClip(store, int(clip)) for clip in clips]
    found = list(model.embeddings(recordings, rule, progress=progress))
    broken = next((item for item in found if item.error), None)
    if broken is not None:
        raise AudioError(
            broken.error, f"check the data: elastictool data verify {as_argument(store.path)}"
        )
    vectors = np.stack([item.mean for item in found])
    labels = np.stack([store.targets(int(clip)) > 0 for clip in clips])
    precision, queries = retrieval_map(vectors, labels)
    pairs, same = verification_pairs(labels)
    rate = equal_error_rate(pair_similarities(vectors, pairs), same)
    names = tuple(item.name for item in found)
    return RetrievalResult(names, vectors, precision, queries, rate, len(pairs), int(same.sum()))
