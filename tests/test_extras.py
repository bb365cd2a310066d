"""Packages that only some commands need: missing, broken, or fine."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import elastictool
from elastictool.evaluation.bench import hugging_face
from elastictool.utils.errors import ElasticToolError
from elastictool.utils.optional import install_command, missing_extra
from tests.helpers.toy_data import hide_module


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder from which Python imports."""
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_a_package_that_works_lacks_nothing_and_a_missing_one_is_to_be_installed(
    packages: Path,
) -> None:
    (packages / "works_fine.py").write_text("")
    assert missing_extra("any", "works_fine") == ""
    both = missing_extra("any", "works_fine", "not_there_at_all")
    assert both == install_command("any")


@pytest.mark.parametrize(
    ("place", "editable", "expected"),
    [
        ("clone", False, 'pip install ".[onnx]"'),
        ("clone", True, 'pip install -e ".[onnx]"'),
        ("elsewhere", False, 'pip install "{clone}[onnx]"'),
        ("elsewhere", True, 'pip install -e "{clone}[onnx]"'),
        ("site-packages", False, 'pip install "elastictool[onnx]"'),
    ],
)
def test_an_extra_is_installed_from_where_the_user_is(
    place: str, editable: bool, expected: str, tmp_path: Path
) -> None:
    home = tmp_path / ("site-packages" if place == "site-packages" else "a clone")
    shutil.copytree(Path(elastictool.__file__).parent / "utils", home / "elastictool" / "utils")
    (home / "elastictool" / "__init__.py").touch()
    if place != "site-packages":
        (home / "pyproject.toml").touch()
    facts = home / "elastictool-0.1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: elastictool\nVersion: 0.1.0\n")
    origin = {"url": home.as_uri(), "dir_info": {"editable": editable}}
    (facts / "direct_url.json").write_text(json.dumps(origin))
    script = "from elastictool.utils.optional import install_command as c; print(c('onnx'))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=home if place == "clone" else tmp_path,
        env=os.environ | {"PYTHONPATH": str(home)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == expected.format(clone=home) + "\n"


def test_a_clone_that_is_not_installed_is_installed_from_its_folder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def absent(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.distribution", absent)
    monkeypatch.chdir(Path(elastictool.__file__).parents[1])
    assert install_command("onnx") == 'pip install ".[onnx]"'


@pytest.mark.parametrize("fault", ["import nowhere_to_be_found", "raise OSError('libx.so: bad')"])
def test_a_package_that_is_there_and_fails_is_named_with_its_error(
    packages: Path, fault: str, request: pytest.FixtureRequest
) -> None:
    name = f"fails_{abs(hash(fault))}"
    (packages / name).mkdir()
    (packages / name / "__init__.py").write_text("")
    (packages / name / "part.py").write_text(fault)
    hint = missing_extra("any", f"{name}.part")
    assert f"{name} is installed, but {name}.part cannot be imported" in hint
    assert ("nowhere_to_be_found" in hint) or ("OSError: libx.so: bad" in hint)
    assert f"--no-deps {name}" in hint and "[any]" not in hint


def test_bench_reports_whether_to_install_or_to_repair(monkeypatch: pytest.MonkeyPatch) -> None:
    def contend() -> ElasticToolError:
        with pytest.raises(ElasticToolError, match="needs the extra transformers") as caught:
            hugging_face.contender(None, None, training=False)  # type: ignore[arg-type]
        return caught.value

    with monkeypatch.context() as patched:
        hide_module(patched, "transformers")
        assert contend().hint == install_command("transformers")
    monkeypatch.setattr(
        "elastictool.utils.optional.import_failure", lambda module: "ImportError: no such name"
    )
    assert "transformers is installed, but" in contend().hint
    assert "no such name" in contend().hint
