"""Every block of docs/python.md runs as it stands, one after the other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from elastictool.data.store import PreparedStore
from tests.helpers.saved_runs import save_run

PAGE = Path(__file__).parents[1] / "docs" / "python.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.M | re.S)


def write_sounds(folder: Path) -> None:
    """Two classes of short tones at two rates, and the recordings that the page names."""
    for number, (name, pitch_hz) in enumerate((("low", 300.0), ("high", 2_000.0))):
        (folder / "sounds" / name).mkdir(parents=True)
        for clip in range(6):
            rate = (16_000, 22_050)[clip % 2]
            time_s = np.arange(int(rate * (0.3 + 0.1 * clip))) / rate
            tone = 0.3 * np.sin(2 * np.pi * pitch_hz * time_s + number)
            soundfile.write(folder / "sounds" / name / f"{clip}.wav", tone, rate)
    for name, seconds in (("a.wav", 1), ("b.flac", 2), ("long.wav", 5)):
        noise = np.random.default_rng(seconds).normal(0, 0.1, seconds * 16_000)
        soundfile.write(folder / name, noise, 16_000)


def test_every_block_of_the_page_runs(
    toy_store: PreparedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_sounds(tmp_path)
    save_run(tmp_path / "runs" / "my-run", toy_store, max_frames=300)
    torch.manual_seed(0)
    names: dict[str, Any] = {}
    for number, block in enumerate(BLOCKS):
        exec(compile(block, f"docs/python.md, block {number + 1}", "exec"), names)
    assert names["normalised"].shape == (98, 128)
    assert names["fine"].shape == (196, 128)
    assert [len(part) for part in names["by_clip"]] == list(names["batch"].layout.lengths)
    torch.testing.assert_close(names["logits"], names["model"](names["batch"]))
    torch.testing.assert_close(
        2 * 4.5689974 * names["normalised"] - 4.2677393, names["log_mel"], rtol=0, atol=1e-4
    )


def test_the_loop_is_short_and_needs_no_deep_imports() -> None:
    loop = [line for line in BLOCKS[0].splitlines() if line.strip()]
    assert len(loop) < 30
    assert not [line for block in BLOCKS for line in block.splitlines() if "elastictool." in line]
