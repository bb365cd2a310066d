"""Write the scores of each clip as ``predict`` does (``eval --predictions``)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from elastictool.cli.prediction_output import PredictionOutput
from elastictool.inference.model import ElasticModel
from elastictool.inference.results import Prediction, Windows
from elastictool.utils.errors import UsageError
from elastictool.utils.io import atomic_path, check_output

if TYPE_CHECKING:
    from elastictool.checkpoint.weights import LoadedRun
    from elastictool.data.store import PreparedStore
    from elastictool.evaluation.evaluate import Evaluation

SUFFIXES = (".csv", ".jsonl")


def check_predictions(file: Path) -> None:
    """Rejects a file that cannot be written, before the work.

    Raises:
        UsageError: Its ending is neither .csv nor .jsonl.
        WriteError: Its folder cannot be written.
    """
    if file.suffix not in SUFFIXES:
        raise UsageError(
            f"--predictions {file} is neither .csv nor .jsonl", f"e.g. {file.with_suffix('.csv')}"
        )
    check_output(file, is_folder=False)


def write_predictions(
    file: Path, result: Evaluation, run: LoadedRun, store: PreparedStore, raw: bool = False
) -> Path:
    """Writes every class of every clip with its probability and whether it is right.

    One line a class (CSV; ``raw`` as in ``write_rows``) or a clip (JSON lines), the likeliest class
    first.

    Raises:
        WriteError: The file cannot be written.
    """
    model = ElasticModel(run)
    output = PredictionOutput(model, len(run.label_names), by_window=False, truth=_truth(result))
    with (
        atomic_path(file) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as opened,
    ):
        found = _predictions(result, model, store)
        if file.suffix == ".csv":
            output.write_csv(found, opened, raw)
        else:
            for item in found:
                opened.write(json.dumps(output.document(item), ensure_ascii=False) + "\n")
    return file


def _truth(result: Evaluation) -> dict[str, list[str]]:
    """Returns the true labels of each clip."""
    names, scores = result.label_names, result.scores
    return {
        clip: [names[index] for index in np.flatnonzero(row > 0)]
        for clip, row in zip(scores.clip_ids, scores.targets, strict=True)
    }


def _predictions(
    result: Evaluation, model: ElasticModel, store: PreparedStore
) -> Iterator[Prediction]:
    """Yields the prediction of each clip, in the form of a recording's."""
    seconds = dict(
        zip(store.ids.tolist(), store.num_samples / store.info.sample_rate_hz, strict=True)
    )
    shares = model.probabilities(torch.from_numpy(result.scores.logits)).numpy()
    for clip, row in zip(result.scores.clip_ids, shares, strict=True):
        duration = float(seconds[clip])
        whole = Windows(clip, np.zeros(1), np.array([duration]), row[None], duration)
        labels = model.named(row, len(row))
        yield Prediction(clip, labels, duration, whole, decided=model.decided(row))
