"""The errors that a user can cause, each with what, where and what to do.

The command line shows ``message`` and ``hint`` and leaves with ``exit_code``; any other
exception is a bug of ours and keeps its traceback.
"""

from __future__ import annotations


class ElasticToolError(Exception):
    """Base class: something outside the program is wrong and the user can mend it.

    Args:
        message: What is wrong and where, in one sentence.
        hint: What to do about it; may be empty.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(ElasticToolError):
    """A wrong option, configuration key or value, or a missing input."""

    exit_code = 2


class RejectedItemsError(ElasticToolError):
    """The work was done, but more items were rejected than allowed."""

    exit_code = 3


class CheckpointError(ElasticToolError):
    """A checkpoint is unreadable or does not fit the model, data or run."""

    exit_code = 4


class Interrupted(ElasticToolError):
    """The user stopped the program (Ctrl-C, SIGTERM) and the work so far is saved."""

    exit_code = 130


class AudioError(ElasticToolError):
    """An audio file that cannot be used; ``message`` says why. ``prep`` records it and goes on."""
