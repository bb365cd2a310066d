"""Run a plan step by step, skipping finished steps.

The plan is made again after each step, because a step's output is part of the fingerprints of the
steps that read it. After Ctrl-C, or a crash, the same command continues where it stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from elastictool.recipes.cost import plan_costs
from elastictool.recipes.plan import Plan
from elastictool.recipes.steps import execute
from elastictool.utils.errors import Interrupted
from elastictool.utils.locks import hold
from elastictool.utils.progress import SILENT, Progress

LEAST_GFLOPS = 1.0
"""Counted for a step without operations in the estimate of the time left."""


def run_plan(make: Callable[[], Plan], progress: Progress = SILENT) -> Plan:
    """Runs the unfinished steps and returns the finished plan.

    Args:
        make: Makes the plan from the current state of the disk.
        progress: Where progress is shown.

    Raises:
        UsageError: Data or weights are missing, or a step's settings do not fit its data.
        Interrupted: Stopped by the user; the same call continues.
        ElasticToolError: A step failed; finished steps stay.
    """
    plan = make()
    plan.check_inputs()
    began, spent = time.monotonic(), 0.0
    while waiting := plan.waiting():
        step, costs = waiting[0], plan_costs(plan)
        weights = {name: max(cost.gflops, LEAST_GFLOPS) for name, cost in costs.items()}
        eta = ""
        if spent >= 10 * LEAST_GFLOPS:  # the time left at the speed so far
            left = sum(weights[other.name] for other in waiting)
            minutes = (time.monotonic() - began) / spent * left / 60
            eta = f" (about {minutes:.0f} min left)" if minutes >= 1 else " (under a minute left)"
        number = len(plan.steps) - len(waiting) + 1
        # Another recipe, or this one with other seeds, may be at the same step.
        lock, doing = step.path.parent / f".{step.path.name}.lock", f"{step.name} is being done"
        try:
            with hold(lock, doing, "", wait=progress.log):
                if not step.marker():
                    progress.log(f"step {number} of {len(plan.steps)}: {step.name}{eta}")
                    execute(step, progress)
        except (Interrupted, KeyboardInterrupt) as error:
            raise Interrupted(
                f"{plan.recipe.name} was interrupted; what is done is saved",
                "run the same command again: it continues there",
            ) from error
        spent += weights[step.name]
        plan = make()
    return plan
