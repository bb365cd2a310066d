"""Formats predictions as a table, CSV or JSON."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TextIO

from elastictool.cli.console import print_csv, print_json, print_table
from elastictool.utils.csv_files import write_table

if TYPE_CHECKING:
    from elastictool.inference.model import ElasticModel
    from elastictool.inference.results import Prediction


Format = Literal["table", "csv", "json"]
"""Formats of the output."""


@dataclass(frozen=True)
class PredictionOutput:
    """Formats predictions.

    Attributes:
        model: The model that made them.
        top: Number of classes to name.
        by_window: Show each window, not recordings alone.
        truth: The true labels by recording, where they are known; shown too.
    """

    model: ElasticModel
    top: int
    by_window: bool
    truth: Mapping[str, Sequence[str]] | None = None

    def print(
        self, found: Sequence[Prediction], form: Format, stopped: bool, raw: bool = False
    ) -> None:
        """Prints on stdout.

        Args:
            found: Results of recordings.
            form: Their format.
            stopped: The user interrupted before the last.
            raw: Print the texts of a CSV as they are.
        """
        if form == "json":
            documents = [self.document(item) for item in found]
            run = str(self.model.run.path)
            print_json({"run": run, "predictions": documents, "interrupted": stopped})
        elif form == "csv":
            text = io.StringIO()
            self.write_csv(found, text, raw)
            print_csv(text.getvalue())
        else:
            self._show(found)

    def _segments(self, item: Prediction, every: bool = False) -> Iterator[_Segment]:
        """Yields the windows of a recording one by one (``every``: with all classes), or it all."""
        if not self.by_window:
            yield _Segment(0.0, item.duration_s, item.labels, item.decided)
            return
        parts = item.windows
        for start, stop, row in zip(parts.starts_s, parts.stops_s, parts.values, strict=True):
            top, decided = len(row) if every else self.top, self.model.decided(row)
            labels = self.model.named(row, top)
            yield _Segment(float(start), float(stop), labels, decided)

    def _show(self, found: Sequence[Prediction]) -> None:
        """Prints a row a recording or, by window, a table a recording."""
        decided = ["decided"] if self.model.run.multi_label else []
        good = [item for item in found if not item.error]
        if self.by_window:
            columns = ["seconds", "class", "probability", *decided]
            for item in good:
                rows = [row[: len(columns)] for row in self._window_rows(item)]
                print_table(item.name, columns, rows)
        elif good:
            columns = ["recording", "seconds", "likeliest classes", *decided]
            rows = [
                [
                    item.name,
                    f"{item.duration_s:.2f}",
                    ", ".join(f"{label} {share:.1%}" for label, share in item.labels),
                    ", ".join(item.decided) or "-",
                ][: len(columns)]
                for item in good
            ]
            print_table("predictions", columns, rows)

    def _window_rows(self, item: Prediction) -> Iterator[list[str]]:
        """Yields a row for each of a window's top classes and each decided one."""
        for segment in self._segments(item, every=True):
            seconds = f"{segment.start_s:.2f}-{segment.stop_s:.2f}"
            for rank, (label, share) in enumerate(segment.labels):
                taken = self._taken(label, segment.decided)
                if rank < self.top or taken == "yes":
                    yield [seconds, label, f"{100 * share:.1f} %", taken]
                    seconds = ""  # not repeated

    def document(self, item: Prediction) -> dict[str, Any]:
        """Returns one recording's prediction for JSON."""
        if item.error:
            return {"recording": item.name, "error": item.error}
        whole = self._labels(item.labels, item.decided)
        document = {"recording": item.name, "duration_s": round(item.duration_s, 3)} | whole
        if self.truth is not None:
            document["truth"] = list(self.truth[item.name])
        if self.by_window:
            document["windows"] = [
                {"start_s": segment.start_s, "stop_s": segment.stop_s}
                | self._labels(segment.labels, segment.decided)
                for segment in self._segments(item)
            ]
        return document | ({"losses": dict(item.losses)} if item.losses else {})

    def _labels(
        self, labels: Sequence[tuple[str, float]], decided: Sequence[str]
    ) -> dict[str, Any]:
        document: dict[str, Any] = {
            "labels": [{"label": label, "score": score} for label, score in labels]
        }
        return document | ({"decided": list(decided)} if self.model.run.multi_label else {})

    def write_csv(self, found: Iterable[Prediction], file: TextIO, raw: bool = False) -> None:
        """Writes one line a class; ``decided`` is empty for models of one label a clip."""
        times = ["start_s", "stop_s"] if self.by_window else []
        known = [] if self.truth is None else ["truth"]
        columns = ["recording", *times, "rank", "label", "score", "decided", "error", *known]
        write_table(file, columns, (row for item in found for row in self._rows(item)), raw)

    def _rows(self, item: Prediction) -> Iterator[list[object]]:
        """Yields the cells of one recording's lines."""
        if item.error:
            yield [item.name, *[""] * (2 * self.by_window), "", "", "", "", item.error]
            return
        for segment in self._segments(item):
            when = [f"{segment.start_s:.3f}", f"{segment.stop_s:.3f}"] if self.by_window else []
            for rank, (label, score) in enumerate(segment.labels, start=1):
                taken = self._taken(label, segment.decided)
                row = [item.name, *when, rank, label, f"{score:.6f}", taken, ""]
                yield [*row, *self._known(item.name, label)]

    def _known(self, name: str, label: str) -> list[str]:
        """Returns a cell, yes or no: the recording has the label; none where that is unknown."""
        if self.truth is None:
            return []
        return ["yes" if label in self.truth[name] else "no"]

    def _taken(self, label: str, decided: Sequence[str]) -> str:
        if not self.model.run.multi_label:
            return ""
        return "yes" if label in decided else "no"


@dataclass(frozen=True)
class _Segment:
    """A recording or a window of it."""

    start_s: float
    stop_s: float
    labels: Sequence[tuple[str, float]]
    decided: Sequence[str]
