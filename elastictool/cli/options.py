"""Options that several commands share, and the pointer from settings to ``--set``.

A command may take a dataclass of options, so that a group of them is declared, documented and
passed on once. ``grouped`` turns each field into an option of the command.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
from typer.core import TyperCommand

from elastictool.utils.errors import UsageError


class Split(str, Enum):
    """Parts of the data, as the run divides them."""

    test = "test"
    validation = "validation"
    train = "train"

    def __str__(self) -> str:
        """As it is written on a command line."""
        return self.value


class Checkpoint(str, Enum):
    """Checkpoints of a run."""

    best = "best"
    last = "last"
    averaged = "averaged"


class Precision(str, Enum):
    """Precision of matrix products."""

    fp32 = "fp32"
    bf16 = "bf16"


def parse_split(text: str) -> Split:
    """Returns a split by its name; ``val``, as prepared data call it, is validation.

    Raises:
        UsageError: There is no such split.
    """
    try:
        return Split("validation" if text == "val" else text)
    except ValueError:
        raise UsageError(
            f"--split {text!r} is no part of the data",
            f"{', '.join(Split)}: as the run divides them",
        ) from None


RunArgument = Annotated[
    str, typer.Argument(help="Run directory or name under runs/ (default: the latest run).")
]
RunOption = Annotated[
    str, typer.Option("--run", "-r", help="Run directory, name under runs/, or weights file.")
]
FilesArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="FILES", help="Files, folders, 'patterns', or - (list on stdin)."),
]
DatasetOption = Annotated[
    str,
    typer.Option("--dataset", "-d", help="Prepared dataset (default: the run's own)."),
]
SplitOption = Annotated[
    Split,
    typer.Option(
        parser=parse_split,
        metavar=f"[{'|'.join(Split)}]",
        help="Part of the data, as the run divides it.",
    ),
]
DurationsOption = Annotated[
    Path | None,
    typer.Option(help="CSV file with a column seconds, or EPIC-SOUNDS annotations."),
]
AttentionOption = Annotated[
    str, typer.Option(help="Attention backend: auto, varlen, flex, split or reference.")
]
CheckpointOption = Annotated[Checkpoint, typer.Option("--which", help="Checkpoint of the run.")]
PrecisionOption = Annotated[Precision, typer.Option(help="Precision of matrix products.")]
DeviceOption = Annotated[str, typer.Option(help="Device: auto, cpu or cuda.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


@dataclass(frozen=True)
class ModelOptions:
    """Which weights of a run to load, and how to compute with them."""

    which: CheckpointOption = Checkpoint.best
    attention: AttentionOption = "auto"
    precision: PrecisionOption = Precision.fp32
    device: DeviceOption = "auto"


@dataclass(frozen=True)
class BudgetOptions(ModelOptions):
    """Model options with the patches and frames, which decide the number of tokens."""

    patch_size: Annotated[
        int | None,
        typer.Option(help="Patch size in mel bins and frames; larger is faster."),
    ] = None
    resolution: Annotated[
        float | None,
        typer.Option(help="Frame shift in units of the trained one; 2 halves the tokens."),
    ] = None


@dataclass(frozen=True)
class WindowOptions:
    """How recordings are cut into windows."""

    window: Annotated[
        float,
        typer.Option(min=0, help="Length of windows in seconds; 0 takes recordings whole."),
    ] = 0.0
    hop: Annotated[
        float,
        typer.Option(min=0, help="Seconds from window to window; 0 puts them side by side."),
    ] = 0.0


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
        parameters += [
            inspect.Parameter(
                field.name, parameter.kind, default=_default(field), annotation=kinds[field.name]
            )
            for field in dataclasses.fields(groups[name])
        ]

    @functools.wraps(command)
    def call(**values: Any) -> None:
        for name, kind in groups.items():
            names = {field.name for field in dataclasses.fields(kind)} & values.keys()
            values[name] = kind(**{field: values.pop(field) for field in names})
        command(**values)

    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return call


def _default(field: dataclasses.Field[Any]) -> Any:
    made = field.default_factory
    return field.default if made is dataclasses.MISSING else made()


class SettingsCommand(TyperCommand):
    """A command with ``--set``, which points from options that are settings to it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Point from ``--epochs 3`` to ``--set train.epochs=3``, then parse as usual."""
        options = {name for parameter in self.params for name in parameter.opts}
        for arg, following in zip(args, [*args, ""][1:], strict=True):
            name, given, value = arg.partition("=")
            if name.startswith("--") and name not in {*options, "--", "--help"}:
                _refuse_setting(name, value if given else following)
        return super().parse_args(ctx, args)


def _refuse_setting(option: str, value: str) -> None:
    """Refuse ``option`` if it is a setting; ``value`` may be another option where it has none."""
    from elastictool.config.words import settings, settings_called

    meant = settings_called(option.removeprefix("--").replace("-", "_"))
    if meant and settings().keys() >= set(meant):  # a section has no value
        value = "VALUE" if not value or value.startswith("--") else value
        ways = " or ".join(f"--set {shlex.quote(f'{name}={value}')}" for name in meant)
        raise UsageError(f"there is no option {option}: it is a setting", ways)
