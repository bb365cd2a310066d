"""Doing a plan: finished steps are left alone, stopped ones continue, independent ones may run at
the same time.

One job works in this process, with the bars of its steps. Several jobs are processes of their own,
each with one GPU where there are several (``CUDA_VISIBLE_DEVICES`` is set before torch is loaded).
The plan is made again after every step, because what a step gave may name the next ones.

The first Ctrl-C or SIGTERM starts nothing new and passes the request on; trainings save and end,
and the same command continues. The second one ends at once.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from elastictool.recipes.cost import Cost, plan_costs
from elastictool.recipes.plan import Plan, Step
from elastictool.recipes.steps import execute
from elastictool.utils.errors import ElasticToolError, Interrupted, from_system
from elastictool.utils.progress import SILENT, Progress, Task
from elastictool.utils.signals import StopRequest, end_with_parent, signals_interrupt

MakePlan = Callable[[], Plan]
_POLL_S = 0.2
_LEAST_WEIGHT = 1.0
"""GFLOP that a step without any counts as, so that it moves the bar."""


def run_plan(make: MakePlan, jobs: int = 1, progress: Progress = SILENT) -> Plan:
    """Do what is not done; returns the finished plan.

    Args:
        make: Makes the plan as the disk now says.
        jobs: Steps at the same time.
        progress: Where to show how far it is.

    Raises:
        UsageError: Data or weights are missing, or a step's settings do not fit its data.
        Interrupted: Stopped by the user; the same call continues.
        ElasticToolError: A step failed; what is finished stays.
    """
    plan = make()
    plan.check_inputs()
    return _one_by_one(make, plan, progress) if jobs == 1 else _side_by_side(make, jobs, progress)


def _one_by_one(make: MakePlan, plan: Plan, progress: Progress) -> Plan:
    began, spent = time.monotonic(), 0.0
    while ready := plan.ready():
        step = ready[0]
        costs = plan_costs(plan)
        waiting = [other for other in plan.steps if other.state != "done"]
        left = _eta(time.monotonic() - began, spent, sum(_weight(costs[s.name]) for s in waiting))
        number = len(plan.steps) - len(waiting) + 1
        progress.log(f"step {number} of {len(plan.steps)}: {step.name}{left}")
        try:
            execute(step, progress)
        except (Interrupted, KeyboardInterrupt) as error:
            raise _interrupted(plan) from error
        spent += _weight(costs[step.name])
        plan = make()
    return plan


def _eta(elapsed_s: float, spent: float, left: float) -> str:
    """What is left at the speed so far, in words."""
    if spent < 10 * _LEAST_WEIGHT:
        return ""
    minutes = elapsed_s / spent * left / 60
    return f" (about {minutes:.0f} min left)" if minutes >= 1 else " (under a minute left)"


def _weight(cost: Cost) -> float:
    return max(cost.gflops, _LEAST_WEIGHT)


def _side_by_side(make: MakePlan, jobs: int, progress: Progress) -> Plan:
    plan = make()
    costs = plan_costs(plan)
    done = [step for step in plan.steps if step.state == "done"]
    with StopRequest() as stop, progress.task(f"{jobs} jobs, steps", len(plan.steps)) as bar:
        bar.advance(len(done))
        pool = _Pool(jobs, progress, bar, costs)
        try:
            while True:
                if not (stop.requested or pool.failures):
                    pool.start(plan.ready(pool.running))
                if not pool.running:
                    break
                if pool.wait(stop):
                    plan = make()
        finally:
            pool.end()
    if pool.failures:
        raise pool.failures[0]
    if stop.requested:
        raise _interrupted(plan)
    return plan


def _interrupted(plan: Plan) -> Interrupted:
    return Interrupted(
        f"{plan.recipe.name} was interrupted; what is done is saved",
        "run the same command again: it continues there",
    )


@dataclass
class _Job:
    step: Step
    process: Any
    answer: Connection
    slot: int


class _Pool:
    """Processes at work, a step each."""

    def __init__(self, jobs: int, progress: Progress, bar: Task, costs: Mapping[str, Cost]) -> None:
        self._progress, self._bar, self._costs = progress, bar, costs
        self._free = list(range(jobs))
        self._threads = max(1, (os.cpu_count() or 1) // jobs)
        self._gpus = visible_gpus()
        self._context = multiprocessing.get_context("spawn")
        self._told = False
        self.jobs: list[_Job] = []
        self.failures: list[ElasticToolError] = []

    @property
    def running(self) -> list[str]:
        """Names of the steps at work."""
        return [job.step.name for job in self.jobs]

    def start(self, ready: Sequence[Step]) -> None:
        """Start as many as there are free slots, the costliest first."""
        by_cost = sorted(ready, key=lambda s: -_weight(self._costs.get(s.name, Cost())))
        for step in by_cost[: len(self._free)]:
            slot = self._free.pop(0)
            gpu = self._gpus[slot % len(self._gpus)] if len(self._gpus) > 1 else None
            ours, theirs = self._context.Pipe(duplex=False)
            where = (gpu, self._threads, os.getpid())
            process = self._context.Process(target=work, args=(step, theirs, *where))
            process.start()
            theirs.close()
            self.jobs.append(_Job(step, process, ours, slot))

    def wait(self, stop: StopRequest) -> bool:
        """Until a step ends (True), or a moment has passed; hands a stop request on, once."""
        if stop.requested and not self._told:
            self._told = True
            self._progress.log(
                f"stopping: {', '.join(self.running)} save what they have; once more ends at once"
            )
            for job in self.jobs:
                job.process.terminate()
        ended = wait([job.answer for job in self.jobs], _POLL_S)
        for job in [job for job in self.jobs if job.answer in ended]:
            self._collect(job)
        return bool(ended)

    def _collect(self, job: _Job) -> None:
        try:
            error: ElasticToolError | None = job.answer.recv()
        except EOFError:
            error = ElasticToolError(f"{job.step.name} ended without an answer", _SEE_ABOVE)
            if self._told:  # it had not come to listening
                error = Interrupted(f"{job.step.name} was interrupted")
        job.process.join()
        self.jobs.remove(job)
        self._free.append(job.slot)
        if error is None:
            self._bar.advance(1, job.step.name)
        elif not isinstance(error, Interrupted):
            error.message = f"{job.step.name}: {error.message}"
            self.failures.append(error)

    def end(self) -> None:
        """Leave nobody behind: after an error of ours, or a second Ctrl-C."""
        for job in self.jobs:
            job.process.kill()
            job.process.join()


_SEE_ABOVE = "its own message stands above; the same command tries it again"


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` names them."""
    told = os.environ.get("CUDA_VISIBLE_DEVICES")
    if told is not None:
        return [name for name in told.split(",") if name]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def work(step: Step, answer: Connection, gpu: str | None, threads: int, parent: int) -> None:
    """In a process of its own: do one step and answer with its error, or None.

    GPU and threads are settings of the environment, because torch reads them when it is loaded.
    It has a process group of its own, so that Ctrl-C at the terminal reaches it only through the
    parent, once: a second one would end it at once.
    """
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
    end_with_parent(parent)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    error: ElasticToolError | None = None
    try:
        with signals_interrupt():
            execute(step)
    except ElasticToolError as found:
        error = found
    except KeyboardInterrupt:
        error = Interrupted(f"{step.name} was interrupted")
    except (MemoryError, OSError, RuntimeError) as found:
        error = from_system(found)
        if error is None:
            raise
    answer.send(error)
    answer.close()
