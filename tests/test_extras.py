"""Packages that only some commands need: missing, broken, or fine."""

from __future__ import annotations

from pathlib import Path

import pytest

from elastictool.evaluation.bench import hugging_face
from elastictool.utils.errors import ElasticToolError
from elastictool.utils.optional import missing_extra
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
    assert both == 'pip install "elastictool[any]"'


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
    assert f"--no-deps {name}" in hint and "elastictool[" not in hint


def test_bench_reports_whether_to_install_or_to_repair(monkeypatch: pytest.MonkeyPatch) -> None:
    def contend() -> ElasticToolError:
        with pytest.raises(ElasticToolError, match="needs the extra transformers") as caught:
            hugging_face.contender(None, None, training=False)  # type: ignore[arg-type]
        return caught.value

    with monkeypatch.context() as patched:
        hide_module(patched, "transformers")
        assert contend().hint == 'pip install "elastictool[transformers]"'
    monkeypatch.setattr(
        "elastictool.utils.optional.import_failure", lambda module: "ImportError: no such name"
    )
    assert "transformers is installed, but" in contend().hint
    assert "no such name" in contend().hint
