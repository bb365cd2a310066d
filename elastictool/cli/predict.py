"""``elastictool predict``: labels for recordings."""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from elastictool.cli.console import print_json, print_table, progress, say
from elastictool.cli.evaluate import (
    AttentionOption,
    Checkpoint,
    CheckpointOption,
    DeviceOption,
    PatchSizeOption,
    Precision,
    PrecisionOption,
    ResolutionOption,
    locate_run,
    open_run,
)
from elastictool.errors import RejectedItemsError
from elastictool.files import check_output
from elastictool.reporting.tables import counted

if TYPE_CHECKING:
    from elastictool.inference.model import ElasticModel, Prediction, WindowRule


class Format(str, Enum):
    """Of the answer."""

    table = "table"
    csv = "csv"
    json = "json"


FilesArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="FILES ...", help="Files, folders, 'patterns', or - (list on stdin)."),
]
RunOption = Annotated[
    str, typer.Option("--run", "-r", help="Run directory, name under runs/, or weights file.")
]
WindowOption = Annotated[
    float, typer.Option(min=0, help="Cut recordings into windows of S seconds (0: whole).")
]
HopOption = Annotated[
    float, typer.Option(min=0, help="Seconds from window to window (0: side by side).")
]


def predict(
    files: FilesArgument = None,
    run: RunOption = "",
    top: Annotated[int, typer.Option(min=1, help="Classes to name.")] = 5,
    window: WindowOption = 0.0,
    hop: HopOption = 0.0,
    form: Annotated[Format, typer.Option("--format", help="Of the answer.")] = Format.table,
    json_output: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
    timeline: Annotated[
        Path | None, typer.Option(help="Folder for a picture of each recording over time.")
    ] = None,
    patch_size: PatchSizeOption = None,
    resolution: ResolutionOption = None,
    which: CheckpointOption = Checkpoint.best,
    attention: AttentionOption = "auto",
    precision: PrecisionOption = Precision.fp32,
    device: DeviceOption = "auto",
) -> None:
    """Say what is in recordings: the likeliest classes with their probabilities.

    A recording goes through whole, up to the longest that the model takes; longer ones, and all
    with --window, in windows whose probabilities are averaged. One that cannot be read is named
    at the end (exit code 3) and stops nothing.

    Example: elastictool predict recordings/ --window 10 --hop 5 --timeline pictures
    """
    paths, rule = recordings(files, window, hop)
    if timeline is not None:
        check_output(timeline)
    model = load_model(run, which, attention, precision, device, patch_size, resolution)
    say(counted(len(paths), "recording"))
    found = model.predict(paths, top, rule, progress=progress())
    _answer(found, model, Format.json if json_output else form, windowed=window > 0)
    if timeline is not None:
        _draw(found, model, timeline)
    report_failures([(item.name, item.error) for item in found if item.error], len(found))


def load_model(
    run: str,
    which: Checkpoint,
    attention: str,
    precision: Precision,
    device: str,
    patch_size: int | None,
    resolution: float | None,
) -> ElasticModel:
    """The model that a command's options name."""
    from elastictool.inference.model import ElasticModel
    from elastictool.training.resolve import pick_device

    path = locate_run(run)
    loaded = open_run(path, which.value, attention, pick_device(device))
    model = ElasticModel(loaded.at_budget(patch_size, resolution), precision.value)
    say(f"model: {path}, up to {model.longest_s:.1f} s in one piece")
    return model


def recordings(
    files: Sequence[str] | None, window: float, hop: float
) -> tuple[list[Path], WindowRule]:
    """The files, and how they are cut; what ``predict`` and ``embed`` share."""
    from elastictool.inference.model import WindowRule
    from elastictool.inference.recordings import expand

    rule = WindowRule(window, hop)
    return expand(files or [], sys.stdin if "-" in (files or []) else ()), rule


def report_failures(failures: Sequence[tuple[str, str]], total: int) -> None:
    """Name the recordings that could not be read.

    Raises:
        RejectedItemsError: There are some.
    """
    for _, reason in failures:
        say(f"left out: {reason}")
    if failures:
        others = "; the others are done" if len(failures) < total else ""
        raise RejectedItemsError(
            f"{len(failures)} of {counted(total, 'recording')} could not be used{others}",
            "the reasons stand above",
        )


def _draw(found: Sequence[Prediction], model: ElasticModel, folder: Path) -> None:
    """A picture of each recording; of equal stems the later ones are numbered."""
    from elastictool.reporting.timeline import save_timeline

    taken: set[str] = set()
    for item in found:
        if item.error:
            continue
        stem, number = Path(item.name).stem, 1
        while (name := stem if number == 1 else f"{stem}-{number}") in taken:
            number += 1
        taken.add(name)
        parts = item.windows
        pictures = save_timeline(
            folder / name,
            Path(item.name).name,
            parts.starts_s,
            parts.stops_s,
            parts.values,
            model.label_names,
        )
        for picture in pictures:
            say(f"wrote {picture} ({item.name})")


def _answer(found: Sequence[Prediction], model: ElasticModel, form: Format, windowed: bool) -> None:
    if form is Format.json:
        print_json(
            {"run": str(model.run.path), "predictions": [_document(i, windowed) for i in found]}
        )
    elif form is Format.csv:
        _write_csv(found, sys.stdout)
    else:
        rows = [
            (
                item.name,
                f"{item.duration_s:.2f}",
                ", ".join(f"{label} {share:.1%}" for label, share in item.labels),
            )
            for item in found
            if not item.error
        ]
        if rows:
            print_table("predictions", ("recording", "seconds", "likeliest classes"), rows)


def _document(item: Prediction, windowed: bool) -> dict[str, Any]:
    document: dict[str, Any] = {"recording": item.name}
    if item.error:
        return document | {"error": item.error}
    document |= {
        "duration_s": round(item.duration_s, 3),
        "labels": [{"label": label, "score": score} for label, score in item.labels],
    }
    if windowed:
        parts = item.windows
        best = parts.values.argmax(axis=1)
        document["windows"] = [
            {"start_s": float(start), "stop_s": float(stop), "class": int(index), "score": float(p)}
            for start, stop, index, p in zip(
                parts.starts_s, parts.stops_s, best, parts.values.max(axis=1), strict=True
            )
        ]
    return document


def _write_csv(found: Sequence[Prediction], file: TextIO) -> None:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(("recording", "rank", "label", "score", "error"))
    for item in found:
        if item.error:
            writer.writerow((item.name, "", "", "", item.error))
        for rank, (label, score) in enumerate(item.labels, start=1):
            writer.writerow((item.name, rank, label, f"{score:.6f}", ""))
