"""``elastictool sweep``: several runs at every length (ElasticAST, Figure 4), patch size (FlexiAST,
Table 1), temporal resolution (ElasticAST, Figure 5) or pooling (ElasticAST, Table 1)."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from elastictool.cli.console import print_json, progress, say
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
    open_run,
    results_place,
    tell_other_data,
)
from elastictool.cli.ranges import parse_fractions, parse_lengths, parse_numbers
from elastictool.cli.sweep_results import SweepFiles, show_points
from elastictool.utils.errors import UsageError
from elastictool.utils.io import check_output

if TYPE_CHECKING:
    from elastictool.checkpoint.weights import LoadedRun, Which
    from elastictool.evaluation.points import SweepPoint


MOST_POINTS = 2_000
PATCH_STEP = 8
"""Between the patch sizes of a range that names no step."""
RESOLUTION_STEP = "0.2"
"""Between the compressions of a range that names no step."""


class Positions(str, Enum):
    """How a grid of positions serves another length."""

    interpolate = "interpolate"
    slice = "slice"
    both = "both"


class Resizing(str, Enum):
    """How kernels serve another patch size."""

    own = "own"
    pi = "pi"
    bl = "bl"
    bl_plain = "bl-plain"
    both = "both"


class Along(str, Enum):
    """Axes along which a patch size counts."""

    auto = "auto"
    both = "both"
    time = "time"
    frequency = "frequency"


class PoolingKind(str, Enum):
    """What becomes of the frames that are pooled."""

    average = "average"
    max = "max"


def sweep(
    runs: Annotated[
        list[str] | None,
        typer.Argument(help="Run directories or names under runs/; default the latest run."),
    ] = None,
    lengths: Annotated[
        str,
        typer.Option(
            help="Frames: start:stop[:step], both ends included, or a comma list; a dozen up to "
            "the longest clip where nothing is named."
        ),
    ] = "",
    patch_sizes: Annotated[
        str, typer.Option(help="Sweep patch sizes instead: a range (step 8) or a comma list.")
    ] = "",
    resolutions: Annotated[
        str,
        typer.Option(help="Sweep frame shifts instead, as multiples of the base: 1:4:0.2."),
    ] = "",
    pooling: Annotated[
        str, typer.Option(help="Sweep pooling over time instead: frames that become one, 1,2,3,4.")
    ] = "",
    more_runs: Annotated[
        list[str] | None, typer.Option("--run", help="A run; repeatable, as the arguments.")
    ] = None,
    ensemble: Annotated[
        list[str] | None,
        typer.Option(help="Runs whose mean answer, each at its own setting, is one more row."),
    ] = None,
    positions: Annotated[
        Positions, typer.Option(help="How fixed-length ASTs serve other numbers of frames.")
    ] = Positions.interpolate,
    resize: Annotated[
        Resizing,
        typer.Option(help="Kernels at other patch sizes; own: as trained; both: pi and bl."),
    ] = Resizing.own,
    axes: Annotated[
        Along, typer.Option(help="Where a patch size counts; auto: as trained, else both.")
    ] = Along.auto,
    base_shift: Annotated[
        float | None,
        typer.Option(help="Frame shift of compression 1 in ms; default the runs' shortest."),
    ] = None,
    pooling_kind: Annotated[
        PoolingKind | None, typer.Option(help="Default average; the published code's is max.")
    ] = None,
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
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Begin the files anew; else points are added.")
    ] = False,
    json_output: JsonOption = False,
) -> None:
    """Evaluate runs at many lengths, patch sizes or resolutions.

    ElasticAST trims longer clips and never pads; fixed-length ASTs trim and pad. Kernels and
    positions are resized for other patch sizes. At another resolution all see as many seconds as
    in training. Each clip is decoded once. Writes a CSV, a figure (PNG, SVG) and the first run's
    report.html; points of an earlier sweep of the same weights and data stay. Ctrl-C keeps what is
    scored, and the same command continues.

    Example: elastictool sweep synth-elasticast synth-ast-128 --lengths 64:512:64

    Example: elastictool sweep --patch-sizes 8,10,12,16,20,24,30,32,40,48 --resize both

    Example: elastictool sweep --resolutions 1:4:0.2
    """
    asked = {
        "--lengths": lengths,
        "--patch-sizes": patch_sizes,
        "--resolutions": resolutions,
        "--pooling": pooling,
    }
    option, values = _values(asked)
    _check_companions(option, base_shift, pooling_kind)
    _check_ways(option, positions, resize, axes)
    paths = list(dict.fromkeys(locate_run(text) for text in [*(runs or []), *(more_runs or [])]))
    paths = paths or [locate_run("")]
    members = [locate_run(text) for text in ensemble or []]
    place = results_place(paths[0])
    for folder in [out] if out else [place, place / "results", place / "figures"]:
        check_output(folder)

    from elastictool.checkpoint.run_directory import environment
    from elastictool.evaluation.evaluate import attention_of, variant
    from elastictool.evaluation.resolutions import shortest_shift_ms
    from elastictool.evaluation.sweep import known_metric
    from elastictool.evaluation.sweep_axes import default_lengths, sweep_axis
    from elastictool.reporting.earlier_sweep import document_of, former_points, merged
    from elastictool.reporting.run_report import write_report
    from elastictool.training.setup import pick_device

    where = pick_device(device)
    variants = _resizings(resize) if option == "--patch-sizes" else _fits(positions)
    loaded = [run for path in paths for run in _load(path, which.value, attention, where, variants)]
    averaged = [open_run(path, which.value, attention, where) for path in members]
    store = open_data(dataset, loaded[0])
    say(f"runs {', '.join(str(path) for path in paths)}; dataset {store.path}, {split.value} split")
    tell_other_data([*loaded, *averaged], store)
    values = values or default_lengths(loaded, store, split.value)
    _check_number(option, values, len(paths))
    kind = (pooling_kind or PoolingKind.average).value
    base_shift_ms = base_shift or shortest_shift_ms(loaded)
    chosen: dict[str, tuple[str, dict[str, Any]]] = {
        "--lengths": ("length", {}),
        "--patch-sizes": ("patch_size", {"axes": axes.value}),
        "--resolutions": ("resolution", {"base_shift_ms": base_shift_ms}),
        "--pooling": (f"{kind}_pooling", {"kind": kind}),
    }
    axis, special = chosen[option]
    suffix = variant(loaded[0], store, which.value, precision.value)
    files = SweepFiles.of(axis, split.value, out, place, suffix)
    about = {
        "split": split.value,
        "metric": known_metric(metric, store.info.multi_label),
        "checkpoint": which.value,
        "precision": precision.value,
        "dataset": store.info.name,
        "data_fingerprint": store.info.fingerprint,
        "weights": {run.name: run.weights_record for run in [*loaded, *averaged]},
        "attention": attention_of(loaded[0], precision.value),
        "environment": environment(store.info.fingerprint),
        **special,
    }
    former = [] if overwrite else former_points(files.document, about)
    with files.stoppable() as stop:
        new = sweep_axis(
            axis,
            loaded,
            store,
            values,
            along=axes.value,
            base_shift_ms=base_shift_ms,
            split=split.value,
            metric=metric,
            precision=precision.value,
            progress=progress(),
            ensemble=averaged,
            known=former,
            keep=files.unfinished,
            between=stop.check,
        )
    points = merged(former, new)
    shown = _asked(points, new, {run.name for run in loaded}, values)
    if len(shown) > len(new):
        say(f"{len(shown) - len(new)} of {len(shown)} points are those of an earlier sweep")
    written: list[Path] = []
    try:
        written += files.write(points, about)
        written += write_report(place) if out is None else []
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
    """Of all ``points`` those that the command names, known already or ``new``."""
    wanted = {point.identity for point in new}
    return [
        point
        for point in points
        if point.identity in wanted
        or (point.run in runs and (point.native or point.x in set(values)))
    ]


def _values(asked: Mapping[str, str]) -> tuple[str, Sequence[float]]:
    """The one sweep that is asked for, lengths where none is, and its values; none: by the data."""
    given = [option for option, text in asked.items() if text] or ["--lengths"]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} are {len(given)} sweeps", "give one of them")
    (option,) = given
    text = asked[option]
    if option == "--resolutions":
        return option, parse_fractions([text], option, RESOLUTION_STEP)
    if option == "--lengths":
        return option, parse_lengths(text) if text else ()
    return option, parse_numbers([text], option, PATCH_STEP if option == "--patch-sizes" else 1)


def _check_number(option: str, values: Sequence[float], runs: int) -> None:
    """Refuse what is most likely a step forgotten: each point scores all clips anew."""
    points = (len(values) + 1) * runs
    if points > MOST_POINTS:
        raise UsageError(
            f"{option} asks for {points:,} points, each a pass over all clips "
            f"(at most {MOST_POINTS:,})",
            f"take a larger step: {option} {values[0]:g}:{values[-1]:g}:"
            f"{max(1, math.ceil((values[-1] - values[0]) / 20)):g}",
        )


def _check_companions(
    option: str, base_shift: float | None, pooling_kind: PoolingKind | None
) -> None:
    """Refuse what would make no difference, and what makes no sense."""
    if base_shift is not None and option != "--resolutions":
        raise UsageError("--base-shift goes with --resolutions", "e.g. --resolutions 1:4:0.2")
    if pooling_kind is not None and option != "--pooling":
        raise UsageError("--pooling-kind goes with --pooling", "e.g. --pooling 1,2,3,4")
    if base_shift is not None and not 0.1 <= base_shift <= 1000:
        raise UsageError(f"--base-shift {base_shift:g} is not within 0.1..1000 ms", "e.g. 10")


def _check_ways(option: str, positions: Positions, resize: Resizing, axes: Along) -> None:
    """Refuse ways of resizing that the sweep does not resize by."""
    example = "e.g. --patch-sizes 8,10,12,16,20,24,30,32,40,48"
    if option != "--patch-sizes":
        for name, differs in (
            ("--resize", resize is not Resizing.own),
            ("--axes", axes is not Along.auto),
        ):
            if differs:
                raise UsageError(f"{name} goes with --patch-sizes", example)
    elif positions is not Positions.interpolate:
        raise UsageError(
            "--positions does not go with --patch-sizes",
            "positions are resized bilinearly there, as in FlexiAST",
        )


def _fits(positions: Positions) -> list[dict[str, Any]]:
    """Ways of fitting positions to try, as overrides of a run's model."""
    both = [{"pos_embed_fit": "interpolate"}, {"pos_embed_fit": "slice"}]
    return both if positions is Positions.both else [{"pos_embed_fit": positions.value}]


def _resizings(resize: Resizing) -> list[dict[str, Any]]:
    """Ways of resizing kernels to try, as overrides of a run's model."""
    if resize is Resizing.both:
        return [{"resize": "pi"}, {"resize": "bl"}]
    return [{}] if resize is Resizing.own else [{"resize": resize.value}]


def _load(
    path: Path,
    which: Which,
    attention: str,
    device: str,
    variants: Sequence[dict[str, Any]],
) -> list[LoadedRun]:
    """The run with each of the overrides; once where they make no difference."""
    loaded = [open_run(path, which, attention, device, **variant) for variant in variants]
    no_grid = loaded[0].config.model.pos_embed != "grid"
    return loaded[:1] if no_grid and "pos_embed_fit" in variants[0] else loaded
