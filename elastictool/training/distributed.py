"""One run in the processes that torchrun started: the same steps, shared.

A batch is the run's, not a process's: all processes plan the same steps, and each computes its
share of the clips of every step (``TrainingSampler.shares``). Losses are divided by the views of
the whole step, so the sum of all gradients is the gradient that one process would have, and every
process takes the same optimiser step with it. So a run may go on with another number of
processes, and nothing that is saved knows how many there were.

Gradients are summed here, in buckets, after all passes of a step, and not by torch's
``DistributedDataParallel``: that sums inside ``backward``, before a process can know whether the
others will get through theirs, averages where we sum, and needs a forward pass from a process
whose share is empty. What its overlap would save is one pass over the weights' gradients a step,
little beside a step of many thousand tokens.

Before the gradients, a few numbers are summed: what goes into the epoch's line, and whether a loss
is not finite or a process was asked to stop. So all processes leave a step out, or stop, at the
same step. A process that fails simply ends: the others notice at the next sum of numbers, because
its connections close, and end as well, the first one saving the last whole step. nccl does not
notice, it waits; so all that a step needs memory for is done before the numbers are summed, and
what nccl itself needs, at the start.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import islice
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from elastictool.utils.errors import ElasticToolError, ProcessLostError, is_out_of_memory
from elastictool.utils.launch import launched
from elastictool.utils.rng import clip_rng

T = TypeVar("T")

TIMEOUT = timedelta(minutes=10)
"""How long a process waits for others that live: the slowest may compile, load or write."""

BUCKET_BYTES = 32 << 20
"""Gradients that are sent together: few messages, and one is added while the next is sent."""


class Ranks:
    """This process among those of a run; alone, all that it does is hand through what it is given.

    Args:
        rank: Number of this process.
        world: How many there are.
    """

    def __init__(self, rank: int = 0, world: int = 1) -> None:
        self.rank, self.world = rank, world

    @property
    def is_single(self) -> bool:
        """Whether there is no other process."""
        return self.world == 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes and speaks for all."""
        return self.rank == 0

    def gather(self, value: T) -> list[T]:
        """The ``value`` of every process, in their order.

        Raises:
            ProcessLostError: One of them is gone.
        """
        if self.is_single:
            return [value]
        values: list[Any] = [None] * self.world
        with _together():
            dist.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Go on when all have come here; raises what ``gather`` does."""
        self.gather(None)

    def broadcast(self, model: nn.Module) -> None:
        """Give all the first one's weights: other machines may have drawn theirs otherwise.

        Sums as large as those of a step are made as well, of nothing: nccl connects and takes its
        memory at the first, and where that fails, nothing is lost yet.
        """
        if self.is_single:
            return
        with torch.no_grad(), _together():
            for value in model.state_dict().values():
                dist.broadcast(value, 0)
            learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
            _sum_all([flat for _, flat in _flattened(learning)])

    def seed_step(self, seed: int, step: int) -> None:
        """Let each process draw its own random numbers for the dropout of ``step``.

        They are a function of the step, so there is nothing to save of them. Alone, the generator
        runs on.
        """
        if not self.is_single:
            torch.manual_seed(int(clip_rng(seed, step, self.rank, "rank").integers(1 << 62)))

    def all_reduce(
        self, parameters: Sequence[nn.Parameter], totals: Sequence[float]
    ) -> list[float]:
        """Sum gradients and ``totals`` of a step over all processes, to the same bits in each.

        A parameter that no process used keeps no gradient, as in a single process.

        Args:
            parameters: In the same order everywhere; a process without clips has no gradients.
            totals: Any numbers.

        Returns:
            The sums of ``totals``.

        Raises:
            ProcessLostError: A process is gone; no gradient has been changed by then.
            RuntimeError: This process has no room for the sums; nothing was sent by then.
        """
        if self.is_single:
            return list(totals)
        buckets = list(_flattened(parameters))  # before the sums: whoever has no room ends here
        used = [float(parameter.grad is not None) for parameter in parameters]
        sums = torch.tensor([*totals, *used], dtype=torch.float64)
        with _together():
            dist.all_reduce(sums)
            _sum_all([flat for _, flat in buckets])
        counts = iter(sums[len(totals) :].tolist())
        for bucket, flat in buckets:
            _give_back(bucket, flat, list(islice(counts, len(bucket))))
        return sums[: len(totals)].tolist()


SINGLE = Ranks()
"""A process without others."""


@contextmanager
def init_distributed(device: str) -> Iterator[Ranks]:
    """Inside, this process is one of those that torchrun started; without torchrun, ``SINGLE``.

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
    ours = not dist.is_initialized()
    if ours:
        _join("cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo")
    yield Ranks(here.rank, here.world)
    if ours:  # after an error the others may be gone: the end of the process does it then
        dist.destroy_process_group()


def _join(backend: str) -> None:
    try:
        dist.init_process_group(backend, timeout=TIMEOUT)
    except (RuntimeError, ValueError) as error:
        raise ElasticToolError(
            f"the processes of the run do not find one another: {str(error).splitlines()[0]}",
            "see that all were started by one torchrun; GLOO_SOCKET_IFNAME (and NCCL_SOCKET_IFNAME "
            "on CUDA) name the network interface, lo for one machine",
        ) from error


@contextmanager
def _together() -> Iterator[None]:
    """Inside, what torch says of connections that are closed becomes our error.

    A lack of memory is this process's own and stays what it is.
    """
    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise ProcessLostError(
            f"another process of this run has ended, or did not answer within {TIMEOUT}",
            "what it or torchrun says tells why",
        ) from error


def _sum_all(flats: Sequence[Tensor]) -> None:
    """Replace each by its sum over all processes."""
    for work in [dist.all_reduce(flat, async_op=True) for flat in flats]:
        work.wait()


def _flattened(parameters: Sequence[nn.Parameter]) -> Iterator[tuple[list[nn.Parameter], Tensor]]:
    """Buckets of parameters, each with its gradients end to end; none counts as zero."""
    for bucket in _buckets(parameters):
        yield bucket, torch.cat([_gradient(parameter).flatten() for parameter in bucket])


def _gradient(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _give_back(bucket: Sequence[nn.Parameter], flat: Tensor, counts: Sequence[float]) -> None:
    """Make the sums the gradients of those parameters that any process used."""
    parts = torch.split(flat, [parameter.numel() for parameter in bucket])
    for parameter, part, count in zip(bucket, parts, counts, strict=True):
        parameter.grad = part.view_as(parameter) if count else None


def _buckets(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Neighbours of one type, of ``BUCKET_BYTES`` or a little more together."""
    bucket: list[nn.Parameter] = []
    size = 0
    for parameter in parameters:
        if bucket and (size >= BUCKET_BYTES or parameter.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(parameter)
        size += parameter.numel() * parameter.element_size()
    if bucket:
        yield bucket
