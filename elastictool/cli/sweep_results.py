"""Write the files of a sweep, and print its table."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from elastictool.cli.console import log, log_lines, print_table
from elastictool.utils.errors import Interrupted
from elastictool.utils.signals import StopRequest, stoppable

if TYPE_CHECKING:
    from elastictool.evaluation.points import SweepPoint


@dataclass(frozen=True)
class SweepFiles:
    """The files of a sweep; their names hold what differs from the run's own setting.

    Attributes:
        results: Folder of the points.
        figures: Folder of the figure.
        stem: Stem of all file names.
    """

    results: Path
    figures: Path
    stem: str

    @classmethod
    def of(cls, axis: str, split: str, out: Path | None, run: Path, suffix: str) -> SweepFiles:
        """Returns files in ``out``, or in the run's folders, where ``suffix`` marks variants."""
        from elastictool.evaluation.points import AXES

        words = ("" if split == "test" else split, suffix if out is None else "")
        stem = "_".join((AXES[axis].stem, *filter(None, words)))
        if out is not None:
            return cls(out, out, stem)
        return cls(run / "results", run / "figures", stem)

    @property
    def document(self) -> Path:
        """File of the points and all that they depend on."""
        return self.results / f"{self.stem}.json"

    @property
    def unfinished(self) -> Path:
        """Folder of the logits of an unfinished sweep."""
        return self.results / f"{self.stem}.unfinished"

    @contextmanager
    def stoppable(self) -> Iterator[StopRequest]:
        """Lets Ctrl-C stop the sweep, with a message on what is kept.

        Raises:
            Interrupted: The user stopped it.
        """
        try:
            with stoppable("no clips are scored yet", "the same command starts again") as stop:
                yield stop
        except Interrupted as error:
            if not any(self.unfinished.glob("*.npz")):
                raise
            raise Interrupted(
                f"what is scored so far is in {self.unfinished}",
                "the same command continues there",
            ) from error

    def write(self, points: Sequence[SweepPoint], about: Mapping[str, Any]) -> list[Path]:
        """Writes a CSV file, a JSON file and a figure; returns their paths."""
        from elastictool.evaluation.points import write_points
        from elastictool.reporting.earlier_sweep import document_of
        from elastictool.reporting.sweep_figure import plot_sweep
        from elastictool.reporting.tables import counted
        from elastictool.utils.io import write_json

        table = self.results / f"{self.stem}.csv"
        write_points(table, points)
        write_json(self.document, document_of(points) | dict(about))
        shutil.rmtree(self.unfinished, ignore_errors=True)
        clips = counted(points[0].clips, f"{about['split']} clip")
        figure = plot_sweep(points, self.figures / self.stem, f"{about['dataset']}, {clips}")
        return [table, self.document, *figure]


def show_points(points: Sequence[SweepPoint], files: Sequence[Path]) -> None:
    """Prints one column a model and one row a value; intervals and FLOPs are in the CSV file."""
    from elastictool.evaluation.points import AXES
    from elastictool.metrics.table import METRIC_LABELS, is_share
    from elastictool.reporting.sweep_figure import series_of
    from elastictool.reporting.tables import EMPTY, counted, interval_over, metric_text

    series = list(series_of(points).items())
    axis = AXES[points[0].axis]
    values = sorted({point.x for point in points if not point.native})

    def cell(members: Sequence[SweepPoint], value: float | None) -> str:
        found = [p for p in members if (None if p.native else p.x) == value]
        return metric_text(found[0].metric, found[0].value) if found else EMPTY

    unit = ", %" if is_share(points[0].metric) else ""
    title = f"{METRIC_LABELS[points[0].metric]}{unit}, {counted(points[0].clips, 'clip')}"
    rows = [
        [text, *(cell(members, value) for _, members in series)]
        for text, value in [(axis.own, None), *((f"{value:g}", value) for value in values)]
    ]
    names = [label.replace(", ", "\n") for label, _ in series]
    print_table(title, [axis.column, *names], rows)
    log(f"in the files: {interval_over(points[0].clips, points[0].groups)}")
    log_lines("wrote ", files)
