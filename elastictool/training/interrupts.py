"""Save the state and print the resume command when a run ends early.

All causes are handled here: a signal, a second one, a dead loader worker, a full disk, no memory. A
run is saved only between two steps, where its state is consistent; in all other cases the state
saved last is kept, and resuming repeats what came after it, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from elastictool.checkpoint.run_directory import RunDirectory
from elastictool.config import RunConfig
from elastictool.data.loader import dead_worker
from elastictool.packing.batch import PackedBatch
from elastictool.training.distributed import Ranks
from elastictool.utils.errors import (
    DamagedDataError,
    ElasticToolError,
    Interrupted,
    LoaderError,
    OutOfMemory,
    ProcessLostError,
    WriteError,
    first_line,
    is_out_of_memory,
)
from elastictool.utils.io import as_argument
from elastictool.utils.launch import command
from elastictool.utils.signals import Stopped


@contextmanager
def save_on_exit(
    run: RunDirectory, save: Callable[[], None], where: Callable[[], str], ranks: Ranks
) -> Iterator[None]:
    """Turns any early end of a run into one error that names what is saved and how to continue.

    Args:
        run: The run directory.
        save: Saves the state as it is.
        where: Returns the current epoch and step.
        ranks: The processes of the run; they stop together.

    Raises:
        Interrupted: The user stopped it.
        ElasticToolError: Any other cause, with the resume command in its hint.
    """
    resume = f"{command()} train --resume --run-dir {as_argument(run.path)}"
    state = run.training_state
    try:
        yield
    except Stopped:
        save()
        ranks.wait()  # the main process has finished writing
        raise Interrupted(
            f"stopped at {where()}; everything is saved in {run.path}", f"continue with: {resume}"
        ) from None
    except KeyboardInterrupt:
        raise Interrupted(
            f"stopped at once, at {where()}; what was saved before is whole",
            f"continue from there with: {resume}",
        ) from None
    except (LoaderError, RuntimeError) as error:
        # Torch raises the death of a worker wherever the process is, also halfway through a step.
        death = error if isinstance(error, LoaderError) else dead_worker(error)
        if death is None:
            raise
        begin = "from the last saved state" if state.exists() else "from the start"
        more = f"then continue {begin}: {resume}"
        # A run without a single step is deleted: there is nothing to continue.
        raise _with_resume(death, more if run.metrics.exists() else "") from None
    except ProcessLostError as error:
        save()
        saved = f"saved at {where()}, continue with" if ranks.is_main else "then continue with"
        raise _with_resume(error, f"{saved}: {resume}") from error
    except DamagedDataError as error:
        save()
        raise _with_resume(error, f"then continue with: {resume}") from error
    except WriteError as error:
        more = f"then continue from the last saved state: {resume}"
        raise _with_resume(error, more if state.exists() else "") from error
    except OutOfMemory as error:
        more = f"or, if other programs took it, continue from the last saved state: {resume}"
        raise _with_resume(error, more if state.exists() else "") from error


def _with_resume(error: ElasticToolError, more: str) -> ElasticToolError:
    error.hint = "; ".join(filter(None, (error.hint, more)))
    return error


@contextmanager
def report_oom(batches: Sequence[PackedBatch], hint: str) -> Iterator[None]:
    """Reports a lack of memory inside the block with the size of ``batches`` and a hint.

    Raises:
        OutOfMemory: Memory ran out.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        clips = sum(batch.num_clips for batch in batches)
        tokens = max((batch.layout.num_tokens for batch in batches), default=0)
        longest = max((batch.layout.max_seqlen for batch in batches), default=0)
        raise OutOfMemory(
            f"out of memory with {clips} clips at once: {tokens:,} tokens in the largest batch, "
            f"{longest:,} in the longest clip ({first_line(error)})",
            hint,
        ) from error


def memory_hint(config: RunConfig) -> str:
    """Returns a hint with the settings that memory depends on, and their values."""
    packing, train = config.packing, config.train
    size = "batch_tokens" if packing.batch_tokens else "batch_clips"
    length = "fixed_frames" if config.length.fixed_frames else "max_frames"
    accumulated = f", train.accumulate ({train.accumulate})" if train.accumulate > 1 else ""
    each = f" in each of {train.loader_workers} workers" if train.loader_workers > 0 else ""
    return (
        f"lower packing.{size} ({getattr(packing, size)}){accumulated}, "
        f"length.{length} ({getattr(config.length, length)}) or train.cache_mb "
        f"({train.cache_mb}{each}) and start anew (a smaller batch with a larger "
        "train.accumulate takes the same steps)"
    )
