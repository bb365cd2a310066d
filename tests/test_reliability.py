"""The measurements of reliability notice what goes wrong, and the page is made from them alone."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from benchmarks.reliability import leakage, page, readers
from benchmarks.reliability.child import fresh, run
from benchmarks.reliability.faults import DONE, FAULTS, outcome
from benchmarks.reliability.mutate import Damaged
from benchmarks.reliability.readers import READERS, Material, check_list, judged
from benchmarks.reliability.soak import Sample, summary
from elastictool.models.attention.base import ATTENTION, AttentionBackend


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    return Material.make(tmp_path_factory.mktemp("material") / "it")


def test_the_page_is_up_to_date() -> None:
    text = page.PAGE.read_text("utf-8")
    assert text == page.page(), "run: python -m benchmarks.reliability page"


# Outcomes


def leave_a_child() -> None:
    if os.fork() == 0:
        time.sleep(60)


def refuse() -> None:
    print("cannot be read", file=sys.stderr)
    sys.exit(2)


def take_memory() -> None:
    taken = bytearray(b"x") * (80 << 20)
    time.sleep(1)  # memory is sampled some times a second
    print(len(taken))


@pytest.mark.parametrize(
    ("work", "expected"),
    [
        (lambda: None, readers.READ),
        (refuse, readers.REFUSED),
        (lambda: int("x"), readers.TRACEBACK),
        (partial(os._exit, 2), readers.TRACEBACK),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), readers.TRACEBACK),
        (lambda: time.sleep(60), readers.HANG),
        (leave_a_child, readers.HANG),
        (take_memory, readers.MEMORY),
    ],
)
def test_each_outcome_of_a_command_is_noticed(
    work: Callable[[], object], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "LIMIT_MB", 50.0)
    monkeypatch.setattr("benchmarks.reliability.child.GRACE_S", 0.2)
    limit_s = 0.5 if expected == readers.HANG else 20
    assert judged(run(lambda: work() and None, tmp_path, limit_s=limit_s)).outcome == expected


def test_lost_audio_rows_and_members_are_noticed(material: Material, tmp_path: Path) -> None:
    wav = READERS["wav"]
    half = Damaged(wav.samples(material)[0], "joined", audio=2.0)
    (found,) = wav.check([half], material, fresh(tmp_path / "a"))
    assert found.outcome == readers.LOST and found.output.startswith("2.00 of 4.00 s")
    csv = Damaged(READERS["csv"].samples(material)[0], "")
    more = partial(check_list, corpus="csv", suffix="csv", rows_of=lambda data: 99)
    (found,) = more([csv], material, fresh(tmp_path / "b"))
    assert found.outcome == readers.LOST and found.output.startswith("6 of 99 rows")
    archive = READERS["zip"]
    packed = Damaged(archive.samples(material)[0], "")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(readers.MEMBERS, "another", b"")
        (found,) = archive.check([packed], material, fresh(tmp_path / "c"))
    assert found.outcome == readers.LOST


def whole_inputs_are_read(name: str, material: Material, folder: Path) -> None:
    for sample in READERS[name].samples(material):
        (found,) = READERS[name].check([Damaged(sample, "", 1.0)], material, fresh(folder))
        assert found.outcome == readers.READ, found.output


@pytest.mark.parametrize("name", ["zip", "tar.gz", "dataset.json"])
def test_whole_inputs_are_read(name: str, material: Material, tmp_path: Path) -> None:
    whole_inputs_are_read(name, material, tmp_path / "it")


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_whole_inputs_of_every_reader_are_read(
    name: str, material: Material, tmp_path: Path
) -> None:
    whole_inputs_are_read(name, material, tmp_path / "it")


@pytest.mark.parametrize("name", READERS)
def test_a_seed_draws_the_same_damage(name: str, material: Material) -> None:
    reader = READERS[name]
    samples = reader.samples(material)

    def drawn(seed: int) -> list[bytes]:
        return [reader.damaged(samples, np.random.default_rng([seed, n])).data for n in range(20)]

    first = drawn(0)
    assert first == drawn(0) and first != drawn(1)
    assert len({*first, *samples}) > 10


def test_faults_are_injected_and_gone_afterwards(material: Material, tmp_path: Path) -> None:
    pipe = next(fault for fault in FAULTS if "pipe on stdout" in fault.name)
    for command in ("tokens", "data verify"):
        found, why = outcome(pipe, command, material, tmp_path / "work")
        assert found == DONE or not why
    assert (material.folder / "run" / "config.yaml").is_file()


# Leakage and memory


class Mixing(AttentionBackend):
    """Lets every token see every other one."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, layout: object, scale: float) -> Tensor:
        return v + v.mean(0)


def test_a_leak_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def rows() -> list[dict[str, object]]:
        return leakage.measure(cases=9, seed=0)

    sound = rows()
    assert sum(int(str(row["leaks"])) + int(str(row["apart"])) for row in sound) == 0
    with monkeypatch.context() as patch:
        for name in leakage.backends():
            patch.setattr(type(ATTENTION[name]), "__call__", Mixing.__call__)
        assert sum(int(str(row["leaks"])) for row in rows()) > 6


def test_the_slope_of_memory_leaves_out_the_warm_up() -> None:
    samples = [Sample(10.0 * n, 500 + (400 if n < 60 else 0) + n / 6, 8, 2) for n in range(1, 361)]
    found = summary(samples)
    assert found["mb_per_hour"] == pytest.approx(60)
    assert found["files_per_hour"] == 0 and found["peak_mb"] > 900
    assert len(found["mb_by_minute"]) == 61
