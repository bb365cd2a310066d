"""Compile the encoder blocks for training.

Everything between the attentions is compiled. It depends on tokens and weights only, so one
compiled function with a symbolic number of tokens serves every batch and every block; attention
depends on each batch's layout and has kernels of its own, and the rest of the model is a few
operations per clip. The compiler sees the first batch of the run first, also when the run is
resumed: its code may depend on the sizes that it sees first, and a resumed run must compute the
same bits.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from elastictool.models.attention.base import missing_for_triton
from elastictool.models.encoder import Block
from elastictool.models.transformer import SpectrogramTransformer
from elastictool.packing.batch import PackedBatch
from elastictool.training.predict_logits import autocast
from elastictool.utils.errors import ElasticToolError, UsageError

_OFF = "--set train.compile=false trains without compiling"


def check_compiler(device: str) -> None:
    """Refuses a run where nothing can be compiled.

    Raises:
        UsageError: No C++ compiler (CPU), or no triton or nothing that it compiles with (CUDA).
    """
    if device.startswith("cuda"):
        missing = missing_for_triton()
        if missing:
            message = f"train.compile = true cannot work on CUDA: {missing}"
            raise UsageError(message, f"install what is missing, or {_OFF}")
        return
    default = {"win32": "cl", "darwin": "clang++"}.get(sys.platform, "g++")  # torch's own
    compiler = os.environ.get("CXX") or default
    if shutil.which(compiler) is None:
        raise UsageError(
            f"train.compile = true needs a C++ compiler on a CPU, and {compiler!r} is not there",
            f"install one (g++, or name it in the variable CXX), or {_OFF}",
        )


def compile_blocks(
    model: SpectrogramTransformer, backend: str | Callable[..., Any] = "inductor"
) -> None:
    """Replaces the blocks' functions by compiled ones; weights and names stay.

    Dropout draws what it would draw without compiling, so that only rounding differs.

    Args:
        model: Its blocks are changed.
        backend: Of ``torch.compile``.
    """
    # What another run in this process compiled would count towards torch's limit of variants.
    torch.compiler.reset()
    options: dict[str, Any] | None = {"fallback_random": True} if backend == "inductor" else None
    blocks = list(model.blocks)
    # Only where ``encode`` calls them: what calls one another is compiled as one.
    for name, users in (
        ("before_attention", blocks[:1]),
        ("to_next", blocks[:-1]),
        ("after_attention", blocks[-1:]),
    ):
        function = getattr(Block, name)
        compiled = torch.compile(function, dynamic=True, backend=backend, options=options)
        for block in users:
            setattr(block, name, partial(compiled, block))


def warm_up(
    model: SpectrogramTransformer, batch: PackedBatch, precision: str, validating: bool
) -> None:
    """Compiles on ``batch`` for training, and for validation; changes no weight or random state.

    Raises:
        ElasticToolError: The compiler failed.
    """
    device = next(model.parameters()).device
    devices = [device] if device.type == "cuda" else []
    batch = batch.to(device)
    try:
        with torch.random.fork_rng(devices), autocast(device, precision):
            model.train()
            model(batch).sum().backward()
            if validating:
                model.eval()
                with torch.inference_mode():
                    model(batch)
    except torch._dynamo.exc.TorchDynamoException as error:
        reason = " ".join(str(error).split("\n")[:2])
        raise ElasticToolError(f"the model could not be compiled: {reason}", _OFF) from error
    model.zero_grad(set_to_none=True)
