"""Write the files of a sweep, and print its table."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from elastictool.cli.console import log, log_lines, print_table
from elastictool.utils.errors import Interrupted, UsageError
from elastictool.utils.io import write_json
from elastictool.utils.locks import hold, is_held
from elastictool.utils.signals import StopRequest, stoppable

if TYPE_CHECKING:
    from elastictool.evaluation.points import SweepPoint


@dataclass(frozen=True)
class SweepFiles:
    """The files of a sweep; their names hold what differs from the run's own setting.

    Several sweeps of one run may be at work at once: each adds its points to those that it finds
    when it is done, and the last one removes the logits.

    Attributes:
        folder: The run directory, or the folder that the user names.
        results: Folder of the points.
        figures: Folder of the figure.
        stem: Stem of all file names.
    """

    folder: Path
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
            return cls(out, out, out, stem)
        return cls(run, run / "results", run / "figures", stem)

    @property
    def document(self) -> Path:
        """File of the points and all that they depend on."""
        return self.results / f"{self.stem}.json"

    @property
    def unfinished(self) -> Path:
        """Folder of the logits of an unfinished sweep."""
        return self.results / f"{self.stem}.unfinished"

    @contextmanager
    def at_work(self, about: Mapping[str, Any]) -> Iterator[None]:
        """Marks, until the block ends, that a sweep under the conditions ``about`` is at work.

        Raises:
            UsageError: So is one with other conditions, whose points would not fit into one file.
        """
        from elastictool.checkpoint.run_directory import lock_results
        from elastictool.reporting.earlier_sweep import document_of, earlier_points

        conditions, finished = self.unfinished / "conditions.json", False
        mark = self.unfinished / f"{os.getpid()}-{secrets.token_hex(4)}.lock"
        try:
            with ExitStack() as held:
                with lock_results(self.folder):
                    if not self._others():
                        write_json(conditions, document_of([]) | dict(about))
                    try:
                        earlier_points(conditions, about)
                    except UsageError as error:
                        raise UsageError(
                            f"another sweep is at work on {self.document}, and {error.message}",
                            "wait for it, or name another place with --out FOLDER",
                        ) from None
                    held.enter_context(hold(mark, f"{self.document} is being made", ""))
                yield
                finished = True
        finally:
            with lock_results(self.folder):
                mark.unlink(missing_ok=True)
                kept = not finished and any(self.unfinished.glob("*.npz"))
                if not kept and not self._others():
                    shutil.rmtree(self.unfinished, ignore_errors=True)

    def _others(self) -> bool:
        """Returns whether other sweeps are at work on these files."""
        return any(is_held(path) for path in self.unfinished.glob("*.lock"))

    def content(self) -> bytes:
        """Returns the document as it is; empty without one."""
        return self.document.read_bytes() if self.document.is_file() else b""

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

    def write(
        self, new: Sequence[SweepPoint], about: Mapping[str, Any], replaced: bytes | None
    ) -> list[Path]:
        """Writes a CSV file, a JSON file and a figure; returns their paths.

        Points that are in the files by now stay, except in a document that is ``replaced``.

        Raises:
            UsageError: Points of other conditions have come there meanwhile.
            WriteError: A file cannot be written.
        """
        from elastictool.checkpoint.run_directory import lock_results
        from elastictool.evaluation.points import write_points
        from elastictool.reporting.earlier_sweep import document_of, earlier_points, merged
        from elastictool.reporting.sweep_figure import plot_sweep
        from elastictool.utils.text import counted

        table = self.results / f"{self.stem}.csv"
        with lock_results(self.folder):
            kept = self.content() != replaced
            points = merged(earlier_points(self.document, about) if kept else [], new)
            write_points(table, points)
            write_json(self.document, document_of(points) | dict(about))
            clips = counted(points[0].clips, f"{about['split']} clip")
            title = f"{about['dataset']}, {clips}"
            figure = plot_sweep(points, self.figures / self.stem, title)
        return [table, self.document, *figure]


def show_points(points: Sequence[SweepPoint], files: Sequence[Path]) -> None:
    """Prints one column a model and one row a value; intervals and FLOPs are in the CSV file."""
    from elastictool.evaluation.points import AXES
    from elastictool.metrics.table import METRIC_LABELS, is_share
    from elastictool.reporting.sweep_figure import series_of
    from elastictool.reporting.tables import EMPTY, interval_over, metric_text
    from elastictool.utils.text import counted

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
