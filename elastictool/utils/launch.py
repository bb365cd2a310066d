"""Detects whether torchrun started this process, and the rank of the process.

The environment holds both, so the command line knows them before torch is loaded. Only ``train``
works in several processes; the main one writes and logs for all.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True)
class Launch:
    """The position of this process among those that torchrun started.

    Attributes:
        rank: Its number among all processes, from 0.
        world: How many processes there are.
        local_rank: Its number among those of this machine.
        local_world: Processes on this machine.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1

    @property
    def is_single(self) -> bool:
        """Whether there is no other process."""
        return self.world == 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes and logs for all."""
        return self.rank == 0


def launched() -> Launch:
    """Reads this process's position from torchrun's environment; without it the only one."""
    names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    rank, world, *address = (os.environ.get(name, "") for name in names)
    if not (rank and world and all(address)) or int(world) < 2:
        return Launch()
    local_rank = os.environ.get("LOCAL_RANK", rank)
    local_world = os.environ.get("LOCAL_WORLD_SIZE", world)
    return Launch(int(rank), int(world), int(local_rank), int(local_world))


def command() -> str:
    """Returns the command line before a subcommand that starts it as this process was started."""
    here = launched()
    if here.is_single:
        return "elastictool"
    return f"torchrun --nproc-per-node {here.local_world} -m elastictool"


def first_to_fail() -> bool:
    """Returns whether this process shows its error: of several that fail, only the first one does.

    Processes ask torchrun's store, which outlives each of them. Without a response all show it.
    """
    if launched().is_single:
        return True
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    try:
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        patience = timedelta(seconds=5)
        store = TCPStore(address, port, None, False, patience, wait_for_workers=False)
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        return bool(store.add(f"elastictool/failed/{attempt}", 1) == 1)
    except (RuntimeError, ValueError):
        return True
