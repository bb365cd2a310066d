"""What ``predict`` and ``embed`` share: recordings, the model, Ctrl-C and how they end."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from elastictool.cli.console import say
from elastictool.cli.evaluate import Checkpoint, Precision, locate_run, open_run
from elastictool.reporting.tables import counted
from elastictool.utils.errors import Interrupted, RejectedItemsError
from elastictool.utils.signals import Stopped, StopRequest

if TYPE_CHECKING:
    from elastictool.inference.model import ElasticModel
    from elastictool.inference.results import WindowRule

T = TypeVar("T")

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
    from elastictool.inference.results import rounded_down
    from elastictool.training.setup import pick_device

    path = locate_run(run)
    loaded = open_run(path, which.value, attention, pick_device(device))
    model = ElasticModel(loaded.with_tokens(patch_size, resolution), precision.value)
    say(f"model: {path}, up to {rounded_down(model.longest_s, 1)} s in one piece")
    return model


def recordings(
    files: Sequence[str] | None, window: float, hop: float
) -> tuple[list[Path], WindowRule]:
    """The files, and how they are cut."""
    from elastictool.inference.recordings import expand
    from elastictool.inference.results import WindowRule

    rule = WindowRule(window, hop)
    return expand(files or [], _lines_on_stdin() if "-" in (files or []) else ()), rule


def _lines_on_stdin() -> Iterator[str]:
    """Lines as names of files, which need not be text in any encoding."""
    return map(os.fsdecode, sys.stdin.buffer)


def until_stopped(results: Callable[[StopRequest], Iterator[T]]) -> tuple[list[T], bool]:
    """All results, or those that were there when the user asked for an end; and whether he did."""
    found: list[T] = []
    with StopRequest() as stop:
        try:
            for item in results(stop):
                found.append(item)
        except Stopped:
            return found, True
    return found, False


def finish(failures: Sequence[tuple[str, str]], done: int, total: int, stopped: bool) -> None:
    """Name the recordings that could not be read, and leave as fits.

    Args:
        failures: (name, reason) of each.
        done: Recordings that had their turn.
        total: All that were named.
        stopped: The user asked for an end.

    Raises:
        Interrupted: So it is.
        RejectedItemsError: There are failures.
    """
    for _, reason in failures:
        say(f"left out: {reason}")
    if stopped:
        raise Interrupted(
            f"stopped after {done:,} of {counted(total, 'recording')}; what these gave is written",
            "the same command does them all" if not done else "name the others to do them too",
        )
    if failures:
        others = "; the others are done" if len(failures) < total else ""
        raise RejectedItemsError(
            f"{len(failures)} of {counted(total, 'recording')} could not be used{others}",
            "the reasons stand above",
        )
