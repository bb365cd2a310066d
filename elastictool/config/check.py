"""Checks values of settings."""

from __future__ import annotations

from elastictool.utils.errors import UsageError


def require(condition: bool, message: str) -> None:
    """Raises ``UsageError`` unless ``condition`` holds.

    ``message`` begins with the key of the setting, by which its description is found.
    """
    if not condition:
        raise UsageError(message)


def within(name: str, value: float, low: float, high: float) -> None:
    """Raises ``UsageError`` unless the setting's value lies in ``low..high``, both included.

    Without an upper end a mistyped number fills the memory or works for days.
    """
    require(low <= value <= high, f"{name} must be in {low:,}..{high:,}")
