"""Write ``docs/settings.md`` from the configuration classes."""

from __future__ import annotations

from pathlib import Path

from elastictool.files import write_text
from elastictool.reporting.settings import settings_page

write_text(Path(__file__).resolve().parents[1] / "docs" / "settings.md", settings_page())
