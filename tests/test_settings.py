"""The page of settings: every key, and in step with the configuration."""

from __future__ import annotations

from pathlib import Path

import yaml

from elastictool.checkpoint.weights import weight_formats
from elastictool.cli.train import known_parts
from elastictool.config import COMPILED_MULTIPLE, PATCH_SIZES, SIZES, RunConfig
from elastictool.config.augment import FINEST_COMPRESSION
from elastictool.config.coerce import to_dict
from elastictool.config.comments import commented_yaml
from elastictool.config.loader import run_config
from elastictool.config.words import sections, settings
from elastictool.models.attention.base import ATTENTION
from elastictool.packing.stream import known_planners
from scripts.settings import settings_page

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


def test_every_setting_and_section_is_described_in_words() -> None:
    described = settings()
    assert set(leaves(to_dict(RunConfig()))) == described.keys() - {"model.size"}
    for name, text in described.items():
        assert len(text.split()) > 3 and text.endswith("."), name
    for path, cls in sections():
        assert cls.__doc__ and not cls.__doc__.startswith(cls.__name__), path


def test_names_of_choices_are_on_the_page_and_in_the_comments() -> None:
    names = {"packing.planner": known_planners(), "train.attention": list(ATTENTION)}
    names |= {"init.from": weight_formats(), "model.size": list(SIZES)}
    comments = commented_yaml(RunConfig(), known_parts())
    for setting, known in names.items():
        row = f"| `{setting.rpartition('.')[2]}` |"
        (line,) = [line for line in settings_page().splitlines() if line.startswith(row)]
        assert all(f"`{name}`" in line for name in known), setting
        if setting != "model.size":
            assert ", ".join(known) in " ".join(comments.replace("#", " ").split()), setting


def test_words_do_not_drift_from_the_numbers_that_they_name() -> None:
    described = settings()
    assert f"0 is {COMPILED_MULTIPLE} with" in described["packing.pad_to_multiple_of"]
    assert ", ".join(map(str, PATCH_SIZES)) in described["flexi.sizes"]
    assert f"each {FINEST_COMPRESSION} or above" in described["augment.resolution.compressions"]
    assert "COMPILED_MULTIPLE" not in settings_page()


def test_settings_with_their_meaning_are_the_same_settings() -> None:
    config = run_config({"model": {"preset": "flexiast", "size": "tiny"}, "seed": 3})
    text = commented_yaml(config, known_parts())
    assert run_config(yaml.safe_load(text)) == config
    assert "\n# Which prepared clips train, validate and test.\n" in text
    assert "\n  # Passes over the training clips.\n  epochs: 10\n" in text
    assert text.count("# ") > 150
