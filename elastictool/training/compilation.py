"""Compiled encoder blocks for training.

What is compiled are the two functions of a block around attention. They see tokens and weights
only, so one piece of code with a symbolic number of tokens serves every batch and every block;
attention depends on each batch's layout and has kernels of its own, and the rest of the model is
a few operations per clip. The compiler is first shown the first batch of the run, also when the
run is resumed: what it makes of a function may depend on the sizes that it meets first, and a
resumed run has to compute the same bits as one that was never stopped.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from functools import partial

import torch

from elastictool.errors import ElasticToolError, UsageError
from elastictool.models.encoder import Block
from elastictool.models.transformer import SpectrogramTransformer
from elastictool.packing.batch import PackedBatch
from elastictool.training.scoring import autocast

_OFF = "--set train.compile=false trains without compiling"


def check_compiler(device: str) -> None:
    """Refuse to start where nothing can be compiled.

    Raises:
        UsageError: No C++ compiler (CPU), or no triton (CUDA).
    """
    if device.startswith("cuda"):
        if importlib.util.find_spec("triton") is None:
            raise UsageError("train.compile = true needs triton on CUDA", f"install it, or {_OFF}")
        return
    compiler = os.environ.get("CXX") or _default_compiler()
    if shutil.which(compiler) is None:
        raise UsageError(
            f"train.compile = true needs a C++ compiler on a CPU, and {compiler!r} is not there",
            f"install one (g++, or name it in the variable CXX), or {_OFF}",
        )


def compile_blocks(model: SpectrogramTransformer, backend: str = "inductor") -> None:
    """Put compiled code in place of the blocks' own functions; weights and names stay.

    Args:
        model: Its blocks are changed.
        backend: Of ``torch.compile``.
    """
    # What another run in this process compiled would count towards torch's limit of variants.
    torch.compiler.reset()
    for name in ("before_attention", "after_attention"):
        compiled = torch.compile(getattr(Block, name), dynamic=True, backend=backend)
        for block in model.blocks:
            setattr(block, name, partial(compiled, block))


def warm_up(model: SpectrogramTransformer, batch: PackedBatch, precision: str) -> None:
    """Compile for training and for validation on ``batch``; changes no weight or random state.

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
            model.eval()
            with torch.inference_mode():
                model(batch)
    except torch._dynamo.exc.TorchDynamoException as error:
        reason = str(error).strip().splitlines()[0]
        raise ElasticToolError(f"the model could not be compiled: {reason}", _OFF) from error
    model.zero_grad(set_to_none=True)


def _default_compiler() -> str:
    """What torch compiles C++ with where the variable CXX is not set."""
    return {"win32": "cl", "darwin": "clang++"}.get(sys.platform, "g++")
