"""Define options that commands share, and groups of options.

A command may take a dataclass of options, so that a group of them is declared, documented and
passed on once. ``grouped`` turns each field into an option of the command. ``{corpora}`` and the
like in help texts are filled in by ``commands.py``.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

import typer

from elastictool.utils.errors import UsageError

Split = Literal["test", "validation", "train"]
"""Parts of the data, as a run divides them."""


def parse_split(text: str) -> str:
    """Returns a split by its name; ``val``, as prepared data call it, is validation.

    Raises:
        UsageError: There is no such split.
    """
    name = "validation" if text == "val" else text
    if name not in get_args(Split):
        raise UsageError(
            f"--split {text!r} is no part of the data",
            f"{', '.join(get_args(Split))}: as the run divides them",
        )
    return name


def _dataset(default: str) -> Any:
    text = f"Prepared dataset: a folder, or a name under data/ (default: {default})."
    return typer.Option("--dataset", "-d", help=text)


_ATTENTION = typer.Option(help="Attention backend: auto, varlen, flex, split or reference.")
_PRECISION = typer.Option(help="Precision of matrix products.")
_RUN = "Run directory, name under runs/, or weights file (default: the latest run)."

RunOption = Annotated[str, typer.Option("--run", "-r", help=_RUN)]
FilesArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="FILES", help="Files, folders, quoted patterns, or - for a list on stdin."
    ),
]
DataArgument = Annotated[
    str, typer.Argument(help="Prepared folder, or a name under data/ (default: the latest).")
]
DatasetOption = Annotated[str, _dataset("the run's own")]
LatestDatasetOption = Annotated[str, _dataset("the latest")]
OptionalDatasetOption = Annotated[str, _dataset("none")]
SplitOption = Annotated[
    str,
    typer.Option(
        parser=parse_split,
        metavar=f"[{'|'.join(get_args(Split))}]",
        help="Part of the data, as the run divides it.",
    ),
]
StoredSplitOption = Annotated[str, typer.Option(help="Split of the dataset (default: all).")]
DurationsOption = Annotated[
    Path | None,
    typer.Option(help="CSV file with a column seconds, or EPIC-SOUNDS annotations."),
]
SetsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        "-s",
        metavar="KEY=VALUE",
        help="Setting, e.g. model.preset=elasticast or 'model.patch_size=[16,32]'; repeatable.",
    ),
]
Checkpoint = Literal["best", "last", "averaged"]
CheckpointOption = Annotated[Checkpoint, typer.Option("--which", help="Checkpoint of the run.")]
AttentionOption = Annotated[str, _ATTENTION]
OptionalAttentionOption = Annotated[str | None, _ATTENTION]
Precision = Literal["fp32", "bf16"]
PrecisionOption = Annotated[Precision, _PRECISION]
OptionalPrecisionOption = Annotated[Literal["auto", "fp32", "bf16"] | None, _PRECISION]
DeviceOption = Annotated[str, typer.Option(help="Device: auto, cpu or cuda.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
RawOption = Annotated[
    bool,
    typer.Option(
        "--raw",
        help="Write texts of CSV as they are; without it those that a spreadsheet would compute "
        "(=, +, -, @) begin with an apostrophe.",
    ),
]


def encoding_option(*names: str) -> Any:
    """Returns the option for the encoding of audio files."""
    return typer.Option(*names, help="Encoding, 16 bit: flac (half the size) or wav (faster).")


Encoding = Literal["flac", "wav"]


def option(default: Any, text: str, *names: str, **settings: Any) -> Any:
    """Returns a field of a group: an option with its default and help text.

    Args:
        default: Value without the option.
        text: The help.
        names: Names on the command line; by default that of the field.
        settings: Further arguments of ``typer.Option``.
    """
    declared = {"option": typer.Option(*names, help=text, **settings), "names": names}
    if isinstance(default, list):
        return field(default_factory=default.copy, metadata=declared)
    return field(default=default, metadata=declared)


@dataclass(frozen=True)
class RunChoice:
    """A run, named by its place or by ``--run``."""

    run: Annotated[str, typer.Argument(help=_RUN)] = ""
    run_option: Annotated[
        str, typer.Option("--run", "-r", help="Run, as an option instead of an argument.")
    ] = ""

    @property
    def text(self) -> str:
        """The name; empty for the latest run.

        Raises:
            UsageError: Two runs are named.
        """
        if self.run and self.run_option not in ("", self.run):
            raise UsageError(f"{self.run} and {self.run_option} are two runs", "name one of them")
        return self.run or self.run_option


@dataclass(frozen=True)
class ModelOptions:
    """Which weights of a run to load, and how to compute with them."""

    which: CheckpointOption = "best"
    attention: AttentionOption = "auto"
    precision: PrecisionOption = "fp32"
    device: DeviceOption = "auto"


@dataclass(frozen=True)
class BudgetOptions(ModelOptions):
    """Model options with the patches and frames, which decide the number of tokens."""

    patch_size: int | None = option(None, "Patch size in mel bins and frames; larger is faster.")
    resolution: float | None = option(
        None, "Frame shift in units of the trained one; 2 halves the tokens."
    )


@dataclass(frozen=True)
class WindowOptions:
    """How recordings are cut into windows."""

    window: float = option(0.0, "Length of windows in seconds (0: recordings whole).", min=0)
    hop: float = option(0.0, "Seconds from window to window (0: no overlap).", min=0)


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Returns the command with one option for each field of the dataclasses that it takes."""
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {
        name: kind for name, kind in hints.items() if dataclasses.is_dataclass(kind)
    }
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        if name not in groups:
            parameters.append(parameter.replace(annotation=hints[name]))
            continue
        kinds = get_type_hints(groups[name], include_extras=True)
        for each in dataclasses.fields(groups[name]):
            made, kind = each.default_factory, kinds[each.name]
            if declared := each.metadata.get("option"):
                if kind is bool and not each.metadata["names"]:  # without --no-NAME
                    declared.param_decls = (f"--{each.name.replace('_', '-')}",)
                kind = Annotated[kind, declared]
            default = each.default if made is dataclasses.MISSING else made()
            parameters.append(
                inspect.Parameter(each.name, parameter.kind, default=default, annotation=kind)
            )
    signature = inspect.Signature(parameters)

    @functools.wraps(command)
    def call(*given: Any, **named: Any) -> None:
        bound = signature.bind(*given, **named)
        bound.apply_defaults()
        values = bound.arguments
        for name, kind in groups.items():
            names = [each.name for each in dataclasses.fields(kind)]
            values[name] = kind(**{each: values.pop(each) for each in names})
        command(**values)

    call.__signature__ = signature  # type: ignore[attr-defined]
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return call
