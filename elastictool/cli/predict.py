"""``elastictool predict``: predict labels of recordings."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from elastictool.cli.console import log, progress
from elastictool.cli.loading import open_model
from elastictool.cli.options import (
    BudgetOptions,
    FilesArgument,
    RawOption,
    RunOption,
    WindowOptions,
    grouped,
    option,
)
from elastictool.cli.prediction_output import Format, PredictionOutput
from elastictool.cli.recordings import collect, expand_files, finish, split_run, window_rule
from elastictool.utils.errors import WriteError
from elastictool.utils.io import check_output
from elastictool.utils.text import counted

if TYPE_CHECKING:
    from elastictool.inference.model import ElasticModel
    from elastictool.inference.results import Prediction


LONGEST_NAME = 200
"""Most bytes of a figure's name, with room for a number and an ending within 255."""


@dataclass(frozen=True)
class OutputOptions:
    """What to print and draw."""

    top: int = option(5, "Number of classes to name.", min=1)
    form: Format = option("table", "Format of the output.", "--format")
    json_output: bool = option(False, "Print JSON, like --format json.", "--json")
    raw: RawOption = False
    by_window: bool | None = option(
        None,
        "Print each window instead of each recording; JSON holds both (default: with --window, in "
        "CSV and JSON).",
        "--by-window/--no-by-window",
    )
    timeline: Path | None = option(None, "Folder for a figure of each recording over time.")


@grouped
def predict(
    files: FilesArgument = None,
    run: RunOption = "",
    windows: WindowOptions = WindowOptions(),
    output: OutputOptions = OutputOptions(),
    model: BudgetOptions = BudgetOptions(),
) -> None:
    """Predict the likeliest classes of recordings.

    A recording is scored whole, up to the longest that the model takes; longer ones, and all with
    --window, in windows whose probabilities are averaged. Models of several labels a clip also
    decide, at the thresholds that validation chose. Recordings that cannot be read are listed at
    the end (exit code 3) and stop nothing; Ctrl-C prints what is done (exit code 130).

    Example: elastictool predict recordings/ --window 10 --hop 5
    """
    files, run = split_run(files, run)
    rule, paths = window_rule(windows), expand_files(files)
    if output.timeline is not None:
        check_output(output.timeline)
    loaded = open_model(run, model)
    log(counted(len(paths), "recording"))
    found, stopped = collect(
        lambda stop: loaded.predictions(paths, output.top, rule, progress=progress(), stop=stop)
    )
    form = "json" if output.json_output else output.form
    by_window = output.by_window
    if by_window is None:
        by_window = form != "table" and windows.window > 0
    PredictionOutput(loaded, output.top, by_window).print(found, form, stopped, output.raw)
    draws = output.timeline is not None and not stopped
    problems = _draw(found, loaded, output.timeline) if draws and output.timeline else []
    finish(found, len(paths), stopped)
    if problems:
        raise WriteError(f"{counted(len(problems), 'figure')} could not be written", problems[0])


def _draw(found: Sequence[Prediction], model: ElasticModel, folder: Path) -> list[str]:
    """Draws a figure of each recording; returns a hint for each that could not be written.

    Long names are shortened; of equal ones the later ones are numbered.
    """
    from elastictool.reporting.audio_figures import save_timeline

    taken: set[str] = set()
    hints = []
    for item in found:
        if item.error:
            continue
        stem, number = Path(item.name).stem, 1
        while len(os.fsencode(stem)) > LONGEST_NAME:
            stem = stem[:-1]
        while (name := stem if number == 1 else f"{stem}-{number}") in taken:
            number += 1
        taken.add(name)
        parts = item.windows
        try:
            pictures = save_timeline(
                folder / name,
                Path(item.name).name,
                parts.starts_s,
                parts.stops_s,
                parts.values,
                model.label_names,
            )
        except WriteError as error:
            log(f"left out: the figure of {item.name}: {error.message}")
            hints.append(error.hint)
            continue
        for picture in pictures:
            log(f"wrote {picture} ({item.name})")
    return hints
