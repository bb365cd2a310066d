"""Run on a device without values, whose tensors the host must not mix with its own.

What a CUDA device does only slowly (the host waits for a value) or not at all (an index on the
host for a tensor on the device) is an error here, on any machine; see
``tests/helpers/fake_device.py``.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch.utils.backend_registration as registration

from tests.helpers.small_models import MODELS

STEPS = [
    f"{kind}/{backend}/{precision}"
    for kind in MODELS
    for backend in ("split", "reference", "varlen")
    for precision in ("fp32", "bf16")
]
FEATURES = ["features/kaldi", "features/kaldi-7.3", "features/epic"]


@pytest.fixture(scope="module")
def outcomes() -> dict[str, str]:
    """The error of each case, empty where there was none."""
    if not hasattr(registration, "_setup_privateuseone_for_python_backend"):
        pytest.skip("this torch cannot register a device written in Python")
    done = subprocess.run(
        [sys.executable, "-m", "tests.helpers.fake_device"],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("case", [*STEPS, *FEATURES, "block mask"])
def test_neither_asks_the_device_for_a_value_nor_mixes_it_with_the_host(
    outcomes: dict[str, str], case: str
) -> None:
    assert not outcomes[case], outcomes[case]


@pytest.mark.parametrize(
    "mistake, error",
    [
        ("reads_a_value", "DataDependentOutputException"),
        ("indexes_from_the_host", "on the same device"),
    ],
)
def test_would_notice_a_mistake(outcomes: dict[str, str], mistake: str, error: str) -> None:
    assert error in outcomes[mistake]
