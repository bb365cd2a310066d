"""Write ``docs/settings.md`` from the configuration classes."""

from __future__ import annotations

from pathlib import Path

from elastictool.reporting.settings import settings_page
from elastictool.utils.io import write_text

write_text(Path(__file__).resolve().parents[1] / "docs" / "settings.md", settings_page())
