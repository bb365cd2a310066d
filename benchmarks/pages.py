"""What the generated pages share: where they and their results lie, and how a text is put in."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results"


def fill(text: str, name: str, content: str) -> str:
    """Replace what stands between the markers of ``name``.

    Raises:
        ValueError: The text has no such markers.
    """
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"no markers for {name}")
    return pattern.sub(lambda match: match[1] + content + match[2], text)


def made_by(document: dict[str, Any]) -> str:
    """Command, date, machine."""
    env = document["environment"]
    place = env["gpu"] if env.get("gpu") else env["cpu"]
    return (
        f"\n`{document['command']}`, {env['date']}, torch {env.get('torch', '–')}, {place}, load "
        f"average {env['load_average']} on {env['cores']} cores.\n"
    )
