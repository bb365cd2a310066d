"""Help the generators of pages: folders, the format of summaries, replacing marked text."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from elastictool.reporting.figures import styled
from elastictool.utils.io import atomic_path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results"
DPI, COLOURS = 110, 64
"""Resolution and number of colours of the figures below ``docs``."""


def dump_summary(document: dict[str, Any]) -> str:
    """Return JSON with one line for each entry of the lists and objects at the top."""
    parts = []
    for key, value in document.items():
        lines: list[str] = []
        if isinstance(value, list) and value and isinstance(value[0], dict):
            lines, ends = [_dumps(entry) for entry in value], "[]"
        elif isinstance(value, dict) and any(isinstance(entry, dict) for entry in value.values()):
            lines, ends = [f"{_dumps(k)}: {_dumps(entry)}" for k, entry in value.items()], "{}"
        text = (
            f"{ends[0]}\n  {(',' + chr(10) + '  ').join(lines)}\n {ends[1]}"
            if lines
            else _dumps(value)
        )
        parts.append(f" {_dumps(key)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def save_png(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG of few colours, a third of the size of the usual one.

    Raises:
        ElasticToolError: The file cannot be written.
    """
    buffer = io.BytesIO()
    with styled():
        figure.savefig(buffer, format="png", dpi=DPI)
    image = Image.open(buffer).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    with atomic_path(path) as temporary:
        image.save(temporary, format="PNG", optimize=True)


def fill(text: str, name: str, content: str) -> str:
    """Replace the text between the markers of ``name``.

    Raises:
        ValueError: The text has no such markers.
    """
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"no markers for {name}")
    return pattern.sub(lambda match: match[1] + content + match[2], text)


def made_by(document: dict[str, Any]) -> str:
    """Return the command, date, machine."""
    env = document["environment"]
    device = env["gpu"] if env.get("gpu") else env["cpu"]
    return (
        f"\n`{document['command']}`, {env['date']}, torch {env.get('torch', '–')}, {device}, load "
        f"average {env['load_average']} on {env['cores']} cores.\n"
    )
