"""Several processes of one run, as torchrun starts them, but at once (see ``children.py``)."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch

from tests.children import Child


def take_place(
    rank: int, world: int, port: int, more: Callable[[], None] | None, dtype: torch.dtype
) -> None:
    """In a process: what torchrun puts into the environment, then ``more``."""
    place = {"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": world}
    os.environ.update({name: str(value) for name, value in place.items()})
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    torch.set_default_dtype(dtype)
    if more:
        more()


def start(
    folder: Path,
    world: int,
    *arguments: object,
    before: Mapping[int, Callable[[], None]] | None = None,
    dtype: torch.dtype = torch.float32,
) -> list[Child]:
    """``world`` processes with the same command line; ``before`` is called in those it names."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    extra = before or {}
    return [
        Child(
            folder,
            *arguments,
            before=partial(take_place, rank, world, port, extra.get(rank), dtype),
        )
        for rank in range(world)
    ]


def ended(children: list[Child], timeout_s: float = 120) -> list[int]:
    """Their exit codes; whoever hangs is ended."""
    try:
        return [child.wait(timeout_s) for child in children]
    finally:
        for child in children:
            child.process.kill()
