"""``benchmarks/gpu.py`` keeps its results when the device or the process fails."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import gpu, gpu_jobs
from benchmarks.gpu_jobs import Job, Setup
from elastictool.evaluation import installation
from elastictool.evaluation.bench.workload import epic_like
from elastictool.evaluation.durations import Durations

ROOT = Path(__file__).parents[1]
Rows = list[dict[str, Any]]


class Machine:
    """Processes that are only played, with a device that can die in each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, revives: bool = True) -> None:
        self.processes, self.begun, self.alive, self.revives = 0, list[str](), True, revives
        self.jobs: list[Job] = []
        monkeypatch.setattr(gpu, "run_child", self.child)
        monkeypatch.setattr(gpu, "all_jobs", lambda setup, steps: iter(self.jobs))
        monkeypatch.setattr(gpu, "device_works", lambda device: self.alive)

    def add(self, part: str, label: str, does: Callable[[], Rows] | None = None) -> None:
        def measure() -> Rows:
            self.begun.append(label)
            return does() if does else [{"agrees": True, "process": self.processes}]

        self.jobs.append(Job(part, label, measure))

    def child(self, path: Path, since: float, limit_s: float) -> str:
        self.processes += 1
        self.alive = self.alive or self.revives
        try:
            given = {"device": "cpu", "quick": True, "durations": None, "revision": "r1"}
            gpu.work(argparse.Namespace(**given, json=path, since=since, minutes=limit_s / 60))
        except (SystemExit, MemoryError) as left:
            return f"left: {left}"
        return "exit code 0"

    def break_device(self) -> Rows:
        self.alive = False
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def break_device_in_silence(self) -> Rows:
        self.alive = False
        return [{"agrees": True}]


def die() -> Rows:
    raise SystemExit("killed")


def test_what_kills_the_device_or_the_process_costs_one_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(monkeypatch)
    machine.add("agreement", "first")
    machine.add("agreement", "poison", machine.break_device)
    machine.add("features", "second")
    machine.add("agreement", "later poison", machine.break_device_in_silence)
    machine.add("training", "killed", die)
    machine.add("memory", "last")
    path = tmp_path / "gpu.json"
    document = gpu.supervise(path, limit_s=60)
    assert json.loads(path.read_text("utf-8")) == document
    assert machine.processes == 4
    assert machine.begun == ["first", "poison", "second", "later poison", "killed", "last"]
    assert [row["job"] for row in document["errors"]] == ["poison", "later poison", "killed"]
    assert "illegal memory access" in document["errors"][0]["error"]
    assert document["memory"] == [{"agrees": True, "process": 4}]
    assert [row["agrees"] for row in document["agreement"]] == [True, False, True, False]
    assert document["ended"] and document["git_revision"] == "r1"


def test_a_device_that_stays_dead_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(monkeypatch, revives=False)
    machine.add("agreement", "first")
    machine.add("features", "poison", machine.break_device)
    for label in "abc":
        machine.add("training", label)
    document = gpu.supervise(tmp_path / "gpu.json", limit_s=60)
    assert machine.processes == 2 and machine.begun == ["first", "poison"]
    assert [row["job"] for row in document["errors"]] == ["poison", "a", "b", "c"]
    assert "fresh process" in document["errors"][-1]["error"]


def test_processes_that_begin_nothing_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(monkeypatch)
    machine.add("agreement", "first")

    def no_jobs(setup: Setup, steps: Rows) -> Iterator[Job]:
        yield from machine.jobs
        raise MemoryError("no room")

    monkeypatch.setattr(gpu, "all_jobs", no_jobs)
    document = gpu.supervise(tmp_path / "gpu.json", limit_s=60)
    assert machine.processes == 2 and machine.begun == ["first"]
    assert not document["ended"] and "no room" in document["errors"][0]["error"]


def test_the_time_limit_counts_on_and_an_old_document_is_not_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "gpu.json"
    machine = Machine(monkeypatch)
    machine.add("agreement", "first")
    gpu.supervise(path, limit_s=60)
    gpu.supervise(path, limit_s=60)
    assert machine.begun == ["first", "first"]

    def slow() -> Rows:
        time.sleep(0.3)
        return machine.break_device()

    machine.begun.clear()
    machine.jobs.clear()
    machine.add("agreement", "poison", slow)
    machine.add("features", "late")
    document = gpu.supervise(path, limit_s=0.3)
    assert machine.begun == ["poison"]
    assert "time is up" in document["errors"][-1]["error"]


def test_a_job_that_hangs_ends_its_process(tmp_path: Path) -> None:
    path = tmp_path / "gpu.json"
    code = (
        "import sys, time; from pathlib import Path\n"
        "from benchmarks.gpu import Session; from benchmarks.gpu_jobs import Job\n"
        f"session = Session({{'jobs': {{}}}}, Path({str(path)!r}), 60, patience_s=0.2)\n"
        "session.run(Job('training', 'hangs', lambda: time.sleep(60)))\n"
    )
    begin = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 1 and time.monotonic() - begin < 60
    assert json.loads(path.read_text("utf-8"))["jobs"] == {"training: hangs": "started"}


@pytest.mark.parametrize("tokens", [2_048, 65_536])
@pytest.mark.parametrize(
    "durations", [epic_like(4_096), Durations(np.full(9, 3.0), "x", "x"), epic_like(40)]
)
def test_a_step_has_at_least_the_tokens_that_it_is_named_after(
    durations: Durations, tokens: int
) -> None:
    setup = Setup(torch.device("cpu"), durations, quick=False)
    workload = setup.workload(tokens)
    assert tokens <= sum(workload.tokens) < 1.05 * tokens + max(workload.tokens)
    assert len(workload.frames) == workload.packing.batch_clips  # one batch


def test_compiled_steps_take_streams_as_the_trainer_fills_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gpu_jobs, "compile_blocks", lambda *_: None)
    setup = Setup(torch.device("cpu"), epic_like(64), quick=True)
    workload = setup.workload(300)
    for trained, multiple in ((setup.compiled, 128), (setup.eager, 8)):
        step = trained.step(workload, "split")
        assert isinstance(step, partial)
        batches = step.args[3]
        assert all(batch.layout.stream_length % multiple == 0 for batch in batches)
        tokens = sum(batch.layout.num_tokens for batch in batches)
        assert tokens == sum(workload.tokens)


def test_without_a_step_there_is_nothing_to_hold_the_loader_against() -> None:
    setup = Setup(torch.device("cpu"), epic_like(64), quick=True)
    with pytest.raises(gpu_jobs.ElasticToolError, match="no step"):
        gpu_jobs.loader(setup, 300, [{"attention": setup.fastest}])


@pytest.mark.slow
def test_the_whole_command_runs_on_a_cpu_and_verifies_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "gpu.json"
    options = ["--device", "cpu", "--quick", "--minutes", "30", "--json", str(path)]
    command = [sys.executable, "-m", "benchmarks.gpu", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads(path.read_text("utf-8"))
    assert document["ended"] and document["errors"] == []
    assert all(document[part] for part in gpu.PARTS)
    assert set(document["jobs"].values()) == {"done"}
    assert document["environment"]["gpu"] is None and document["gpu"] is None
    monkeypatch.setattr(installation, "GPU_RESULTS", path)
    assert installation.cuda_evidence().startswith("unverified: no GPU was used")


DYING = """
import os, sys
from benchmarks import gpu
from benchmarks.gpu_jobs import Job
dead = []
def poison():
    dead.append(True)
    raise RuntimeError("an illegal memory access")
def jobs(setup, steps):
    yield Job("agreement", "first", lambda: [{"agrees": True, "process": os.getpid()}])
    yield Job("training", "poison", poison)
    yield Job("features", "abort", os.abort)
    yield Job("memory", "last", lambda: [{"process": os.getpid()}])
gpu.all_jobs, gpu.device_works = jobs, lambda device: not dead
gpu.main()
"""


@pytest.mark.slow
def test_real_processes_follow_one_another(tmp_path: Path) -> None:
    script, path = tmp_path / "dying.py", tmp_path / "gpu.json"
    script.write_text(DYING, "utf-8")
    command = [sys.executable, str(script), "--device", "cpu", "--quick", "--json", str(path)]
    here = os.environ | {"PYTHONPATH": str(ROOT)}  # benchmarks are not installed
    done = subprocess.run(command, cwd=ROOT, env=here, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr  # features were not compared
    document = json.loads(path.read_text("utf-8"))
    assert [row["job"] for row in document["errors"]] == ["poison", "abort"]
    assert document["memory"][0]["process"] != document["agreement"][0]["process"]
