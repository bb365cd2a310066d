"""Checks values of settings."""

from __future__ import annotations

from elastictool.utils.errors import UsageError


def require(condition: bool, message: str) -> None:
    """Raises ``UsageError`` unless ``condition`` holds.

    ``message`` begins with the key of the setting, by which its description is found.
    """
    if not condition:
        raise UsageError(message)
