"""Checks of the values of settings."""

from __future__ import annotations

from elastictool.utils.errors import UsageError


def require(condition: bool, message: str) -> None:
    """Refuse a value unless ``condition`` holds.

    Args:
        condition: What must be true.
        message: Begins with the key of the setting, by which its description is found.

    Raises:
        UsageError: It does not hold.
    """
    if not condition:
        raise UsageError(message)
