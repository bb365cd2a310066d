"""TensorBoard event files as a copy of ``metrics.jsonl``.

A resumed run deletes them and writes them again from that file, so no step is there twice and none
is lost when a process is killed.
"""

from __future__ import annotations

import numbers
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from elastictool.checkpoint.run_directory import RunDirectory
from elastictool.utils.errors import UsageError
from elastictool.utils.optional import missing_extra


def check_tensorboard() -> None:
    """Refuses a run whose TensorBoard files cannot be written.

    Raises:
        UsageError: The extra is not installed, or broken.
    """
    if lack := missing_extra("tensorboard", "tensorboard.summary.writer.event_file_writer"):
        raise UsageError(
            "train.tensorboard = true needs the extra tensorboard",
            f"{lack}, or --set train.tensorboard=false",
        )


@contextmanager
def mirrored(run: RunDirectory) -> Iterator[None]:
    """Copies all numbers that ``run`` logs in the block to ``RUN/tensorboard``, as KIND/NAME."""
    from torch.utils.tensorboard import SummaryWriter

    for old in run.tensorboard.glob("events.out.tfevents.*"):
        old.unlink()
    # A viewer that is open has read the files just dropped; purge_step makes it forget them.
    writer = SummaryWriter(str(run.tensorboard), purge_step=0)

    def write(record: Mapping[str, Any]) -> None:
        for name, value in record.items():
            if isinstance(value, numbers.Real) and name != "step":
                writer.add_scalar(f"{record['kind']}/{name}", value, record["step"])

    for record in run.records():
        write(record)
    run.mirror = write
    try:
        yield
    finally:
        run.mirror = None
        writer.close()
