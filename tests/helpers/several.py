"""Several processes of one run, as torchrun starts them, but at once (see ``children.py``)."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from torch.distributed import TCPStore

from tests.helpers.children import Child

Before = Callable[[], None]


class Several:
    """``world`` processes with the same command line, and the store that torchrun has for them.

    ``before`` is called first in the processes that it names: functions that can be pickled.
    """

    def __init__(
        self, folder: Path, world: int, *line: object, before: Mapping[int, Before] | None = None
    ) -> None:
        self._store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self.children = [
            Child(folder, *line, before=partial(_take_place, rank, world, self._store.port, more))
            for rank in range(world)
            for more in [(before or {}).get(rank)]
        ]

    def end(self, timeout_s: float = 300) -> list[int]:
        """Return their exit codes; a process that hangs is killed."""
        try:
            return [child.wait(timeout_s) for child in self.children]
        finally:
            for child in self.children:
                child.process.kill()

    def shown(self) -> str:
        """Return what all of them have written to the terminal."""
        return " ".join(child.shown() for child in self.children)


def _take_place(rank: int, world: int, port: int, more: Before | None) -> None:
    """In a process: what torchrun puts into the environment, then ``more``."""
    place = {"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": world}
    os.environ.update({name: str(value) for name, value in place.items()})
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"
    torch.set_num_threads(1)
    if more:
        more()
