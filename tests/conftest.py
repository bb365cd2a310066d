"""Fixtures of several tests: the small real data, and one prepared dataset."""

from __future__ import annotations

from pathlib import Path

import hypothesis
import pytest

from elastictool.data.store import PreparedStore
from tests.helpers.toy_data import toy_store as make_toy_store

# On a busy machine one example may take seconds: that is no failure.
hypothesis.settings.register_profile("any-speed", deadline=None)
hypothesis.settings.load_profile("any-speed")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of small real recordings beside the project; tests skip where it is absent."""
    path = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not path.is_dir():
        pytest.skip("the small real data are not beside the project")
    return path


@pytest.fixture(scope="session")
def toy_store(tmp_path_factory: pytest.TempPathFactory) -> PreparedStore:
    """Three clear classes of short clips with train, val and test splits."""
    return make_toy_store(tmp_path_factory.mktemp("toy"))
