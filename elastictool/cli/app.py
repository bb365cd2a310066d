"""Run the ``elastictool`` program: subcommands and exit codes.

Subcommand modules import typer only; what needs torch is imported inside the command, so that
``elastictool --help`` is fast.
"""

from __future__ import annotations

import codecs
import io
import os
import signal
import sys
from typing import Annotated, Any, NoReturn

import typer

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
from elastictool.cli.commands import (
    BareOptionCommand,
    Command,
    Group,
    ListCommand,
    SettingsCommand,
    program,
)
from elastictool.cli.console import print_error
from elastictool.utils.errors import ElasticToolError, Interrupted, UsageError, from_system
from elastictool.utils.launch import first_to_fail, launched
from elastictool.utils.signals import signals_interrupt
from elastictool.utils.text import printable

_TyperError: Any = typer.BadParameter.__bases__[0]
"""Class of all errors in arguments; typer has no name for it."""


class _Program(Group):
    """The subcommands; reports an interrupt that no command handles, which typer does not do.

    typer's errors repeat arguments, which may be names of files (``--*``): they are made printable.
    """

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise _interrupted() from None
        except _TyperError as error:
            error.message = printable(error.message)
            raise


def _interrupted() -> Interrupted:
    return Interrupted(
        "stopped at once; the files written before are complete", "the same command starts again"
    )


app = program(
    name="elastictool",
    cls=_Program,
    help="Train and use audio spectrogram transformers on clips of any length.",
)
app.command("prep", cls=BareOptionCommand)(prep.prep)
app.command("train", cls=SettingsCommand)(train.train)
app.command("eval", cls=Command)(evaluate.evaluate)
app.command("sweep", cls=ListCommand)(sweep.sweep)
app.command("tokens", cls=ListCommand)(tokens.tokens)
app.command("predict", cls=Command)(predict.predict)
app.command("embed", cls=Command)(embed.embed)
app.command("export", cls=Command)(export.export)
app.command("bench", cls=Command)(bench.bench)
app.command("convert", cls=SettingsCommand)(convert.convert)
app.add_typer(runs.app, name="runs")
app.add_typer(data.app)
app.add_typer(recipe.app)
app.command("doctor", cls=Command)(doctor.doctor)


SPINS_VARIABLE, SPINS = "GOMP_SPINCOUNT", "10000"
"""How often a thread of torch polls before it sleeps: some tens of microseconds. The runtime's
default of milliseconds slows down all processes of the machine (``benchmarks.sharing``)."""


def _share_the_processor() -> None:
    """Sets the polling before torch is loaded, unless the user has set it."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault(SPINS_VARIABLE, SPINS)


def _open_closed_streams() -> None:
    """Opens the null device for streams that the caller closed (``>&-``).

    Otherwise a file that is written takes the number of a stream, and gets what libraries print.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            setattr(sys, name, os.fdopen(number, mode, closefd=False))


def _write_any_text() -> None:
    """Escapes letters that the terminal or file cannot take, instead of failing."""
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
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    if not launched().is_single and context.invoked_subcommand != "train":
        raise UsageError(
            f"elastictool {context.invoked_subcommand} works in one process only",
            "start it without torchrun",
        )


def main() -> None:
    """Run the program; known errors end it with their exit code and without a traceback.

    So does a lack of memory or disk. torchrun asks all processes to end when one has; processes
    that are ending ignore that.
    """
    if hasattr(signal, "SIGPIPE"):  # `elastictool … | head` ends quietly; Windows has none
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    _share_the_processor()
    _open_closed_streams()
    _write_any_text()
    try:
        with signals_interrupt():
            app()
    except ElasticToolError as error:
        _leave(error)
    except (MemoryError, OSError, RuntimeError, ImportError) as error:
        known = from_system(error)
        if known is None:
            raise
        _drop_unwritten_output()
        _leave(known)
    except KeyboardInterrupt:  # before a subcommand has begun, or after it
        _leave(_interrupted())


def _drop_unwritten_output() -> None:
    """Drops output that stdout cannot take, or Python would complain at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _leave(error: ElasticToolError) -> NoReturn:
    if first_to_fail():
        print_error(error)
    sys.exit(error.exit_code)
