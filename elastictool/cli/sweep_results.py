"""What becomes of a sweep: its files, and its table on the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from elastictool.cli.console import print_table, say
from elastictool.utils.errors import Interrupted
from elastictool.utils.signals import StopRequest, stoppable

if TYPE_CHECKING:
    from elastictool.evaluation.points import SweepPoint


@dataclass(frozen=True)
class SweepFiles:
    """Where a sweep goes: names say what is not the run's own, as those of ``eval``.

    Attributes:
        results: Folder of the points.
        figures: Folder of the figure.
        stem: Of all files.
    """

    results: Path
    figures: Path
    stem: str

    @classmethod
    def of(cls, axis: str, split: str, out: Path | None, run: Path, suffix: str) -> SweepFiles:
        """In ``out``, or in the run's own folders, where ``suffix`` tells variants apart."""
        from elastictool.evaluation.points import AXES

        words = ("" if split == "test" else split, suffix if out is None else "")
        stem = "_".join((AXES[axis].stem, *filter(None, words)))
        if out is not None:
            return cls(out, out, stem)
        return cls(run / "results", run / "figures", stem)

    @property
    def document(self) -> Path:
        """Points, and all that they depend on."""
        return self.results / f"{self.stem}.json"

    @property
    def unfinished(self) -> Path:
        """What is scored before the sweep is done."""
        return self.results / f"{self.stem}.unfinished"

    @contextmanager
    def stoppable(self) -> Iterator[StopRequest]:
        """As ``stoppable`` of all work; says what is kept, if there is any.

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
        """CSV, JSON and figure; returns them."""
        from elastictool.evaluation.logit_cache import clear_cache
        from elastictool.evaluation.points import write_points
        from elastictool.reporting.earlier_sweep import document_of
        from elastictool.reporting.sweep_figure import plot_sweep
        from elastictool.reporting.tables import counted
        from elastictool.utils.io import write_json

        table = self.results / f"{self.stem}.csv"
        write_points(table, points)
        write_json(self.document, document_of(points) | dict(about))
        clear_cache(self.unfinished)
        clips = counted(points[0].clips, f"{about['split']} clip")
        figure = plot_sweep(points, self.figures / self.stem, f"{about['dataset']}, {clips}")
        return [table, self.document, *figure]


def show_points(points: Sequence[SweepPoint], files: Sequence[Path]) -> None:
    """One column a model, one row a swept value; intervals and cost are in the CSV."""
    from elastictool.evaluation.points import AXES
    from elastictool.metrics.classification import METRIC_LABELS
    from elastictool.reporting.sweep_figure import series_of
    from elastictool.reporting.tables import EMPTY, counted, metric_text

    series = series_of(points)
    axis = AXES[points[0].axis]
    values = sorted({point.x for point in points if not point.native})

    def row(title: str, value: float | None) -> list[str]:
        cells = [title]
        for members in series.values():
            found = [p for p in members if (None if p.native else p.x) == value]
            cells.append(metric_text(found[0].metric, found[0].value) if found else EMPTY)
        return cells

    unit = "" if points[0].metric == "dprime" else ", %"
    print_table(
        f"{METRIC_LABELS[points[0].metric]}{unit}, {counted(points[0].clips, 'clip')}",
        [axis.column, *series],
        [row(axis.own, None), *(row(f"{value:g}", value) for value in values)],
    )
    for file in files:
        say(f"wrote {file}")
