"""Shared by ``predict`` and ``embed``: recordings, windows, Ctrl-C and the exit code."""

from __future__ import annotations

import codecs
import difflib
import errno
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from elastictool.audio.losses import loss_notes
from elastictool.cli.console import log
from elastictool.cli.options import WindowOptions
from elastictool.utils.errors import Interrupted, RejectedItemsError, UsageError
from elastictool.utils.io import as_argument
from elastictool.utils.signals import Stopped, StopRequest
from elastictool.utils.text import counted

if TYPE_CHECKING:
    from elastictool.inference.results import Prediction, WindowRule, Windows

T = TypeVar("T")
_LONGEST = 1 << 16
"""Characters of a line in a list; no system has longer paths."""


def window_rule(options: WindowOptions) -> WindowRule:
    """Returns the rule by which recordings are cut."""
    from elastictool.inference.results import WindowRule

    return WindowRule(options.window, options.hop)


def expand_files(files: Sequence[str] | None) -> list[Path]:
    """Returns the files that files, folders, patterns and ``-`` (a list on stdin) stand for."""
    from elastictool.inference.recordings import expand

    return expand(files or [], _listed(sys.stdin.buffer.read()) if "-" in (files or []) else ())


def _listed(content: bytes) -> list[str]:
    """Returns the lines of a list: names as bytes, or UTF-16 as Windows PowerShell writes it."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        try:
            lines = content.decode("utf-16").split("\n")
        except UnicodeDecodeError as error:
            raise UsageError(
                f"the list on stdin is not UTF-8 text ({error.reason})", "write it as UTF-8"
            ) from None
    else:
        lines = os.fsdecode(content.removeprefix(codecs.BOM_UTF8)).split("\n")
    for number, line in enumerate(lines, start=1):
        if len(line) > _LONGEST:
            raise UsageError(
                f"line {number} of the list on stdin is longer than {_LONGEST:,} characters",
                "give one file a line",
            )
    return lines


def split_run(files: list[str] | None, run: str) -> tuple[list[str], str]:
    """Returns recordings and run: the first of ``files`` may be the run."""
    from elastictool.checkpoint.find import is_run

    named = files or []
    return (named[1:], named[0]) if named and not run and is_run(named[0]) else (named, run)


def collect(results: Callable[[StopRequest], Iterator[T]]) -> tuple[list[T], bool]:
    """Returns all results, or those before the user's interrupt, and whether there was one."""
    found: list[T] = []
    with StopRequest() as stop:
        try:
            for item in results(stop):
                found.append(item)
        except Stopped:
            return found, True
    return found, False


def finish(found: Sequence[Prediction] | Sequence[Windows], total: int, stopped: bool) -> None:
    """Notes what could not be read, in part or at all, and ends with the matching exit code.

    Args:
        found: Results of the recordings so far.
        total: Number of recordings that were named.
        stopped: The user interrupted.

    Raises:
        Interrupted: The user did.
        RejectedItemsError: A recording could not be read.
    """
    for note in loss_notes(((item.name, item.losses) for item in found), shown=20):
        log(f"note: {note}")
    failures = [item for item in found if item.error]
    for item in failures:
        log(f"left out: {item.error}")
    if stopped:
        raise Interrupted(
            f"stopped after {len(found):,} of {counted(total, 'recording')}; "
            "their results are written",
            "name the others to do them too" if found else "the same command does them all",
        )
    if failures:
        others = "; the others are done" if len(failures) < total else ""
        raise RejectedItemsError(
            f"{len(failures)} of {counted(total, 'recording')} could not be used{others}",
            _advice({item.name: item.error for item in failures}),
        )


def _advice(failures: Mapping[str, str]) -> str:
    """Returns what to do about recordings, by their reasons; a missing one comes first."""
    absent = os.strerror(errno.ENOENT)
    missing = next((Path(name) for name, reason in failures.items() if absent in reason), None)
    if missing is None:
        return "convert them, e.g. with ffmpeg -i FILE new.wav, or leave them out"
    names: list[str] = []
    with suppress(OSError):
        names = os.listdir(missing.parent)
    if near := difflib.get_close_matches(missing.name, names, n=1, cutoff=0.75):
        return f"did you mean {as_argument(missing.with_name(near[0]))}?"
    there = "" if names else f", or whether there is a folder {missing.parent}"
    return f"check the path{there}; a folder or a quoted pattern stands for all its recordings"
