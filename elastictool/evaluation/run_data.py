"""Choose the clips that a run is scored on, and check that the data fit it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from elastictool.checkpoint.run_directory import RunDirectory
from elastictool.checkpoint.weights import LoadedRun
from elastictool.data.splits import Splits, how_to_set_aside, select_clips
from elastictool.data.store import PreparedStore
from elastictool.utils.errors import CheckpointError, UsageError

_NAMED = 5
"""Classes that a message names."""


def split_clips(
    run: LoadedRun, store: PreparedStore, split: str, same_classes: bool = True
) -> npt.NDArray[np.int64]:
    """Returns the clips of ``split`` as the run's configuration and seed divide the data.

    Args:
        run: The run.
        store: The data.
        split: ``train``, ``validation`` or ``test``.
        same_classes: Require the model's classes and sample rate; embeddings need neither.

    Raises:
        CheckpointError: The model's classes or sample rate are not those of the data.
        UsageError: There is no such split, or it is empty.
    """
    if same_classes:
        check_data(run, store)
    parts = select_clips(store, run.config.data, run.config.seed, to_train=False)
    clips = parts[split]
    if len(clips) == 0:
        raise UsageError(
            f"the {split} split of {store.path} is empty for run {run.name}",
            _other_clips(run, store, parts),
        )
    unlabelled = len(np.setdiff1d(clips, store.label_pairs()[0]))
    if unlabelled and not store.info.multi_label:
        raise UsageError(
            f"{unlabelled} of {len(clips)} clips in the {split} split of {store.path} have no "
            "label, so there is nothing to score them by",
            "choose another split with --split (EPIC-SOUNDS publishes no labels of its test part)",
        )
    return clips


def _other_clips(run: LoadedRun, store: PreparedStore, parts: Splits) -> str:
    """Returns a hint at other clips to score, never at those that the run was trained on."""
    trained_on = same_data(run, store) is not False
    names = ("test", "validation") if trained_on else ("test", "validation", "train")
    filled = [name for name in names if len(parts[name])]
    if filled:
        return f"choose another with --split: {', '.join(filled)}"
    if store.folds.any() and not run.config.data.test_fold:
        return f"its clips are in folds: set one aside in training, {how_to_set_aside(store)}"
    if not trained_on:
        return f"its splits are: {', '.join(sorted({str(name) for name in store.splits}))}"
    return "the run was trained on all its clips: name other data with --dataset"


def check_data(run: LoadedRun, store: PreparedStore) -> None:
    """Rejects data whose sample rate, classes or order of classes differ from the model's.

    Raises:
        CheckpointError: They differ; the message names the difference.
    """
    rate = run.config.fbank.sample_rate_hz
    if store.info.sample_rate_hz != rate:
        raise CheckpointError(
            f"run {run.name} was trained at {rate} Hz, {store.path} is at "
            f"{store.info.sample_rate_hz} Hz",
            "prepare the data at the run's rate, or evaluate on the run's own data (--dataset)",
        )
    expected, found = list(run.label_names), list(store.info.label_names)
    if expected == found:
        return
    unknown = [name for name in found if name not in expected]
    detail = f"it does not know {_listed(unknown)}" if unknown else "their order is another one"
    raise CheckpointError(
        f"run {run.name} was trained on other classes than {store.path} has: {detail}",
        f"its classes are {_listed(expected)}. To map labels, write the run's names into the label "
        "column of a CSV, leave out clips of other classes, and prepare it: "
        "elastictool prep --dataset csv --root FILE",
    )


def _listed(names: Sequence[str]) -> str:
    """Returns the first names of a list, and how many there are."""
    more = f", … ({len(names)} in all)" if len(names) > _NAMED else ""
    return ", ".join(map(repr, names[:_NAMED])) + more


def same_data(run: LoadedRun, store: PreparedStore) -> bool | None:
    """Returns whether the run was trained on ``store``; None if it recorded no fingerprint."""
    recorded = RunDirectory(run.path).read_fingerprint()
    return recorded == store.info.fingerprint if recorded else None
