"""Read the evaluations of a run directory for figures, tables and reports."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from elastictool.checkpoint.metadata import describe_outdated
from elastictool.metrics.table import METRIC_LABELS, is_share
from elastictool.reporting.tables import counted, metric_text, read_csv, read_json
from elastictool.utils.errors import ElasticToolError

Document = dict[str, Any]


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
        """Return the values (C,) of a column of the per-class table; NaN where it is empty."""
        values = [row.get(name) for row in self.document["per_class"]]
        return np.array([np.nan if value is None else value for value in values], dtype=np.float64)

    def score_text(self, metric: str = "") -> str:
        """Return a metric (by default the first to show) as ``top-1 accuracy 93.3 %``."""
        name = metric or self.metric
        text = metric_text(name, self.document["metrics"][name])
        return f"{METRIC_LABELS[name]} {text}" + (" %" if is_share(name) else "")

    @property
    def title(self) -> str:
        """Model, run, split and conditions of the evaluation."""
        length = {"own": "", "native": ", native lengths"}.get(
            self.document["length"], f", {self.document['length']} frames"
        )
        others = "".join(f", {other}" for other in filter(None, [*self.others, self.outdated]))
        renamed = (self.run_dir / "config.yaml").is_file()  # a run is called as its folder is
        return (
            f"{self.document['model']} ({self.run_dir.name if renamed else self.document['run']}), "
            f"{self.document['split']} split{length}{others}, "
            f"{counted(self.document['clips'], 'clip')}"
        )

    @property
    def outdated(self) -> str:
        """Note if the run has other weights by now than those that were evaluated; else empty."""
        checkpoint = str(self.document.get("checkpoint", "best"))
        return describe_outdated(self.run_dir, checkpoint, self.document.get("weights"))

    @property
    def others(self) -> list[str]:
        """Notes on other data, checkpoint or precision than the run's own."""
        known = self.document
        others = []
        if known.get("trained_on_these_data") is False:
            name = known.get("dataset")
            others.append(f"other data ({name})" if name else "other data")
        if known.get("checkpoint", "best") != "best":
            others.append(f"{known['checkpoint']} weights")
        if known.get("precision", "fp32") != "fp32":
            others.append(str(known["precision"]))
        return others

    def confusions(self) -> npt.NDArray[np.int64] | None:
        """Return the clips (C, C), row = true class; None without a file (multi-label runs).

        Raises:
            ElasticToolError: The file is damaged.
        """
        path = self.run_dir / "results" / f"confusions_{self.stem}.csv"
        if not path.is_file():
            return None
        place = {name: index for index, name in enumerate(self.class_names)}
        matrix = np.zeros((len(place), len(place)), dtype=np.int64)
        try:
            for row in read_csv(path):
                matrix[place[row["true"]], place[row["predicted"]]] = int(row["clips"])
        except (KeyError, ValueError, TypeError) as error:
            raise ElasticToolError(f"{path} is damaged: {error!r}", _AGAIN) from error
        return matrix


_AGAIN = "make it anew: elastictool eval"
_NEEDED = ("run", "model", "split", "length", "clips", "metrics", "intervals", "per_class")


def read_evaluation(run_dir: Path, stem: str) -> EvaluationFile:
    """Read one evaluation of a run.

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
    """Return the evaluations of a run: test first, then validation and train, own length first."""
    order = {"test": 0, "validation": 1, "train": 2}
    stems = [path.stem.removeprefix("eval_") for path in run_dir.glob("results/eval_*.json")]

    def rank(stem: str) -> tuple[int, int, str]:
        split, _, length = stem.partition("_")
        return order.get(split, 3), int(length) if length.isdigit() else 0, length

    return sorted(stems, key=rank)
