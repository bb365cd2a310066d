"""Counts with nouns; makes texts of files, labels and libraries safe to show.

Escape sequences in a file's name can repaint the screen, fill the clipboard or forge a message;
characters that turn the direction of text, or have no width, make one name look like another.
"""

from __future__ import annotations

import json
import re
from typing import Any

from elastictool.utils.io import readable

_UNPRINTABLE = re.compile(
    "[\0-\x1f\x7f-\x9f"  # control characters, C1 included
    "\u2028\u2029"  # separators of lines and paragraphs
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u206f"  # turn the direction of text
    "\xad\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200d\u2060-\u2065\u3164\ufeff\uffa0"
    "\ufff0-\ufffb\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff]"  # the last three lines: without width or ink
)


def printable(text: str, kept: str = "") -> str:
    r"""Returns ``text`` for people, with what would be obeyed or unseen as ``\x1b`` or ``\u202e``.

    Args:
        text: Any text, also a file's name that is not UTF-8.
        kept: Characters to leave as they are: line breaks of our own.
    """
    return _UNPRINTABLE.sub(
        lambda found: found[0] if found[0] in kept else found[0].encode("unicode_escape").decode(),
        readable(text),
    )


def json_text(document: Any) -> str:
    """Returns ``document`` as indented JSON; it reads back equal and is safe on a terminal."""
    text = json.dumps(document, indent=2, ensure_ascii=False)
    return _UNPRINTABLE.sub(lambda f: "\n" if f[0] == "\n" else json.dumps(f[0])[1:-1], text)


def counted(number: float, what: str) -> str:
    """Returns a number with its noun: ``1 recording``, ``8,035 clips``, ``2 classes``."""
    amount = f"{number:,}" if isinstance(number, int) else f"{number:g}"
    return f"{amount} {what}{'' if number == 1 else 'es' if what.endswith('s') else 's'}"
