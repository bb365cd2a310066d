"""Read the evaluations of a run directory, and format one for the terminal and ``report.html``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from elastictool.checkpoint.metadata import describe_outdated
from elastictool.metrics.table import F1_LABELS, METRIC_LABELS, can_fail, is_share
from elastictool.reporting.tables import (
    EMPTY,
    FEW_GROUPS,
    interval_over,
    metric_text,
    percent,
    read_json,
)
from elastictool.utils.csv_files import read_rows
from elastictool.utils.errors import ElasticToolError
from elastictool.utils.text import counted

Document = dict[str, Any]
THRESHOLDS_FROM = {
    "weights": "thresholds: chosen on validation clips when these weights were trained",
    "validation": "thresholds: chosen just now on the run's validation clips, as the weights "
    "came without",
    "none": "no thresholds: the run has no validation clips to choose them on; F1 is at 0.5",
}
_AGAIN = "make it anew: elastictool eval"
_NEEDED = ("run", "model", "split", "length", "clips", "metrics", "intervals", "per_class")


@dataclass(frozen=True)
class EvaluationFile:
    """One ``results/eval_<stem>.json``.

    Attributes:
        run_dir: The run directory.
        stem: Split, and what differs from the run's own: ``test``, ``test_128``, ``test_on_esc50``.
        document: Contents of the file.
    """

    run_dir: Path
    stem: str
    document: Document

    @property
    def metric(self) -> str:
        """The metric to show first: mAP for multi-label data, else top-1."""
        return "map" if self.document.get("multi_label") else "top1"

    @property
    def class_names(self) -> list[str]:
        """All classes, in the order of the model."""
        return [str(row["class"]) for row in self.document["per_class"]]

    def column(self, name: str) -> npt.NDArray[np.float64]:
        """Returns the values (C,) of a column of the per-class table; NaN where it is empty."""
        values = [row.get(name) for row in self.document["per_class"]]
        return np.array([np.nan if value is None else value for value in values], dtype=np.float64)

    def score_text(self, metric: str = "") -> str:
        """Returns a metric (by default the first to show) as ``top-1 accuracy 93.3 %``."""
        name = metric or self.metric
        text = metric_text(name, self.document["metrics"][name])
        return f"{METRIC_LABELS[name]} {text}" + (" %" if is_share(name) else "")

    @property
    def title(self) -> str:
        """Model, run, split and what differs from the run's own data, length and weights."""
        known, parts = self.document, []
        if known["length"] != "own":
            native = known["length"] == "native"
            parts.append("native lengths" if native else f"{known['length']} frames")
        if known.get("trained_on_these_data") is False:
            name = known.get("dataset")
            parts.append(f"other data ({name})" if name else "other data")
        if known.get("checkpoint", "best") != "best":
            parts.append(f"{known['checkpoint']} weights")
        if known.get("precision", "fp32") != "fp32":
            parts.append(str(known["precision"]))
        parts += [*filter(None, [self.outdated]), counted(known["clips"], "clip")]
        renamed = (self.run_dir / "config.yaml").is_file()  # a run is called as its folder is
        run = self.run_dir.name if renamed else known["run"]
        return ", ".join((f"{known['model']} ({run})", f"{known['split']} split", *parts))

    @property
    def outdated(self) -> str:
        """Note if the run has other weights by now than those that were evaluated; else empty."""
        checkpoint = str(self.document.get("checkpoint", "best"))
        return describe_outdated(self.run_dir, checkpoint, self.document.get("weights"))

    def confusions(self) -> npt.NDArray[np.int64] | None:
        """Returns the clips (C, C), row = true class; None without a file (multi-label runs).

        Raises:
            ElasticToolError: The file is damaged.
        """
        path = self.run_dir / "results" / f"confusions_{self.stem}.csv"
        if not path.is_file():
            return None
        position = {name: index for index, name in enumerate(self.class_names)}
        matrix = np.zeros((len(position), len(position)), dtype=np.int64)
        try:
            for row in read_rows(path, bool(self.document.get("raw_csv"))):
                matrix[position[row["true"]], position[row["predicted"]]] = int(row["clips"])
        except (KeyError, ValueError, TypeError) as error:
            raise ElasticToolError(f"{path} is damaged: {error!r}", _AGAIN) from error
        return matrix


def read_evaluation(run_dir: Path, stem: str) -> EvaluationFile:
    """Reads one evaluation of a run.

    Raises:
        UsageError: There is no such evaluation.
        ElasticToolError: The file is damaged.
    """
    path = run_dir / "results" / f"eval_{stem}.json"
    document = read_json(path)
    missing = [name for name in _NEEDED if not isinstance(document, dict) or name not in document]
    if missing:
        raise ElasticToolError(f"{path} lacks {', '.join(missing)}", _AGAIN)
    return EvaluationFile(run_dir, stem, document)


def evaluation_stems(run_dir: Path) -> list[str]:
    """Returns the evaluations of a run: test first, then validation and train, own length first."""
    order = {"test": 0, "validation": 1, "train": 2}
    stems = [path.stem.removeprefix("eval_") for path in run_dir.glob("results/eval_*.json")]

    def rank(stem: str) -> tuple[int, int, str]:
        split, _, length = stem.partition("_")
        return order.get(split, 3), int(length) if length.isdigit() else 0, length

    return sorted(stems, key=rank)


def score_rows(document: Document) -> list[list[str]]:
    """Returns name and value with interval of each metric of an evaluation."""
    rows = [
        [
            f"{label}, %" if is_share(name) else label,
            metric_text(name, document["metrics"][name], document["intervals"].get(name)),
        ]
        for name, label in METRIC_LABELS.items()
        if can_fail(name, len(document["per_class"]))
        # Of several classes only one can be the top class.
        and not (document.get("multi_label") and name == "mean_class_accuracy")
    ]
    decisions = document.get("decisions") or {}
    for key, where in (("at_thresholds", "chosen thresholds"), ("at_default", "0.5 for all")):
        scores_at = decisions.get(key)
        if scores_at:
            rows += [
                [
                    f"{label}, {where}, %",
                    percent(scores_at["metrics"][name], scores_at["intervals"].get(name)),
                ]
                for name, label in F1_LABELS.items()
            ]
    return rows


def value_heading(document: Document) -> str:
    """Returns the heading of the values, which says what their intervals are over."""
    groups = document.get("interval", {}).get("groups", 0)
    return f"value ({interval_over(document['clips'], groups)})"


def _interval_notes(how: Document) -> list[str]:
    """Returns the numbers of resamples, and why an interval is rough or missing."""
    groups = how.get("groups", 0)
    units = "the groups of the data" if groups else "clips"
    lines = [
        f"intervals: {how['resamples']:,} bootstrap resamples of {units}, "
        f"{how['ranked_resamples']:,} for mAP, mAUC and d′"
    ]
    if groups == 1:
        lines.append("all clips are of one group, so scores have no interval")
    elif 0 < groups < FEW_GROUPS:
        lines.append(f"{groups} groups are few: the intervals are rough, and mostly too narrow")
    return lines


def notes(document: Document) -> list[str]:
    """Returns the notes below the values."""
    lines = _interval_notes(document["interval"]) if "interval" in document else []
    lines += [
        f"left out of the means: {count:,} {what.replace('_', ' ')}"
        for what, count in document.get("left_out", {}).items()
        if count
    ]
    if document.get("cut_clips"):
        clips, limit = counted(document["clips"], "clip"), document["limit_frames"]
        lines.append(
            f"{document['cut_clips']:,} of {clips} were cut at {limit:,} frames: what comes after "
            "that was not heard"
        )
    if document["metrics"]["dprime"] is None:
        lines.append(
            "d′ is infinite or undefined: mAUC is exactly 0 or 1, or no class could be ranked"
        )
    decisions = document.get("decisions") or {}
    if decisions:
        lines.append(THRESHOLDS_FROM[decisions["thresholds_from"]])
        if decisions["chosen_on_these_clips"]:
            lines.append("these are the clips that chose the thresholds: F1 at them is flattered")
        if decisions["classes_without_threshold"]:
            number = counted(decisions["classes_without_threshold"], "class")
            lines.append(f"decided at 0.5, as no validation clip has them: {number}")
    return lines


def class_table(document: Document) -> tuple[list[str], list[list[str]]]:
    """Returns columns and cells of the per-class table; shares in percent."""

    def cell(name: str, value: Any) -> str:
        if value is None:
            return EMPTY
        if name == "threshold":
            return f"{value:.3f}"
        return percent(value) if isinstance(value, float) else str(value)

    rows = document["per_class"]
    columns = list(rows[0])
    return columns, [[cell(name, row[name]) for name in columns] for row in rows]
