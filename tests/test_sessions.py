"""Random splits warn where names of files or folders look like recording sessions."""

from __future__ import annotations

from pathlib import Path

import pytest

from elastictool.config import DataConfig
from elastictool.corpora.base import CORPORA, CorpusOptions, SourceClip
from elastictool.corpora.sessions import session_warnings
from elastictool.data.options import PrepOptions
from elastictool.data.prepare import prepare
from elastictool.data.splits import select_clips, validation_warnings
from tests.helpers.corpus_trees import write_audio, write_table

SPLITS = ("train", "train", "val", "test")
SESSIONS = {
    "numbered takes": [
        f"{label}/rec{r:02}_{i}.wav" for label in "ab" for r in range(3) for i in "123"
    ],
    "days": [f"{label}/2024-05-0{d}T1{i}.wav" for label in "ab" for d in range(3) for i in "123"],
    "takes with letters": [f"x/site{r}-{i}.wav" for r in range(4) for i in "abc"],
    "UrbanSound8K": [f"f/{source}-3-0-{i}.wav" for source in (101, 102, 103) for i in range(4)],
    "two days of both": [f"{label}/day{d}_{i}.wav" for label in "ab" for d in "12" for i in "123"],
    "speakers": [f"{d}_{who}_{i}.wav" for d in "01" for who in ("ann", "bob") for i in range(4)],
    "folders": [f"{label}/room{r}/{i}.wav" for label in "ab" for r in range(2) for i in range(4)],
}
OTHERS = {
    "numbers": [f"{label}/{i}.wav" for label in "ab" for i in range(8)],
    "class and number": [f"dogs/{label}_{i}.wav" for label in "ab" for i in range(8)],
    "one beginning": [f"{label}/clip_{i}.wav" for label in "ab" for i in range(8)],
    "hashes": [f"{label}/{i * 7919:x}a{i * 104729:x}.wav" for label in "ab" for i in range(1, 9)],
    "distinct": [f"{label}/{i}_take_1.wav" for label in "ab" for i in "cdefghij"],
}


def clips_of(paths: list[str], group: str = "") -> list[SourceClip]:
    """Clips in alternating splits; the first letter is the label, but of one-folder data."""
    labels = [path.rpartition("/")[2][0] if path[1:2] != "/" else path[0] for path in paths]
    return [
        SourceClip(path, path, None, None, (label,), SPLITS[i % 4], group=group)
        for i, (path, label) in enumerate(zip(paths, labels, strict=True))
    ]


@pytest.mark.parametrize("kind", SESSIONS)
def test_names_that_look_like_sessions_are_noted(kind: str) -> None:
    (warning,) = session_warnings(clips_of(SESSIONS[kind]))
    assert "look like recording sessions" in warning and "--group-column" in warning
    assert session_warnings(clips_of(SESSIONS[kind], group="g")) == []
    together = [clip._replace(split="train") for clip in clips_of(SESSIONS[kind])]
    assert session_warnings(together) == []


@pytest.mark.parametrize("kind", OTHERS)
def test_other_names_are_not(kind: str) -> None:
    assert session_warnings(clips_of(OTHERS[kind])) == []


def test_drawn_splits_of_folders_and_tables_warn(tmp_path: Path) -> None:
    rows = [("path", "label", "split", "who")]
    for path in SESSIONS["folders"]:
        write_audio(tmp_path / path, 0.2)
        rows.append((path, path[0], "train", path.rpartition("/")[0]))
    options = CorpusOptions()
    warnings = CORPORA["folder"].list_clips(tmp_path, options).warnings
    assert any("4 folders that look like recording sessions" in warning for warning in warnings)
    for columns, warned in (((0, 1), True), ((0, 1, 2), False)):
        table = write_table(tmp_path / "t.csv", [tuple(row[i] for i in columns) for row in rows])
        found = CORPORA["csv"].list_clips(table, options).warnings
        assert any("sessions" in warning for warning in found) == warned


@pytest.mark.parametrize(("grouped", "fraction"), [(False, 0.3), (True, 0.3), (False, 0.0)])
def test_drawn_validation_clips_warn_too(grouped: bool, fraction: float, tmp_path: Path) -> None:
    rows = [("path", "label", "split", "group")]
    for path in SESSIONS["numbered takes"]:
        write_audio(tmp_path / path, 0.2)
        rows.append((path, path[0], "train", path[:7] if grouped else ""))
    table = write_table(tmp_path / "t.csv", rows)
    store = prepare(PrepOptions("csv", table, tmp_path / "data"))
    config = DataConfig(validation_fraction=fraction)
    found = validation_warnings(store, config, select_clips(store, config, seed=0))
    assert len(found) == (not grouped and fraction > 0)
