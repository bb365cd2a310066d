"""``elastictool sweep``: several runs at every length (ElasticAST, Figure 4)."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from elastictool.cli.console import print_json, print_table, progress, say
from elastictool.cli.evaluate import (
    AttentionOption,
    Checkpoint,
    CheckpointOption,
    DatasetOption,
    DeviceOption,
    JsonOption,
    Precision,
    PrecisionOption,
    Split,
    SplitOption,
    locate_run,
    open_data,
)
from elastictool.cli.ranges import parse_lengths

if TYPE_CHECKING:
    from elastictool.evaluation.points import SweepPoint
    from elastictool.training.checkpoint import LoadedRun, Which


class Positions(str, Enum):
    """How a grid of positions serves another length."""

    interpolate = "interpolate"
    slice = "slice"
    both = "both"


def sweep(
    runs: Annotated[
        list[str] | None,
        typer.Argument(help="Run directories or names under runs/; default the latest run."),
    ] = None,
    lengths: Annotated[
        str, typer.Option(help="Frames: start:stop[:step], both ends included, or a comma list.")
    ] = "256:3072",
    more_runs: Annotated[
        list[str] | None, typer.Option("--run", help="A run; repeatable, as the arguments.")
    ] = None,
    positions: Annotated[
        Positions, typer.Option(help="How fixed-length ASTs serve other lengths.")
    ] = Positions.interpolate,
    metric: Annotated[str, typer.Option(help="auto: top1, or map for multi-label data.")] = "auto",
    split: SplitOption = Split.test,
    dataset: DatasetOption = "",
    which: CheckpointOption = Checkpoint.best,
    attention: AttentionOption = "auto",
    precision: PrecisionOption = Precision.fp32,
    device: DeviceOption = "auto",
    out: Annotated[
        Path | None, typer.Option(help="Folder; default results/ and figures/ of the first run.")
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Evaluate runs at a series of lengths, and each at its own length.

    ElasticAST trims longer clips and never pads; fixed-length ASTs trim and pad. Each clip is
    decoded once. Writes a CSV, a figure (PNG, SVG) and the first run's report.html.

    Example: elastictool sweep synth-elasticast synth-ast-128 --lengths 64:512:64
    """
    frames = parse_lengths(lengths)
    paths = list(dict.fromkeys(locate_run(text) for text in [*(runs or []), *(more_runs or [])]))
    paths = paths or [locate_run("")]

    from elastictool.evaluation.sweep import sweep_lengths
    from elastictool.reporting.run_report import write_report
    from elastictool.training.resolve import pick_device
    from elastictool.training.rundir import environment

    place = pick_device(device)
    loaded = [
        run for path in paths for run in _load(path, which.value, attention, place, positions)
    ]
    store = open_data(dataset, loaded[0])
    say(f"runs {', '.join(str(path) for path in paths)}; dataset {store.path}, {split.value} split")
    _warn_of_other_data(loaded, store)
    points = sweep_lengths(loaded, store, frames, split.value, metric, precision.value, progress())
    about = {
        "split": split.value,
        "checkpoint": which.value,
        "precision": precision.value,
        "dataset": store.info.name,
        "environment": environment(store.info.fingerprint),
    }
    files = _write(points, about, out, loaded[0].path, split.value)
    files += write_report(loaded[0].path) if out is None else []
    if json_output:
        print_json(_document(points) | about | {"files": [str(file) for file in files]})
    else:
        _show(points, files)


def _load(
    path: Path, which: Which, attention: str, device: str, positions: Positions
) -> list[LoadedRun]:
    """The run, twice where its positions are to be fitted in both ways."""
    from elastictool.training.checkpoint import load_run

    if positions is Positions.interpolate:
        return [load_run(path, which, attention, device, "interpolate")]
    sliced = load_run(path, which, attention, device, "slice")
    if positions is Positions.slice or sliced.config.model.positions != "grid":
        return [sliced]
    return [load_run(path, which, attention, device, "interpolate"), sliced]


def _warn_of_other_data(runs: Sequence[LoadedRun], store: Any) -> None:
    from elastictool.evaluation.evaluate import same_data

    for run in runs:
        if same_data(run, store) is False:
            say(f"warning: {store.path} is not the data that {run.name} was trained on")


def _write(
    points: Sequence[SweepPoint], about: dict[str, Any], out: Path | None, run: Path, split: str
) -> list[Path]:
    """CSV and JSON beside the other results, the figure beside the other figures."""
    from elastictool.evaluation.points import write_points
    from elastictool.files import write_json
    from elastictool.reporting.sweep_figure import plot_sweep

    stem = "sweep" if split == "test" else f"sweep_{split}"
    results, figures = (out, out) if out is not None else (run / "results", run / "figures")
    table, document = results / f"{stem}.csv", results / f"{stem}.json"
    write_points(table, points)
    write_json(document, _document(points) | about)
    title = f"{about['dataset']}, {points[0].clips} {split} clips"
    return [table, document, *plot_sweep(points, figures / stem, title)]


def _document(points: Sequence[SweepPoint]) -> dict[str, Any]:
    import dataclasses

    from elastictool.evaluation.evaluate import finite

    plain = [dataclasses.asdict(point) for point in points]
    return {
        "points": [
            {
                name: finite(value) if isinstance(value, float) else value
                for name, value in point.items()
            }
            for point in plain
        ]
    }


def _show(points: Sequence[SweepPoint], files: Sequence[Path]) -> None:
    """One column a model, one row a length; intervals and cost are in the CSV."""
    from elastictool.metrics.classification import METRIC_LABELS
    from elastictool.reporting.sweep_figure import series_of
    from elastictool.reporting.tables import EMPTY, metric_text

    series = series_of(points)
    lengths = sorted({point.length_frames for point in points if not point.native})

    def row(title: str, frames: int | None) -> list[str]:
        cells = [title]
        for members in series.values():
            found = [p for p in members if (None if p.native else p.length_frames) == frames]
            cells.append(metric_text(found[0].metric, found[0].value) if found else EMPTY)
        return cells

    unit = "" if points[0].metric == "dprime" else ", %"
    print_table(
        f"{METRIC_LABELS[points[0].metric]}{unit}, {points[0].clips} clips",
        ["frames", *series],
        [row("own length", None), *(row(str(frames), frames) for frames in lengths)],
    )
    for file in files:
        say(f"wrote {file}")
