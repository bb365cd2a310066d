"""JSON files that stand beside weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from elastictool.utils.errors import CheckpointError


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object in ``file``; empty where there is no such file.

    Raises:
        CheckpointError: It is no JSON, or no object.
    """
    if not file.is_file():
        return {}
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(document, dict):
        raise CheckpointError(f"{file} must hold a JSON object")
    return document
