"""Train one run in all processes that torchrun started; they share every step.

All processes plan the same steps, and each computes its share of the clips of every step
(``TrainingSampler.shares``). Losses are divided by the crops of the whole step, so the sum of all
gradients is the gradient of a single process, and every process takes the same optimiser step.
A run may therefore continue with another number of processes: nothing that is saved depends on it.

Gradients are summed as one flat tensor after all passes of a step. torch's
``DistributedDataParallel`` does not fit: it sums inside ``backward``, before a process can know
that the others finish their passes, takes the mean, and needs a forward pass from a process whose
share is empty.

Some numbers are summed before the gradients: loss and counts of the step, and whether a process
was asked to stop. So all processes skip a step, or stop, at the same step. A process that fails
ends; the others notice at the next sum, because its connections close, and end as well, after the
main one has saved the last whole step. nccl does not notice but waits; so all memory that a step
needs is taken before the numbers are summed, and nccl's own memory at the start.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from elastictool.utils.errors import (
    ElasticToolError,
    ProcessLostError,
    first_line,
    is_out_of_memory,
)
from elastictool.utils.launch import Launch, launched
from elastictool.utils.rng import clip_rng

T = TypeVar("T")

TIMEOUT = timedelta(minutes=10)
"""How long a process waits for others that live: the slowest may compile, load or write."""


class Ranks(Launch):
    """This process among those of a run; a single process returns its arguments unchanged."""

    def gather(self, value: T) -> list[T]:
        """Returns the ``value`` of every process, by rank.

        Raises:
            ProcessLostError: One of them is gone.
        """
        if self.is_single:
            return [value]
        values: list[Any] = [None] * self.world
        with _lost_processes():
            dist.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Waits until all processes have called it; raises what ``gather`` does."""
        self.gather(None)

    def broadcast(self, model: nn.Module) -> None:
        """Gives all processes the main one's weights: other machines may initialise differently.

        A sum as large as that of a step is made, too: nccl connects and takes its memory at the
        first one, and where that fails, nothing is lost yet.
        """
        if self.is_single:
            return
        with torch.no_grad(), _lost_processes():
            for value in model.state_dict().values():
                dist.broadcast(value, 0)
            dist.all_reduce(_flat_gradient([p for p in model.parameters() if p.requires_grad]))

    def seed_step(self, seed: int, step: int) -> None:
        """Lets each process draw its own random numbers for the dropout of ``step``.

        They are a function of the step, so nothing of them is saved. A single process keeps its
        generator.
        """
        if not self.is_single:
            torch.manual_seed(int(clip_rng(seed, step, self.rank, "rank").integers(1 << 62)))

    def all_reduce(
        self, parameters: Sequence[nn.Parameter], loss: Tensor, counts: Sequence[int]
    ) -> tuple[Tensor, list[int]]:
        """Sums gradients, loss and counts of a step over all processes, to the same bits in each.

        A parameter that no process used keeps no gradient, as in a single process.

        Args:
            parameters: In the same order everywhere; a process without clips has no gradients.
            loss: () sum of the losses.
            counts: Any whole numbers.

        Returns:
            The sums of ``loss`` and of ``counts``.

        Raises:
            ProcessLostError: A process has ended; no gradient has been changed by then.
            RuntimeError: This process has no memory for the sum; nothing was sent by then.
        """
        if self.is_single:
            return loss, list(counts)
        flat = _flat_gradient(parameters)  # first: a process without memory for it ends here
        used = [float(parameter.grad is not None) for parameter in parameters]
        sums = torch.tensor([float(loss), *counts, *used], dtype=torch.float64)
        with _lost_processes():
            dist.all_reduce(sums)
            dist.all_reduce(flat)
        parts = torch.split(flat, [parameter.numel() for parameter in parameters])
        summed = sums[1 : 1 + len(counts)].tolist()
        users = sums[1 + len(counts) :].tolist()
        for parameter, part, count in zip(parameters, parts, users, strict=True):
            parameter.grad = part.view_as(parameter) if count else None
        return sums[0], [int(number) for number in summed]


SINGLE = Ranks()
"""The only process of a run."""


@contextmanager
def init_distributed(device: str) -> Iterator[Ranks]:
    """Joins the processes that torchrun started, inside the block; ``SINGLE`` without torchrun.

    Args:
        device: Of this process; gradients on CUDA are summed by nccl, all else by gloo.

    Raises:
        ElasticToolError: The processes do not find one another.
    """
    here = launched()
    if here.is_single:
        yield SINGLE
        return
    if device.startswith("cuda"):
        torch.cuda.set_device(device)
    joins = not dist.is_initialized()
    if joins:
        backend = "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo"
        try:
            dist.init_process_group(backend, timeout=TIMEOUT)
        except (RuntimeError, ValueError) as error:
            raise ElasticToolError(
                f"the processes of the run do not find one another: {first_line(error)}",
                "see that all were started by one torchrun; GLOO_SOCKET_IFNAME (and "
                "NCCL_SOCKET_IFNAME on CUDA) name the network interface, lo for one machine",
            ) from error
    yield Ranks(here.rank, here.world)
    if joins:  # not after an error, where it would wait for processes that have ended
        dist.destroy_process_group()


@contextmanager
def _lost_processes() -> Iterator[None]:
    """Turns torch's errors about closed connections into ProcessLostError; others stay."""
    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise ProcessLostError(
            f"another process of this run has ended, or did not answer within {TIMEOUT}",
            "its own message or torchrun's says why",
        ) from error


def _flat_gradient(parameters: Sequence[nn.Parameter]) -> Tensor:
    """Returns all gradients end to end; a missing one is zeros."""
    return torch.cat([_gradient(parameter).flatten() for parameter in parameters])


def _gradient(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
