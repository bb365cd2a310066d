"""Define typer commands: help in 80 columns, ``--set``, options with several values.

Names that a help text lists come from registries and tables, where these are quick to import:
``{corpora}`` is filled in when the help is shown, so that ``elastictool --help`` stays fast.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from elastictool.utils.errors import UsageError, shown


def program(**settings: Any) -> typer.Typer:
    """Returns a program, or a group of commands, whose help is plain text.

    rich's help keeps the line breaks of docstrings and wraps the lines again.
    """
    return typer.Typer(
        **({"cls": Group} | settings),
        no_args_is_help=not settings.get("invoke_without_command"),
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        add_completion=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def _corpora() -> str:
    from elastictool.corpora.base import CORPORA

    return ", ".join(CORPORA)


def _downloads() -> str:
    from elastictool.corpora.base import CORPORA, DownloadableCorpus

    return ", ".join(name for name in CORPORA if isinstance(CORPORA[name], DownloadableCorpus))


def _corpus_choices(choices: str) -> str:
    """Returns ``fsdd: digit, speaker`` and the like: the corpora that have ``choices``."""
    from elastictool.corpora.base import CORPORA

    found = {name: getattr(CORPORA[name], choices) for name in CORPORA}
    return "; ".join(f"{name}: {', '.join(names)}" for name, names in found.items() if names)


def _planners() -> str:
    from elastictool.evaluation.tokens import table_planners

    return ", ".join(table_planners())


def _sizes() -> str:
    from elastictool.config import SIZES

    return ", ".join(SIZES)


def _metrics() -> str:
    from elastictool.metrics.table import METRICS

    return ", ".join(METRICS)


_NAMES: Mapping[str, Callable[[], str]] = {
    "corpora": _corpora,
    "downloads": _downloads,
    "tasks": lambda: _corpus_choices("tasks"),
    "subsets": lambda: _corpus_choices("subsets"),
    "planners": _planners,
    "sizes": _sizes,
    "metrics": _metrics,
}
"""What ``{corpora}`` and the like stand for in a help text."""


class Command(TyperCommand):
    """A command whose help reads like that of other programs."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parses as usual, and refuses numbers that overflow or fill the memory further on."""
        rest = super().parse_args(ctx, args)
        for name, value in ctx.params.items():
            number = isinstance(value, int | float) and name != "seed"
            if number and not abs(value) <= _LARGEST:  # nan and inf neither
                option = name.replace("_", "-")
                raise UsageError(f"--{option} is {shown(value)}", f"it is at most {_LARGEST:,}")
        return rest

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Writes the help of arguments and options."""
        _write_options(self, ctx, formatter)


class Group(TyperGroup):
    """A group of commands whose help reads like that of other programs."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Writes the help of options and commands."""
        _write_options(self, ctx, formatter)
        self.format_commands(ctx, formatter)


_NUMBER = re.compile(r"[-+−]?[0-9.]+\w*")
_LARGEST = 10**9 - 1
_TYPES = {"str": "TEXT", "int": "N", "float": "X", "path": "PATH"}
_TYPE = re.compile(r" <(?:list\[)?(\w+)(?: range)?\]?>")


def _write_options(command: Any, ctx: Any, formatter: Any) -> None:
    """Writes arguments, then options, with short names of types and without obvious ranges."""
    for title, kind in (("Arguments", "argument"), ("Options", "option")):
        parameters = [p for p in command.get_params(ctx) if p.param_type_name == kind]
        records = [parameter.get_help_record(ctx) for parameter in parameters]
        rows = [
            (_placeholder(name, kind), _with_names(re.sub(r"(; )?x>=[01](?=\])", "", text)))
            for name, text in filter(None, records)
        ]
        if rows:
            with formatter.section(title):
                formatter.write_dl(rows)


def _placeholder(name: str, kind: str) -> str:
    """Turns ``--limit <int range>`` into ``--limit N``, ``<onnx|hf>`` into ``[onnx|hf]``."""
    if kind == "argument":
        return _TYPE.sub("", name)
    name = _TYPE.sub(lambda found: f" {_TYPES.get(found[1], 'TEXT')}", name)
    return re.sub(r" <([^<>]*\|[^<>]*)>", r" [\1]", name)


def _with_names(text: str) -> str:
    return re.sub(r"\{(\w+)\}", lambda found: _NAMES[found[1]](), text)


class SettingsCommand(Command):
    """A command with ``--set``, which points from options that are settings to it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Points from ``--epochs 3`` to ``--set train.epochs=3``, then parses as usual."""
        options = {name for parameter in self.params for name in parameter.opts}
        for arg, following in zip(args, [*args, ""][1:], strict=True):
            name, given, value = arg.partition("=")
            if name.startswith("--") and name not in {*options, "--", "--help"}:
                _refuse_setting(name, value if given else following)
        return super().parse_args(ctx, args)


def _refuse_setting(option: str, value: str) -> None:
    """Rejects ``option`` if it is a setting; ``value`` may be another option where it has none."""
    from elastictool.config.words import settings, settings_called

    meant = settings_called(option.removeprefix("--").replace("-", "_"))
    if meant and settings().keys() >= set(meant):  # a section has no value
        value = "VALUE" if not value or value.startswith("--") else value
        ways = " or ".join(f"--set {shlex.quote(f'{name}={value}')}" for name in meant)
        raise UsageError(f"there is no option {option}: it is a setting", ways)


class BareOptionCommand(Command):
    """A command with options that may stand without their value, a number: ``--option [DB]``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Writes a bare ``--option`` as ``--option=on``, then parses as usual."""
        bare = {
            name
            for parameter in self.params
            if (getattr(parameter, "metavar", None) or "").startswith("[")
            for name in parameter.opts
            if name.startswith("-")
        }
        given = [
            f"{arg}=on" if arg in bare and not _NUMBER.fullmatch(following) else arg
            for arg, following in zip(args, [*args, ""][1:], strict=True)
        ]
        return super().parse_args(ctx, given)


class ListCommand(Command):
    """A command whose repeatable options take all values that follow them.

    Positional arguments belong before such an option: what follows it is taken as its values.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Writes ``--option a b`` as ``--option a --option b``, then parses as usual."""
        repeatable = {
            name
            for parameter in self.params
            if getattr(parameter, "multiple", False)
            for name in parameter.opts
        }
        return super().parse_args(ctx, _repeat_options(args, repeatable))


def _repeat_options(args: Sequence[str], repeatable: set[str]) -> list[str]:
    repeated: list[str] = []
    option, expects_value = "", False
    for arg in args:
        if arg.startswith("-") and not expects_value:
            name, separator, _ = arg.partition("=")
            option = name if name in repeatable else ""
            expects_value = bool(option) and not separator
        elif expects_value:
            expects_value = False
        elif option:
            repeated.append(option)
        repeated.append(arg)
    return repeated
