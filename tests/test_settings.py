"""The page of settings: every key, and in step with the configuration."""

from __future__ import annotations

from pathlib import Path

import yaml

from elastictool.config import RunConfig
from elastictool.reporting.settings import commented_yaml, settings_page
from elastictool.settings import run_config, to_dict

ROOT = Path(__file__).parents[1]


def leaves(values: object, path: str = "") -> list[str]:
    if not isinstance(values, dict):
        return [path]
    below = [(f"{path}.{key}" if path else key, value) for key, value in values.items()]
    return [leaf for key, value in below for leaf in leaves(value, key)]


def test_the_page_in_the_docs_is_the_one_that_is_made() -> None:
    assert (ROOT / "docs" / "settings.md").read_text("utf-8") == settings_page()


def test_every_setting_stands_under_its_section() -> None:
    sections = {part.split("`")[1]: part for part in settings_page().split("\n## ")[2:]}
    for leaf in leaves(to_dict(RunConfig())):
        section, _, key = leaf.rpartition(".")
        assert not section or f"| `{key}` |" in sections[section], leaf


def test_settings_with_their_meaning_are_the_same_settings() -> None:
    config = run_config({"model": {"preset": "flexiast", "size": "tiny"}, "seed": 3})
    text = commented_yaml(config)
    assert run_config(yaml.safe_load(text)) == config
    assert "\n# Which prepared clips train, validate and test.\n" in text
    assert text.count("# ") > 50
