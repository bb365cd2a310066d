"""Whether torchrun started this process, and which one it is of how many.

Known from the environment alone, so that the command line can ask before torch is loaded. Only
``train`` works in several processes; one of them, the first, writes and speaks for all.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta

_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_ANSWER = timedelta(seconds=5)


@dataclass(frozen=True)
class Launch:
    """The place of this process.

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
        """Whether this process writes and speaks for all."""
        return self.rank == 0


def launched() -> Launch:
    """What torchrun has put into the environment; a single process without it."""
    values = [os.environ.get(name, "") for name in _VARIABLES]
    if not all(values) or int(values[1]) < 2:
        return Launch()
    rank, world = int(values[0]), int(values[1])
    return Launch(
        rank=rank,
        world=world,
        local_rank=int(os.environ.get("LOCAL_RANK", rank)),
        local_world=int(os.environ.get("LOCAL_WORLD_SIZE", world)),
    )


def command() -> str:
    """What stands before a subcommand to start it as this process was started."""
    here = launched()
    if here.is_single:
        return "elastictool"
    return f"torchrun --nproc-per-node {here.local_world} -m elastictool"


def first_to_tell() -> bool:
    """Whether this process is the one to show an error: of several that end, one speaks.

    They ask torchrun's store, which outlives each of them. Where it does not answer, all speak.
    """
    if launched().is_single:
        return True
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    try:
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = TCPStore(address, port, None, False, _ANSWER, wait_for_workers=False)
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        return bool(store.add(f"elastictool/told/{attempt}", 1) == 1)
    except (RuntimeError, ValueError):
        return True
