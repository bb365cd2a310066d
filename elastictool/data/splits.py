"""Selects the clips that train, validate and test, from metadata and a seed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from elastictool.config import DataConfig, FbankConfig
from elastictool.corpora.base import SourceClip
from elastictool.corpora.sessions import session_warnings
from elastictool.data.store import PreparedStore
from elastictool.utils.errors import UsageError
from elastictool.utils.rng import clip_rng

Indices = npt.NDArray[np.int64]
_FLAT = 1e-3
"""Deviation of log-mel values under which they are those of silence, and their rounding."""
NO_SPLIT = ("", "none")
"""Names of a part that is to have no clips."""


@dataclass(frozen=True)
class Splits:
    """Clip indices of each part, ascending; parts never overlap."""

    train: Indices
    validation: Indices
    test: Indices

    def __getitem__(self, name: str) -> Indices:
        """Returns the part called ``train``, ``validation`` (or ``val``) or ``test``."""
        name = "validation" if name == "val" else name
        if name not in ("train", "validation", "test"):
            raise UsageError(f"unknown split {name!r}", "known: train, validation, test")
        indices: Indices = getattr(self, name)
        return indices


def select_clips(
    store: PreparedStore, config: DataConfig, seed: int, to_train: bool = True
) -> Splits:
    """Divides the clips of ``store`` by the settings of ``config``.

    Args:
        store: The data.
        config: Names of the splits, or the fold that tests.
        seed: Draws the validation part where ``validation_fraction`` asks for one.
        to_train: Off to evaluate a trained model: the data may have test clips only, and no folds.

    Raises:
        UsageError: No training clip, an unknown fold or split, parts that share clips, or a
            ``validation_fraction`` that leaves one part without clips.
    """
    if config.test_fold and (to_train or store.folds.any()):
        test = np.flatnonzero(store.folds == config.test_fold)
        if len(test) == 0:
            folds = ", ".join(str(fold) for fold in sorted(set(store.folds.tolist())) if fold)
            raise UsageError(
                f"{store.path} has no fold {config.test_fold}", f"its folds are: {folds or 'none'}"
            )
        train = np.flatnonzero(store.folds != config.test_fold)
        validation = np.empty(0, dtype=np.int64)
    else:
        if to_train:
            _check_names(store, config)
        names = (config.train_split, config.validation_split, config.test_split)
        train, validation, test = (np.flatnonzero(store.splits == name) for name in names)
    if len(train) == 0 and to_train:
        raise UsageError(
            f"{store.path} has no clip to train on (split {config.train_split!r})",
            _known_splits(store),
        )
    if len(validation) == 0 and config.validation_fraction:
        pool = len(train)
        train, validation = _draw_validation(store, train, test, config.validation_fraction, seed)
        if to_train and not (len(train) and len(validation)):
            raise UsageError(
                f"data.validation_fraction = {config.validation_fraction:g} takes "
                f"{'all' if len(validation) else 'none'} of the {pool} training clips of "
                f"{store.path}",
                "choose one nearer to a half; clips of one group stay together",
            )
    return Splits(train, validation, test)


def validation_warnings(store: PreparedStore, config: DataConfig, splits: Splits) -> list[str]:
    """Returns a warning if drawn validation clips share what looks like sessions with training."""
    published = store.info.corpus not in ("csv", "folder", "json")
    parts = {"train": splits.train, "validation": splits.validation}
    named = set(store.splits[splits.validation].tolist())
    if published or not config.validation_fraction or config.train_split not in named:
        return []
    clips_with, classes = store.label_pairs()
    label_of = dict(zip(clips_with.tolist(), classes.tolist(), strict=True))
    sources = store.sources
    return session_warnings(
        [
            SourceClip("", sources[clip], None, None, (str(label_of.get(clip)),), part)
            for part, clips in parts.items()
            for clip in clips.tolist()
            if not store.groups[clip]
        ]
    )


def how_to_set_aside(store: PreparedStore) -> str:
    """Returns the setting that sets clips aside, for data without a test split."""
    folds = sorted(set(store.folds.tolist()) - {0})
    if folds:
        return f"--set data.test_fold={folds[-1]} (its folds are: {', '.join(map(str, folds))})"
    return "--set data.validation_fraction=0.2"


def _check_names(store: PreparedStore, config: DataConfig) -> None:
    """Refuses names of splits that the data do not have, and one name for two parts.

    Data need not have the splits of the default settings; ``NO_SPLIT`` are no names.
    """
    known = set(store.splits.tolist())
    named: dict[str, str] = {}
    for setting in ("train_split", "validation_split", "test_split"):
        name = getattr(config, setting)
        if name not in (*known, *NO_SPLIT) and name != getattr(DataConfig, setting):
            raise UsageError(
                f"data.{setting} = {name!r}, but {store.path} has no such split",
                _known_splits(store),
            )
        if name in known and name in named:
            raise UsageError(
                f"data.{named[name]} and data.{setting} are both {name!r}: the same clips would "
                "be in both",
                f"{_known_splits(store)}; none is no split",
            )
        named[name] = setting


def _known_splits(store: PreparedStore) -> str:
    return f"its splits are: {', '.join(sorted(set(store.splits.tolist())))}"


def _draw_validation(
    store: PreparedStore, train: Indices, test: Indices, fraction: float, seed: int
) -> tuple[Indices, Indices]:
    """Moves a stratified ``fraction`` of ``train`` (by first label) into a validation part.

    Whole groups (speaker, video, source clip) move, so that validation is as strict as the test
    split; where the test split itself shares groups with ``train`` (the same speakers in both, as
    in speaker identification), single clips move.
    """
    rng = clip_rng(seed, 0, 0, "validation-part")
    shuffled = rng.permutation(train)
    shared = set(store.groups[train].tolist()) & set(store.groups[test].tolist())
    keep_groups = not shared - {""}  # clips without a group are on both sides, and share nothing
    units: dict[int, dict[str, list[int]]] = {}
    for clip in shuffled.tolist():
        group = store.groups[clip] if keep_groups else ""
        label = 0 if group else next(iter(store.label_indices(clip)), -1)
        units.setdefault(label, {}).setdefault(group or str(clip), []).append(clip)
    taken: list[int] = []
    wanted = 0.0
    for groups in units.values():
        # The remainder is carried over to the next label: for many small classes a tenth of one
        # is less than a clip, but a tenth of all is not.
        wanted += fraction * sum(map(len, groups.values()))
        for members in groups.values():
            if wanted >= len(members) / 2:
                taken.extend(members)
                wanted -= len(members)
    validation = np.array(sorted(taken), dtype=np.int64)
    return np.setdiff1d(train, validation), validation


def require_frames(store: PreparedStore, clips: Indices, fbank: FbankConfig) -> None:
    """Checks that each of ``clips`` makes a frame.

    ``prep`` has refused clips that are shorter than its own window; a run may have a longer one.

    Raises:
        UsageError: Some do not.
    """
    samples, counts = np.unique(store.num_samples[clips], return_counts=True)
    short = fbank.num_frames(samples) == 0
    if short.any():
        shortest_ms = 1_000 * int(samples[0]) / fbank.sample_rate_hz
        raise UsageError(
            f"{int(counts[short].sum())} of {len(clips)} clips of {store.path} are shorter than "
            f"fbank.window_ms = {fbank.window_ms:g} and make no frame (the shortest has "
            f"{shortest_ms:.1f} ms)",
            f"train with --set fbank.window_ms={math.floor(10 * shortest_ms) / 10:g} or less",
        )


def require_sound(store: PreparedStore, clips: Indices) -> None:
    """Checks that something can be heard in one of ``clips`` at least.

    Raises:
        UsageError: All are silent or constant.
    """
    used = set(zip(store.splits[clips].tolist(), store.folds[clips].tolist(), strict=True))
    counts = [store.info.splits[split] for split in {split for split, _ in used}]
    measured = [sums for sums in store.info.fbank_sums if (sums.split, sums.fold) in used]
    is_constant = bool(measured) and store.info.fbank_stats(lambda *part: part in used)[1] < _FLAT
    if is_constant or all(count.silent == count.prepared for count in counts):
        names = ", ".join(store.ids[clips[:3]].tolist()) + (", ..." if len(clips) > 3 else "")
        raise UsageError(
            f"all {len(clips)} clips of {store.path} to train on are silent or constant: {names}",
            "listen to the recordings; where the channels of stereo cancel each other, prepare "
            "them with --channel first",
        )
