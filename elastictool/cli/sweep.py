"""``elastictool sweep``: score runs at many lengths, patch sizes, resolutions or poolings."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from elastictool.cli.console import log, print_json, progress
from elastictool.cli.loading import (
    locate_run,
    note_other_data,
    open_data,
    open_run,
    results_folder,
)
from elastictool.cli.options import (
    DatasetOption,
    JsonOption,
    ModelOptions,
    SplitOption,
    grouped,
    option,
)
from elastictool.cli.ranges import MOST_NUMBERS, parse_fractions, parse_lengths, parse_numbers
from elastictool.cli.sweep_results import SweepFiles, show_points
from elastictool.utils.errors import UsageError
from elastictool.utils.io import check_output

if TYPE_CHECKING:
    from elastictool.checkpoint.weights import LoadedRun
    from elastictool.data.store import PreparedStore
    from elastictool.evaluation.points import SweepPoint

PATCH_STEP = 8
"""Step of a range of patch sizes that names none."""
RESOLUTION_STEP = "0.2"
"""Step of a range of compressions that names none."""


@dataclass(frozen=True)
class AxisOptions:
    """What to sweep, and the ways that models are fitted to it."""

    lengths: str = option(
        "",
        "Lengths in frames: start:stop[:step] with both ends, or a comma list (default: a dozen "
        "up to the longest clip).",
    )
    patch_sizes: str = option(
        "", "Patch sizes to sweep instead: a range (step 8), or a comma list."
    )
    resolutions: str = option(
        "", "Frame shifts to sweep instead, as multiples of the base, e.g. 1:4:0.2."
    )
    pooling: str = option("", "Numbers of frames to pool into one, to sweep instead, e.g. 1,2,3,4.")
    positions: Literal["interpolate", "slice", "both"] = option(
        "interpolate", "Fit of the positions of fixed-length ASTs to other lengths."
    )
    resize: Literal["own", "pi", "bl", "bl-plain", "both"] = option(
        "own", "Resizing of kernels; own: as trained; both: pi and bl."
    )
    axes: Literal["auto", "both", "time", "frequency"] = option(
        "auto", "Axes of a patch size; auto: as trained, else both."
    )
    base_shift: float | None = option(
        None, "Frame shift of compression 1 in ms (default: the runs' shortest)."
    )
    pooling_kind: Literal["average", "max"] | None = option(
        None, "Kind of pooling (default: average; the published code's is max)."
    )

    @property
    def flag(self) -> str:
        """Option of the axis to sweep: --lengths by default.

        Raises:
            UsageError: Several are given.
        """
        asked = {
            "--lengths": self.lengths,
            "--patch-sizes": self.patch_sizes,
            "--resolutions": self.resolutions,
            "--pooling": self.pooling,
        }
        given = [name for name, text in asked.items() if text] or ["--lengths"]
        if len(given) > 1:
            raise UsageError(f"{' and '.join(given)} are {len(given)} sweeps", "give one of them")
        return given[0]

    @property
    def axis(self) -> str:
        """Name of the axis, a key of ``AXES``."""
        if self.flag == "--pooling":
            return f"{self.pooling_kind or 'average'}_pooling"
        axes = {"--lengths": "length", "--patch-sizes": "patch_size", "--resolutions": "resolution"}
        return axes[self.flag]

    def values(self) -> Sequence[float]:
        """Returns the values to sweep; none where the lengths follow from the data."""
        flag = self.flag
        if flag == "--resolutions":
            return parse_fractions([self.resolutions], flag, RESOLUTION_STEP)
        if flag == "--lengths":
            return parse_lengths(self.lengths) if self.lengths else ()
        if flag == "--patch-sizes":
            return parse_numbers([self.patch_sizes], flag, PATCH_STEP)
        return parse_numbers([self.pooling], flag)

    def overrides(self) -> list[dict[str, Any]]:
        """Returns overrides of a run's model, one for each way of fitting to try."""
        if self.flag == "--patch-sizes":
            if self.resize == "both":
                return [{"resize": "pi"}, {"resize": "bl"}]
            return [{}] if self.resize == "own" else [{"resize": self.resize}]
        if self.positions == "both":
            return [{"pos_embed_fit": "interpolate"}, {"pos_embed_fit": "slice"}]
        return [{"pos_embed_fit": self.positions}]

    def conditions(self, base_shift_ms: float) -> dict[str, Any]:
        """Returns the options that the points of this axis depend on, for the JSON document."""
        if self.axis == "patch_size":
            return {"axes": self.axes}
        if self.axis == "resolution":
            return {"base_shift_ms": base_shift_ms}
        return {"kind": self.axis.removesuffix("_pooling")} if self.pooling else {}

    def check(self) -> None:
        """Rejects options that would make no difference, or make no sense.

        Raises:
            UsageError: There is one.
        """
        flag, shift = self.flag, self.base_shift
        resizes = "--patch-sizes 8,10,12,16,20,24,30,32,40,48"
        needs = (
            ("--base-shift", shift is not None, "--resolutions 1:4:0.2"),
            ("--pooling-kind", self.pooling_kind is not None, "--pooling 1,2,3,4"),
            ("--resize", self.resize != "own", resizes),
            ("--axes", self.axes != "auto", resizes),
        )
        for name, given, example in needs:
            needed = example.partition(" ")[0]
            if given and flag != needed:
                raise UsageError(f"{name} goes with {needed}", f"e.g. {example}")
        if shift is not None and not 0.1 <= shift <= 1000:
            raise UsageError(f"--base-shift {shift:g} is not within 0.1..1000 ms", "e.g. 10")
        if flag == "--patch-sizes" and self.positions != "interpolate":
            raise UsageError(
                "--positions does not go with --patch-sizes",
                "positions are resized bilinearly there, as in FlexiAST",
            )


@dataclass(frozen=True)
class ScoreOptions:
    """The runs to score in addition, and the metric."""

    more_runs: list[str] | None = option(None, "Run to sweep, too; repeatable.", "--run", "-r")
    ensemble: list[str] | None = option(
        None, "Run of an ensemble, which adds a row for the mean; repeatable."
    )
    metric: str = option("auto", "Metric: auto (top1, or map for multi-label data), {metrics}.")


@dataclass(frozen=True)
class SweepTarget:
    """Where the points go."""

    out: Path | None = option(
        None, "Folder for files (default: results/ and figures/ of the first run)."
    )
    overwrite: bool = option(False, "Replace the points of earlier sweeps.")


@grouped
def sweep(
    runs: Annotated[
        list[str] | None,
        typer.Argument(help="Run directories or names under runs/ (default: the latest run)."),
    ] = None,
    swept: AxisOptions = AxisOptions(),
    scored: ScoreOptions = ScoreOptions(),
    split: SplitOption = "test",
    dataset: DatasetOption = "",
    model: ModelOptions = ModelOptions(),
    target: SweepTarget = SweepTarget(),
    json_output: JsonOption = False,
) -> None:
    """Evaluate runs at many lengths, patch sizes or resolutions.

    Each run is also scored at its own setting. ElasticAST trims longer clips and never pads;
    fixed-length ASTs trim and pad. Kernels and positions are resized for other patch sizes. At
    another resolution all models see as many seconds as in training. Writes a CSV file, a figure
    (PNG, SVG) and the first run's report.html; points of an earlier sweep of the same weights and
    data stay. Ctrl-C keeps what is scored, and the same command continues.

    Example: elastictool sweep my-elasticast my-ast --lengths 64:512:64

    Example: elastictool sweep --patch-sizes 8:48:8 --resize both

    Example: elastictool sweep --resolutions 1:4:0.2
    """
    axis, values = swept.axis, swept.values()
    swept.check()
    paths = list(
        dict.fromkeys(locate_run(text) for text in [*(runs or []), *(scored.more_runs or [])])
    )
    paths = paths or [locate_run("")]
    members = [locate_run(text) for text in scored.ensemble or []]
    run_folder = results_folder(paths[0])
    for folder in (
        [target.out] if target.out else [run_folder, run_folder / "results", run_folder / "figures"]
    ):
        check_output(folder)

    from elastictool.checkpoint.run_directory import environment
    from elastictool.evaluation import sweep as sweeping
    from elastictool.evaluation.evaluate import attention_of, variant
    from elastictool.reporting.earlier_sweep import document_of, earlier_points, merged
    from elastictool.reporting.run_report import write_report

    loaded = [run for path in paths for run in _load(path, model, swept.overrides())]
    averaged = [open_run(path, model) for path in members]
    store = open_data(dataset, loaded[0])
    log(f"runs {', '.join(str(path) for path in paths)}; dataset {store.path}, {split} split")
    note_other_data([*loaded, *averaged], store)
    values = values or sweeping.default_lengths(loaded, store, split)
    _check_number(swept.flag, values, len(paths))
    if axis == "length":
        _note_whole_clips(loaded, store, split, values)
    precision, shift = model.precision, swept.base_shift
    base_shift_ms = shift or sweeping.shortest_shift_ms(loaded)
    suffix = variant(loaded[0], store, model.which, precision)
    files = SweepFiles.of(axis, split, target.out, run_folder, suffix)
    about = {
        "split": split,
        "metric": sweeping.resolve_metric(scored.metric, store.info.multi_label),
        "checkpoint": model.which,
        "precision": precision,
        "dataset": store.info.name,
        "data_fingerprint": store.info.fingerprint,
        "weights": {run.name: run.weights_record for run in [*loaded, *averaged]},
        "attention": attention_of(loaded[0], precision),
        "environment": environment(store.info.fingerprint),
        **swept.conditions(base_shift_ms),
    }
    earlier = [] if target.overwrite else earlier_points(files.document, about)
    replaced = files.content() if target.overwrite else None
    with files.at_work(about):
        with files.stoppable() as stop:
            options = sweeping.SweepOptions(
                split=split,
                metric=scored.metric,
                precision=precision,
                patch_axes=swept.axes,
                base_shift_ms=base_shift_ms,
                ensemble=averaged,
                known=earlier,
                cache=files.unfinished,
                progress=progress(),
                between=stop.check,
            )
            new = sweeping.sweep(axis, loaded, store, values, options)
        shown = _asked(merged(earlier, new), new, {run.name for run in loaded}, values)
        if len(shown) > len(new):
            log(f"{len(shown) - len(new)} of {len(shown)} points are those of an earlier sweep")
        written: list[Path] = []
        try:
            written += files.write(new, about, replaced)
            written += write_report(run_folder) if target.out is None else []
        finally:  # a full disk must not take the scores along
            if json_output:
                names = [str(file) for file in written]
                print_json(document_of(shown) | about | {"files": names})
            else:
                show_points(shown, written)


def _asked(
    points: Sequence[SweepPoint],
    new: Sequence[SweepPoint],
    runs: Collection[str],
    values: Sequence[float],
) -> list[SweepPoint]:
    """Returns those of all ``points`` that the command names, known already or ``new``."""
    wanted = {point.identity for point in new}
    return [
        point
        for point in points
        if point.identity in wanted
        or (point.run in runs and (point.native or point.x in set(values)))
    ]


def _note_whole_clips(
    runs: Sequence[LoadedRun], store: PreparedStore, split: str, values: Sequence[float]
) -> None:
    """Notes lengths at which a model that never pads sees whole clips, so that rows are equal."""
    from elastictool.evaluation.sweep import longest_frames

    never_pad = [run for run in runs if not run.feature_extractor.pads]
    longest = longest_frames(never_pad[0], store, split) if never_pad else math.inf
    if max(values) > longest:
        names = ", ".join(dict.fromkeys(run.name for run in never_pad))
        log(f"note: for {names}, lengths above {longest:,} frames equal the whole clip")


def _check_number(option: str, values: Sequence[float], runs: int) -> None:
    """Rejects an implausible number of points: probably a step was forgotten."""
    points = (len(values) + 1) * runs
    if points > MOST_NUMBERS:
        raise UsageError(
            f"{option} asks for {points:,} points, each a pass over all clips "
            f"(at most {MOST_NUMBERS:,})",
            f"take a larger step: {option} {values[0]:g}:{values[-1]:g}:"
            f"{max(1, math.ceil((values[-1] - values[0]) / 20)):g}",
        )


def _load(path: Path, model: ModelOptions, variants: Sequence[dict[str, Any]]) -> list[LoadedRun]:
    """Returns the run with each of the overrides; once where they make no difference."""
    loaded = [open_run(path, model, **variant) for variant in variants]
    no_grid = loaded[0].config.model.pos_embed != "grid"
    return loaded[:1] if no_grid and "pos_embed_fit" in variants[0] else loaded
