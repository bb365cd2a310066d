"""Command lines, run in the process of the tests."""

from __future__ import annotations

import signal
import sys

import pytest

from elastictool.cli import app


def run_command(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Return the exit code of ``elastictool`` with ``arguments``."""
    monkeypatch.setattr(sys, "argv", ["elastictool", *map(str, arguments)])
    before = signal.getsignal(signal.SIGPIPE)
    try:
        app.main()
    except SystemExit as left:
        return int(left.code or 0)
    finally:
        signal.signal(signal.SIGPIPE, before)
    return 0
