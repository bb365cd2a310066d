"""Check what triton needs at run time to compile code for CUDA."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys

COMPILERS = ("gcc", "clang")
"""What triton looks for where the variable CC is not set. Source: its ``runtime/build.py``."""


def missing_for_triton() -> str:
    """Return what is missing; empty if nothing is."""
    if importlib.util.find_spec("triton") is None:
        return "it needs triton"
    # Triton compiles the code that starts its kernels; on Windows it brings a compiler along.
    named = os.environ.get("CC")
    if sys.platform == "win32" or any(map(shutil.which, COMPILERS if named is None else (named,))):
        return ""
    if named is not None:
        return f"it needs a C compiler, and {named!r} (the variable CC) is not there"
    return "it needs a C compiler (gcc, clang, or one named in the variable CC)"
