"""Defines the errors that a user can cause; each states what, where and what to do.

The command line shows ``message`` and ``hint`` and leaves with ``exit_code``; any other
exception is a bug and keeps its traceback.
"""

from __future__ import annotations

import errno
import re


class ElasticToolError(Exception):
    """Base class: something outside the program is wrong, and the user can correct it.

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
    """The user stopped the program (Ctrl-C, SIGTERM): what is saved, and how to continue."""

    exit_code = 130


class WriteError(ElasticToolError):
    """A file cannot be written: full disk, quota, limits, rights. What was there before stays."""


class RunRemovedError(ElasticToolError):
    """The run directory was moved or deleted during training."""


class DamagedDataError(ElasticToolError):
    """Prepared data that were sound when they were written cannot be read any more."""


class LoaderError(ElasticToolError):
    """A loader process ended before its work."""


class ProcessLostError(ElasticToolError):
    """Another process of the same run has ended or no longer responds."""


class OutOfMemory(ElasticToolError):
    """Main or GPU memory ran out; the hint names settings that need less."""


class AudioError(ElasticToolError):
    """An audio file that cannot be used; ``message`` has the reason, and ``prep`` records it."""


_NO_MEMORY = re.compile(
    "out of memory|(can't|cannot) allocate memory|not enough memory|bad_alloc|unable to mmap|"
    "failed to map segment|can't start new thread|"
    "could not (create|execute) a primitive(?! desc)|could not create a memory|"  # of oneDNN
    "ALLOC_FAILED",  # of cuBLAS, cuDNN and cuFFT, for memory outside torch's allocator
    re.IGNORECASE,
)
_LACK = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
_DISK_HINTS = {
    errno.ENOSPC: "the disk is full: make room",
    errno.EDQUOT: "your quota on this disk is used up: make room",
    errno.EFBIG: "files may not grow that large here (ulimit -f, or the file system): raise it",
    errno.EROFS: "this disk can only be read: choose another place",
}
_RIGHTS = (errno.EACCES, errno.EPERM)
_OTHER_NAME = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EINVAL)


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether Python, numpy, Arrow, torch's allocators or CUDA report that memory ran out.

    Torch has a type for CUDA only; its CPU allocator raises a RuntimeError, recognised by its text.
    """
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    known = isinstance(error, (RuntimeError, ImportError)) and _NO_MEMORY.search(str(error))
    return isinstance(error, MemoryError) or bool(known)


def is_lack(error: OSError) -> bool:
    """Returns whether the process may open no more files, or has no more memory.

    Such an error says nothing about the file that was asked for.
    """
    return error.errno in _LACK


def write_error(path: object, error: OSError) -> WriteError:
    """Returns the error for a ``path`` that could not be written."""
    hint = _DISK_HINTS.get(error.errno or 0, "check the free space and the rights of the folder")
    if error.errno in _RIGHTS:
        hint = "you have no right to write there: change it, or choose another place"
    elif error.errno in _OTHER_NAME:
        hint = "choose another name"
    found = WriteError(f"cannot write {_short(path)}: {error.strerror or error}", hint)
    if error.errno == errno.ENAMETOOLONG:
        found.exit_code = UsageError.exit_code
    return found


def from_system(error: Exception) -> ElasticToolError | None:
    """Returns an error of memory or disk as one for the user; None for other errors."""
    if is_out_of_memory(error):
        return OutOfMemory(
            f"out of memory: {first_line(error)}",
            "close other programs, or give the job less to hold at once (fewer --workers, "
            "shorter clips, smaller batches)",
        )
    if not isinstance(error, OSError):
        return None
    name, reason = _short(error.filename or "a file"), error.strerror or str(error)
    if is_lack(error):
        return ElasticToolError(
            f"cannot open {name}: {reason}",
            "close other programs, use fewer --workers, or raise the limit (ulimit -n)",
        )
    if error.errno in _DISK_HINTS:
        return write_error(error.filename or "the output", error)
    if error.errno in _RIGHTS:
        return ElasticToolError(
            f"cannot use {name}: {reason}", "change the rights of it, or of the folders above it"
        )
    if error.errno in (errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR):
        return UsageError(f"cannot use {name}: {reason}", "give another path")
    return None


def _short(name: object) -> str:
    """Returns a path without the middle of one that is too long for any disk."""
    text = str(name)
    return text if len(text) <= 300 else f"{text[:120]} … {text[-40:]}"


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's text, or its type if it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def shown(value: object) -> str:
    """Returns a value of a user for a message: its ``repr``, without the middle of a long one."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # ValueError: an integer of thousands of digits
        return f"a huge {type(value).__name__}"
    return text if len(text) <= 160 else f"{text[:80]} … {text[-20:]}"
