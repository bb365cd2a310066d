"""The ``elastictool`` program: its subcommands, and how an error leaves it.

Subcommand modules import typer only; what needs torch is imported inside the command, so that
``elastictool --help`` answers at once.
"""

from __future__ import annotations

import codecs
import io
import os
import signal
import sys
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from elastictool import __version__
from elastictool.cli import (
    bench,
    convert,
    data,
    doctor,
    embed,
    evaluate,
    export,
    predict,
    prep,
    recipe,
    runs,
    sweep,
    tokens,
    train,
)
from elastictool.cli.console import print_error
from elastictool.cli.options import SettingsCommand
from elastictool.cli.ranges import ListCommand
from elastictool.utils.errors import ElasticToolError, Interrupted, UsageError, from_system
from elastictool.utils.launch import first_to_fail, launched
from elastictool.utils.signals import signals_interrupt


class _Program(TyperGroup):
    """The subcommands; an interrupt that none of them answers is told, which typer does not do."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise _interrupted() from None


def _interrupted() -> Interrupted:
    return Interrupted(
        "stopped at once; what was written before is whole", "the same command starts again"
    )


app = typer.Typer(
    name="elastictool",
    cls=_Program,
    help="Train and use audio spectrogram transformers on clips of any length.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich's help keeps the line breaks of docstrings
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("prep")(prep.prep)
app.command("train", cls=SettingsCommand)(train.train)
app.command("eval")(evaluate.evaluate)
app.command("sweep", cls=ListCommand)(sweep.sweep)
app.command("tokens", cls=ListCommand)(tokens.tokens)
app.command("predict")(predict.predict)
app.command("embed")(embed.embed)
app.command("export")(export.export)
app.command("bench")(bench.bench)
app.command("convert", cls=SettingsCommand)(convert.convert)
app.add_typer(runs.app, name="runs")
app.add_typer(data.app)
app.add_typer(recipe.app)
app.command("doctor")(doctor.doctor)


SPINS_VARIABLE, SPINS = "GOMP_SPINCOUNT", "10000"
"""How often a thread of torch looks whether the others are ready before it sleeps: some tens of
microseconds, not the runtime's milliseconds, which other processes on the machine would pay
for as well as we (``python -m benchmarks.sharing``)."""


def _share_the_processor() -> None:
    """Takes effect because no command has loaded torch yet; what the user has set stays."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault(SPINS_VARIABLE, SPINS)


def _write_any_text() -> None:
    """Letters that the terminal or file cannot take are escaped: they are no reason to end."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and codecs.lookup(stream.encoding).name != "utf-8":
            stream.reconfigure(errors="backslashreplace")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    if not launched().is_single and context.invoked_subcommand != "train":
        raise UsageError(
            f"elastictool {context.invoked_subcommand} works in one process only",
            "start it without torchrun",
        )


def main() -> None:
    """Run the program; every error of ours leaves with its exit code and without a traceback.

    So does a lack of memory or disk wherever it strikes: no bug of ours either. torchrun asks all
    processes to end when one has; what ends already is not disturbed by that.
    """
    if hasattr(signal, "SIGPIPE"):  # `elastictool … | head` ends quietly; Windows has none
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    _share_the_processor()
    _write_any_text()
    try:
        with signals_interrupt():
            app()
    except ElasticToolError as error:
        _leave(error)
    except (MemoryError, OSError, RuntimeError) as error:
        known = from_system(error)
        if known is None:
            raise
        _drop_unwritten_output()
        _leave(known)
    except KeyboardInterrupt:  # before a subcommand has begun, or after it
        _leave(_interrupted())


def _drop_unwritten_output() -> None:
    """What stdout does not take now it will not take at exit either, where Python complains."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _leave(error: ElasticToolError) -> NoReturn:
    if first_to_fail():
        print_error(error)
    sys.exit(error.exit_code)
