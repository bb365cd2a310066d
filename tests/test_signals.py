"""Ctrl-C and other signals: the first saves the work, the second ends it, none is lost."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import soundfile

from elastictool.audio.decode import encode
from elastictool.cli.console import print_error
from elastictool.utils.errors import Interrupted
from elastictool.utils.signals import (
    Stopped,
    StopRequest,
    leave_to_parent,
    signals_interrupt,
    stoppable,
)

PATIENT = (signal.SIGHUP, signal.SIGUSR1)
RATE_HZ = 16_000


@pytest.fixture
def as_before() -> Iterator[None]:
    """Puts back the handlers that a test has changed."""
    numbers = (signal.SIGINT, signal.SIGTERM, *PATIENT)
    former = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in former.items():
        signal.signal(number, handler)


class Ringing(io.BytesIO):
    """A file during whose first reading the user presses Ctrl-C."""

    def readinto(self, buffer: Any) -> int:
        self.readinto = super().readinto  # type: ignore[method-assign]
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("not interrupted")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_inside_libsndfile_is_not_reported_as_a_damaged_recording() -> None:
    """An exception in its callbacks is printed and lost; what follows is an error of its own."""
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 32_000).astype(np.float32)
    file = Ringing(encode(noise, 16_000, "flac"))
    with pytest.raises(KeyboardInterrupt), signals_interrupt():
        soundfile.read(file)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, *PATIENT])
def test_the_first_signal_of_each_kind_is_a_request(number: signal.Signals) -> None:
    with StopRequest() as stop:
        stop.check()
        signal.raise_signal(number)
        with pytest.raises(Stopped):
            stop.check()


@pytest.mark.parametrize("number", PATIENT)
def test_sighup_and_sigusr1_never_end_at_once(number: signal.Signals) -> None:
    with StopRequest() as stop:
        for _ in range(3):
            signal.raise_signal(number)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)


def test_what_nohup_ignores_stays_ignored(as_before: None) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with signals_interrupt(), StopRequest() as stop:
        signal.raise_signal(signal.SIGHUP)
        stop.check()
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_workers_ignore_signals_to_the_whole_group(as_before: None) -> None:
    leave_to_parent()
    for number in (signal.SIGINT, *PATIENT):
        signal.raise_signal(number)


@pytest.mark.parametrize("times", [1, 2])
def test_a_stopped_block_reports_what_was_done(times: int) -> None:
    block = stoppable("half is done", "the same command continues")
    with pytest.raises(Interrupted, match="half is done") as caught, block as stop:
        for _ in range(times):
            signal.raise_signal(signal.SIGINT)
        stop.check()
    assert caught.value.hint == "the same command continues"


def test_an_interrupt_is_shown_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_error(Interrupted("half is done", "the same command continues"))
    assert capsys.readouterr().err == "interrupted: half is done; the same command continues\n"


def test_a_closed_terminal_does_not_end_saving(as_before: None) -> None:
    reader, writer = os.openpty()
    os.close(reader)  # the terminal is closed
    with pytest.raises(OSError):
        os.write(writer, b"lost")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.dup2(writer, 1)
            os.dup2(writer, 2)
            with StopRequest() as stop:
                signal.raise_signal(signal.SIGHUP)
                os.write(1, b"saving\n")
                code = 0 if stop.requested else 2
        finally:
            os._exit(code)
    os.close(writer)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
