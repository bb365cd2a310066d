"""Compute metrics of embeddings: retrieval mAP and equal error rate.

Neither needs a classifier. The first measures whether the nearest clips are of the query's class,
the second whether one threshold on the similarity separates pairs of one class from pairs of two
(speaker verification).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
Labels = npt.NDArray[np.bool_]
_ROWS_AT_ONCE = 256


def retrieval_map(vectors: Vectors, labels: Labels) -> tuple[float, int]:
    """Returns the mean average precision of each clip as a query among all others.

    Args:
        vectors: (n, D), compared by cosine.
        labels: (n, C); two clips belong together if they share a class.

    Returns:
        The mean over queries that have a relevant clip, and how many those are; NaN without any.
        Clips of equal similarity come in the order of the data.
    """
    units = unit(vectors)
    scores: list[float] = []
    for first in range(0, len(units), _ROWS_AT_ONCE):
        rows = slice(first, first + _ROWS_AT_ONCE)
        cosines = units[rows] @ units.T
        together = labels[rows].astype(np.float32) @ labels.T.astype(np.float32) > 0
        for offset, (row, relevant) in enumerate(zip(cosines, together, strict=True)):
            others = np.arange(len(units)) != first + offset
            order = np.argsort(-row[others], kind="stable")
            hits = relevant[others][order]
            if hits.any():
                ranks = np.flatnonzero(hits) + 1
                scores.append(float(np.mean(np.arange(1, len(ranks) + 1) / ranks)))
    return (float(np.mean(scores)) if scores else float("nan")), len(scores)


def equal_error_rate(similarities: npt.NDArray[np.floating], same: Labels) -> float:
    """Returns the rate at which different pairs are accepted as often as same pairs are rejected.

    Args:
        similarities: (p,) of the pairs.
        same: (p,) whether a pair is of one class.

    Returns:
        In 0..1, interpolated between the two thresholds that enclose it; NaN where all pairs are
        of one kind.
    """
    positives, negatives = int(same.sum()), int((~same).sum())
    if not positives or not negatives:
        return float("nan")
    order = np.argsort(-similarities, kind="stable")
    ends = np.append(np.diff(similarities[order]) != 0, True)  # equal scores share a threshold
    accepted_same = np.append(0, np.cumsum(same[order])[ends])
    accepted_other = np.append(0, np.cumsum(~same[order])[ends])
    refused = 1 - accepted_same / positives
    accepted = accepted_other / negatives
    place = int(np.argmax(accepted >= refused))
    gap_before = refused[place - 1] - accepted[place - 1]
    gap_after = accepted[place] - refused[place]
    share = gap_before / (gap_before + gap_after) if gap_before + gap_after else 0.0
    return float(accepted[place - 1] + share * (accepted[place] - accepted[place - 1]))


def verification_pairs(labels: Labels, most: int = 200_000) -> tuple[npt.NDArray[np.int64], Labels]:
    """Returns pairs of clips, and whether they share a class.

    Returns:
        (p, 2) indices and (p,) bool: all pairs where there are at most ``most``, else as many
        seeded draws, half of them of one class where the data allow it.
    """
    count = len(labels)
    together = labels.astype(np.float32)
    if count * (count - 1) // 2 <= most:
        pairs = np.stack(np.triu_indices(count, k=1), axis=1)
        return pairs, (together[pairs[:, 0]] * together[pairs[:, 1]]).sum(1) > 0
    rng = np.random.default_rng(0)
    by_class = [np.flatnonzero(column) for column in labels.T]
    by_class = [members for members in by_class if len(members) > 1]
    alike = [
        rng.choice(by_class[index], 2, replace=False)
        for index in rng.integers(len(by_class) or 1, size=most // 2)
        if by_class
    ]
    drawn = rng.integers(count, size=(most - len(alike), 2))
    pairs = np.concatenate((np.array(alike, dtype=np.int64).reshape(-1, 2), drawn))
    pairs = np.unique(np.sort(pairs[pairs[:, 0] != pairs[:, 1]], axis=1), axis=0)
    return pairs, (together[pairs[:, 0]] * together[pairs[:, 1]]).sum(1) > 0


def pair_similarities(vectors: Vectors, pairs: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Returns (p,) cosines of the pairs."""
    units = unit(vectors)
    parts = np.array_split(pairs, max(1, len(pairs) // 100_000))
    return np.concatenate([np.einsum("pd,pd->p", units[p[:, 0]], units[p[:, 1]]) for p in parts])


def unit(vectors: Vectors) -> Vectors:
    """Returns the vectors with length 1; zeros stay zero."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: Vectors = (vectors / np.maximum(lengths, np.finfo(np.float32).tiny)).astype(np.float32)
    return scaled
