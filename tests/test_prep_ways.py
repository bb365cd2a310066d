"""Prep writes the same bytes with workers, job shards, a cluster, or after a crash."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile

from elastictool.cli.prep import prep
from elastictool.corpora.base import CorpusOptions
from elastictool.data import executor
from elastictool.data.options import PrepOptions, StorageOptions
from elastictool.data.plan import Plan, plan
from elastictool.data.prepare import JobShard, carry_out, merge, prepare, prepare_job_shard
from elastictool.data.shards import ShardReport
from elastictool.data.store import PreparedStore
from elastictool.data.verify import verify
from elastictool.utils.errors import ElasticToolError, UsageError
from elastictool.utils.optional import install_command
from elastictool.utils.progress import Task
from tests.helpers.children import Child
from tests.helpers.corpus_trees import csv_tree
from tests.helpers.files import content
from tests.helpers.toy_data import hide_module, write_toy_recordings

CLIPS = 96


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six shards of short recordings."""
    return csv_tree(tmp_path_factory.mktemp("raw") / "bells", CLIPS)


@pytest.fixture(scope="module")
def whole(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one process writes in one go."""
    return content(prepare(PrepOptions("csv", raw, tmp_path_factory.mktemp("whole"))).path)


@pytest.fixture
def planned(raw: Path, tmp_path: Path) -> Callable[..., Plan]:
    """Lists and plans anew, as each job does."""
    return lambda **more: plan(PrepOptions("csv", raw, tmp_path, **more))


Planned = Callable[..., Plan]


# Parts


def test_merged_job_shards_are_the_bytes_of_one_run(
    whole: dict[str, bytes], planned: Planned
) -> None:
    for index in (2, 3, 1):
        reports = prepare_job_shard(planned(), JobShard(index, 3))
        assert len(reports) == len(planned().tasks) / 3
    assert content(merge(planned()).path) == whole
    assert content(merge(planned()).path) == whole
    assert prepare_job_shard(planned(), JobShard(1, 3)) == []


def test_a_merge_names_what_is_not_finished(whole: dict[str, bytes], planned: Planned) -> None:
    with pytest.raises(UsageError, match="holds no parts"):
        merge(planned())
    prepare_job_shard(planned(), JobShard(1, 2))
    with pytest.raises(ElasticToolError, match=r"3 of 6 shards in .* not finished: 1, 3, 5"):
        merge(planned())
    assert content(carry_out(planned()).path) == whole


def test_job_shards_cover_every_shard_once(planned: Planned) -> None:
    tasks = planned().tasks
    for count in (1, 3, 7, 100):
        parts = [task.index for i in range(count) for task in JobShard(i + 1, count).of(tasks)]
        assert sorted(parts) == list(range(len(tasks)))


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "a/b", "1/2/3", "-1/2", "1/0", " 1/2"])
def test_a_part_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no part"):
        JobShard.parse(text)
    assert JobShard.parse("3/16") == JobShard(3, 16)


def test_the_command_prepares_job_shards_and_merges_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = csv_tree(tmp_path / "bells")
    (root / "audio" / "01.wav").write_bytes(b"RIFF")
    options = {"dataset": "csv", "root": root, "out": tmp_path / "data", "workers": 1}
    for part in ("1/2", "2/2"):
        prep(**options, part=part, json_output=True)
        report = json.loads(capsys.readouterr().out)
        assert report["part"] == part and report["of"] == 2
    prep(**options, merge=True, max_rejected=0.05)
    assert len(PreparedStore.open(tmp_path / "data" / "bells")) == 19
    for wrong in ({"part": "1/2", "merge": True}, {"part": "1/2", "overwrite": True}):
        with pytest.raises(UsageError, match=r"exclude|delete"):
            prep(**options, **wrong)


# One at a time


def stand_still() -> None:
    """In the other process: never finish the first shard."""

    def pretend(task: object) -> None:
        print("at work", flush=True)
        time.sleep(600)

    executor.write_shard = pretend  # type: ignore[assignment]


@contextmanager
def preparing_elsewhere(raw: Path, out: Path, *options: str) -> Iterator[Child]:
    """Another process that prepares the same, at work in its first shard."""
    line = ("prep", "--dataset", "csv", "--root", raw, "--out", out, "--workers", 1, *options)
    child = Child(out, *line, before=stand_still)
    end = time.monotonic() + 120
    while "at work" not in child.shown():
        assert time.monotonic() < end and child.process.exitcode is None, child.shown()
        time.sleep(0.01)
    try:
        yield child
    finally:
        child.process.kill()
        child.process.join()


def test_a_second_prep_names_the_process_at_work_and_a_killed_one_is_continued(
    whole: dict[str, bytes], raw: Path, tmp_path: Path, planned: Planned
) -> None:
    with preparing_elsewhere(raw, tmp_path) as other:
        for start in (
            lambda: carry_out(planned()),
            lambda: carry_out(planned(overwrite=True)),
            lambda: prepare_job_shard(planned(), JobShard(1, 2)),
            lambda: merge(planned()),
        ):
            with pytest.raises(UsageError, match="being prepared") as raised:
                start()
        assert f"process {other.process.pid} on this machine" in raised.value.message
        assert raised.value.hint
        other.process.kill()
        other.process.join()
        assert content(carry_out(planned()).path) == whole


def test_job_shards_run_at_once_but_none_twice(
    whole: dict[str, bytes], raw: Path, tmp_path: Path, planned: Planned
) -> None:
    with preparing_elsewhere(raw, tmp_path, "--part", "1/2"):
        prepare_job_shard(planned(), JobShard(2, 2))
        with pytest.raises(UsageError, match=r"part 1/2 of .* is being prepared by process"):
            prepare_job_shard(planned(), JobShard(1, 2))
        with pytest.raises(UsageError, match=r"part 1/2 of .* is being prepared by process"):
            carry_out(planned())
    prepare_job_shard(planned(), JobShard(1, 2))
    assert content(merge(planned()).path) == whole


# Statistics of some clips


def test_drawn_clips_are_measured_alike_by_any_way_and_noted(raw: Path, tmp_path: Path) -> None:
    settings = StorageOptions(stats_clips=30)
    some = prepare(PrepOptions("csv", raw, tmp_path / "one", storage=settings))
    planned = plan(PrepOptions("csv", raw, tmp_path / "two", storage=settings))
    for index in (2, 1):
        prepare_job_shard(planned, JobShard(index, 2))
    assert content(merge(planned).path) == content(some.path)
    exact = prepare(PrepOptions("csv", raw, tmp_path, name="exact"))
    assert some.info.stats_clips == 30
    assert any("30 drawn clips" in note for note in some.info.notes)
    (mean, std), (exact_mean, exact_std) = some.info.fbank_stats(), exact.info.fbank_stats()
    assert abs(mean - exact_mean) < 0.5 * exact_std and 0.7 < std / exact_std < 1.4
    assert verify(some.path)[1] == []
    assert [some.clip(i) for i in range(CLIPS)] == [exact.clip(i) for i in range(CLIPS)]
    other = plan(PrepOptions("csv", raw, tmp_path, storage=settings, corpus=CorpusOptions(seed=1)))
    assert other.fingerprint != planned.fingerprint


def test_only_training_clips_are_drawn_and_all_of_them_are_exact(tmp_path: Path) -> None:
    listing = write_toy_recordings(tmp_path)
    some = prepare(
        PrepOptions("csv", listing, tmp_path, name="some", storage=StorageOptions(stats_clips=999))
    )
    exact = prepare(PrepOptions("csv", listing, tmp_path, name="exact"))
    assert {sums.split for sums in some.info.fbank_sums} == {"train"}
    assert some.info.fbank_stats() == exact.info.fbank_stats(lambda split, fold: split == "train")
    count = int((exact.splits == "train").sum())
    assert f"mean and deviation are of {count} drawn clips (--stats-clips)" in some.info.notes


def test_silence_is_found_in_clips_that_are_not_measured(tmp_path: Path) -> None:
    root = csv_tree(tmp_path / "bells")
    for number in range(20):
        soundfile.write(root / "audio" / f"{number:02d}.wav", np.zeros(1600), 16_000)
    settings = StorageOptions(stats_clips=3)
    store = prepare(PrepOptions("csv", root, tmp_path / "data", storage=settings))
    assert store.info.splits["train"].silent == 20
    assert sum(sums.frames for sums in store.info.fbank_sums) == 3 * 8


# Who writes


@pytest.mark.parametrize(
    ("workers", "seconds", "own"), [(0, 0.5, 30), (0, 2.0, 1), (1, 9.0, 30), (2, 0.1, 0)]
)
def test_worker_processes_are_started_where_they_pay_or_are_asked_for(
    workers: int, seconds: float, own: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]

    def write(task: Any) -> ShardReport:
        clock[0] += seconds
        return ShardReport("")

    monkeypatch.setattr(executor, "write_shard", write)
    monkeypatch.setattr(executor.time, "monotonic", lambda: clock[0])
    waiting = deque(SimpleNamespace(index=index) for index in range(30))
    assert len(list(executor.write_here(waiting, workers))) == own
    assert len(waiting) == 30 - own


# A cluster


def test_threads_of_a_cluster_write_the_same_bytes(
    whole: dict[str, bytes], raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distributed = pytest.importorskip("distributed")
    monkeypatch.chdir(tmp_path)
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None
    ) as here:
        store = prepare(PrepOptions("csv", raw, Path("data"), scheduler=here.scheduler_address))
    assert content(store.path) == whole


class _KillingProgress:
    """Kills one worker process when the bar has moved some times."""

    def __init__(self, victim: int) -> None:
        self.victim, self.moves = victim, 0

    @contextmanager
    def task(self, what: str, total: float | None) -> Iterator[Task]:
        yield self

    def advance(self, amount: float = 1, note: str = "") -> None:
        self.moves += 1
        if self.moves == 3:
            os.kill(self.victim, signal.SIGKILL)

    def log(self, message: str) -> None:
        pass


def test_a_task_for_another_working_directory_has_absolute_paths(
    planned: Planned, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    task = replace(planned().tasks[0], folder=Path("x"), root=Path("y")).absolute()
    assert (task.folder, task.root) == (tmp_path / "x", tmp_path / "y")


@pytest.mark.slow
def test_a_cluster_that_loses_a_worker_half_way_writes_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distributed = pytest.importorskip("distributed")
    expected = content(prepare(PrepOptions("synth", out=tmp_path / "whole", limit=320)).path)
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        ) as two,
        distributed.Client(two) as client,
    ):
        monkeypatch.chdir(tmp_path)  # its workers stand elsewhere
        first, _ = client.run(os.getpid).values()
        killing = _KillingProgress(first)
        store = prepare(
            PrepOptions("synth", out=Path("data"), limit=320, scheduler=two.scheduler_address),
            killing,
        )
        assert first not in client.run(os.getpid).values()
    assert content(store.path) == expected


def test_without_dask_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide_module(monkeypatch, "distributed")
    with pytest.raises(UsageError, match="needs the extra dask") as raised:
        prepare(PrepOptions("synth", out=tmp_path, limit=20, scheduler="tcp://127.0.0.1:1"))
    assert raised.value.hint == install_command("dask")


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "nonsense://x", "127.0.0.1:x"])
def test_a_scheduler_that_is_not_there_is_named(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr(executor, "CONNECT_S", 1)
    with pytest.raises(UsageError, match="no Dask scheduler answers at") as raised:
        prepare(PrepOptions("synth", out=tmp_path, limit=20, scheduler=address))
    assert address in raised.value.message


def test_a_cluster_without_workers_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr(executor, "WORKERS_S", 0.2)
    with (
        distributed.LocalCluster(n_workers=0, processes=False, dashboard_address=None) as none,
        pytest.raises(ElasticToolError, match="no worker") as raised,
    ):
        prepare(PrepOptions("synth", out=tmp_path, limit=20, scheduler=none.scheduler_address))
    assert "dask worker" in raised.value.hint


def test_a_worker_that_writes_elsewhere_is_reported(planned: Planned) -> None:
    with pytest.raises(ElasticToolError, match="not here") as raised:
        executor.wait_until_visible(planned().tasks[2], timeout_s=0.0)
    assert "shard-00002.arrow" in raised.value.message


def test_job_shards_of_different_plans_are_not_mixed(planned: Planned) -> None:
    prepare_job_shard(planned(), JobShard(1, 3))
    with pytest.raises(UsageError, match="unfinished dataset with other clips or settings"):
        prepare_job_shard(planned(limit=60), JobShard(2, 3))
