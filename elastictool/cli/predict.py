"""``elastictool predict``: labels for recordings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from elastictool.cli.console import progress, say
from elastictool.cli.evaluate import (
    AttentionOption,
    Checkpoint,
    CheckpointOption,
    DeviceOption,
    PatchSizeOption,
    Precision,
    PrecisionOption,
    ResolutionOption,
)
from elastictool.cli.prediction_output import Answers, Format
from elastictool.cli.recordings import (
    FilesArgument,
    HopOption,
    RunOption,
    WindowOption,
    finish,
    load_model,
    recordings,
    until_stopped,
)
from elastictool.reporting.tables import counted
from elastictool.utils.io import check_output

if TYPE_CHECKING:
    from elastictool.inference.model import ElasticModel
    from elastictool.inference.results import Prediction


def predict(
    files: FilesArgument = None,
    run: RunOption = "",
    top: Annotated[int, typer.Option(min=1, help="Classes to name.")] = 5,
    window: WindowOption = 0.0,
    hop: HopOption = 0.0,
    form: Annotated[Format, typer.Option("--format", help="Of the answer.")] = Format.table,
    json_output: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
    by_window: Annotated[
        bool,
        typer.Option(help="Answer for each window (JSON: beside the whole, and with --window)."),
    ] = False,
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
    """Predict the likeliest classes of recordings.

    A recording goes through whole, up to the longest that the model takes; longer ones, and all
    with --window, in windows whose probabilities are averaged. Models of several labels a clip
    also decide, at the thresholds that validation chose. A recording that cannot be read is named
    at the end (exit code 3) and stops nothing; Ctrl-C ends with what is done (exit code 130).

    Example: elastictool predict recordings/ --window 10 --hop 5 --timeline pictures
    """
    paths, rule = recordings(files, window, hop)
    if timeline is not None:
        check_output(timeline)
    model = load_model(run, which, attention, precision, device, patch_size, resolution)
    say(counted(len(paths), "recording"))
    found, stopped = until_stopped(
        lambda stop: model.predictions(paths, top, rule, progress=progress(), stop=stop)
    )
    form = Format.json if json_output else form
    by_window = by_window or (form is Format.json and window > 0)
    Answers(model, top, by_window).tell(found, form, stopped)
    if timeline is not None and not stopped:
        _draw(found, model, timeline)
    failures = [(item.name, item.error) for item in found if item.error]
    finish(failures, len(found), len(paths), stopped)


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
