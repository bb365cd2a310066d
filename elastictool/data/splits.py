"""Which prepared clips train, validate and test: decided once, from metadata and a seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from elastictool.config import DataConfig
from elastictool.data.store import PreparedStore
from elastictool.errors import UsageError
from elastictool.seeds import clip_rng

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Splits:
    """Clip indices of each part, ascending; parts never overlap."""

    train: Indices
    validation: Indices
    test: Indices

    def __getitem__(self, name: str) -> Indices:
        """The part called ``train``, ``validation`` (or ``val``) or ``test``."""
        parts = {
            "train": self.train,
            "validation": self.validation,
            "val": self.validation,
            "test": self.test,
        }
        if name not in parts:
            raise UsageError(f"unknown split {name!r}", "known: train, validation, test")
        return parts[name]


def select_clips(
    store: PreparedStore, config: DataConfig, seed: int, to_train: bool = True
) -> Splits:
    """Divide the clips of ``store`` as ``config`` says.

    Args:
        store: The data.
        config: Names of the splits, or the fold that tests.
        seed: Draws the validation part where ``validation_fraction`` asks for one.
        to_train: Off where a trained model meets the data: they may have clips to test alone,
            and no folds.

    Raises:
        UsageError: No training clip, or an unknown fold.
    """
    if config.test_fold and (to_train or store.folds.any()):
        train, validation, test = _by_fold(store, config)
    else:
        train, validation, test = _by_split(store, config)
    if len(train) == 0 and to_train:
        raise UsageError(
            f"{store.path} has no clip to train on (split {config.train_split!r})",
            f"its splits are: {', '.join(sorted(set(store.splits.tolist())))}",
        )
    if len(validation) == 0 and config.validation_fraction:
        train, validation = _take(store, train, test, config.validation_fraction, seed)
    return Splits(train, validation, test)


def _by_split(store: PreparedStore, config: DataConfig) -> tuple[Indices, Indices, Indices]:
    names = (config.train_split, config.validation_split, config.test_split)
    train, validation, test = (np.flatnonzero(store.splits == name) for name in names)
    return train, validation, test


def _by_fold(store: PreparedStore, config: DataConfig) -> tuple[Indices, Indices, Indices]:
    test = np.flatnonzero(store.folds == config.test_fold)
    if len(test) == 0:
        folds = ", ".join(str(fold) for fold in sorted(set(store.folds.tolist())) if fold)
        raise UsageError(
            f"{store.path} has no fold {config.test_fold}", f"its folds are: {folds or 'none'}"
        )
    train = np.flatnonzero(store.folds != config.test_fold)
    return train, np.empty(0, dtype=np.int64), test


def _take(
    store: PreparedStore, train: Indices, test: Indices, fraction: float, seed: int
) -> tuple[Indices, Indices]:
    """Move a stratified ``fraction`` of ``train`` (by first label) into a validation part.

    Whole groups (speaker, video, source clip) move, so that validation is as strict as the test
    split; where the test split itself shares groups with ``train`` (the same speakers in both, as
    in speaker identification), single clips move.
    """
    rng = clip_rng(seed, 0, 0, "validation-part")
    shuffled = rng.permutation(train)
    keep_groups = not set(store.groups[train].tolist()) & set(store.groups[test].tolist())
    units: dict[tuple[int, str], list[int]] = {}
    for clip in shuffled.tolist():
        group = store.groups[clip] if keep_groups else ""
        label = 0 if group else next(iter(store.label_indices(clip)), -1)
        units.setdefault((label, group or str(clip)), []).append(clip)
    wanted: dict[int, float] = {}
    for (label, _), members in units.items():
        wanted[label] = wanted.get(label, 0.0) + fraction * len(members)
    taken: list[int] = []
    for (label, _), members in units.items():
        if wanted[label] >= len(members) / 2:
            taken.extend(members)
            wanted[label] -= len(members)
    validation = np.array(sorted(taken), dtype=np.int64)
    return np.setdiff1d(train, validation), validation
