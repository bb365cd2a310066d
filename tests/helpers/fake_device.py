"""Runs the model on a device that exists in name only, and prints the outcome as JSON.

Tensors of the device are fake: they have sizes and a device, no values. So whatever asks for a
value raises, and so does an operation on tensors of the device and of the host, as on CUDA. The
device is torch's ``privateuse1`` backend under another name; it stays in the process that
registers it, hence ``python -m tests.helpers.fake_device``.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily

from benchmarks.gpu_jobs import EPIC, random_raw_batch
from elastictool.audio import epic_fbank, kaldi_fbank
from elastictool.config import FbankConfig
from elastictool.models import pooling, resize
from elastictool.models.attention.base import ATTENTION
from elastictool.models.attention.flex import segment_block_mask
from elastictool.models.transformer import SpectrogramTransformer
from elastictool.packing.batch import PackedBatch
from elastictool.packing.layout import map_tensors
from tests.helpers.small_models import MODELS, make_batch, make_model, make_rows

DEVICE = "pretended"
BACKENDS = ("split", "reference", "varlen")
PRECISIONS = ("fp32", "bf16")
EXTRACTORS = {"kaldi": FbankConfig(), "kaldi-7.3": FbankConfig(shift_ms=7.3), "epic": EPIC}

_library, _everything = torch.library.Library("aten", "IMPL"), torch.library.Library("_", "IMPL")


class _Module(torch.utils.backend_registration._DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


def register() -> None:
    """Make torch know the device, with autocast as CUDA has it for what the model computes."""
    torch.utils.backend_registration._setup_privateuseone_for_python_backend(DEVICE, _Module())
    _everything.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    half, full = torch.bfloat16, torch.float32
    for name, dtype in {"linear": half, "bmm": half, "matmul": half, "layer_norm": full}.items():
        _library.impl(name, _cast(getattr(torch.ops.aten, name), dtype), "AutocastPrivateUse1")


def _cast(operator: Callable[..., Any], dtype: torch.dtype) -> Callable[..., Any]:
    def cast(*arguments: Any) -> Any:
        with torch.autocast(DEVICE, enabled=False):
            return operator(*(x.to(dtype) if isinstance(x, Tensor) else x for x in arguments))

    return cast


class Fakes:
    """Makes fakes of real tensors, on the device or still on the host."""

    def __init__(self) -> None:
        self.mode = FakeTensorMode()
        resize._axis_matrix.cache_clear()  # what it keeps is fake, and of another mode

    def on_host(self, tensor: Tensor) -> Tensor:
        """The tensor without its values."""
        with unset_fake_temporarily():
            return self.mode.from_tensor(tensor.detach())

    def on_device(self, tensor: Tensor) -> Tensor:
        """The same, moved."""
        with self.mode, torch.no_grad():
            return self.on_host(tensor).to(DEVICE)

    def model(self, real: SpectrogramTransformer) -> SpectrogramTransformer:
        """``real``, its weights on the device."""
        for module in real.modules():
            for name, weight in module._parameters.items():
                if weight is not None:
                    module._parameters[name] = torch.nn.Parameter(self.on_device(weight))
        return real


def step(kind: str, backend: str, precision: str) -> None:
    """Forward and backward of a model of that kind."""
    config, fakes = MODELS[kind], Fakes()
    real = make_batch(config, make_rows(), backend).astype(torch.float32)
    model = fakes.model(make_model(config, torch.float32))
    model.attention = backend
    batch: PackedBatch = map_tensors(real, fakes.on_device)
    half = torch.autocast(DEVICE, torch.bfloat16) if precision == "bf16" else nullcontext()
    with fakes.mode:
        with half:
            logits = model(batch)
        assert logits.shape == (6, 5) and logits.device.type == DEVICE
        assert logits.dtype == (torch.bfloat16 if precision == "bf16" else torch.float32)
        logits.float().square().sum().backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None and weight.grad.device.type == DEVICE, name


def features(config: FbankConfig) -> None:
    """What the device makes of samples."""
    fakes = Fakes()
    samples = random_raw_batch((40, 70, 33), config)
    with constants_made_on_the_host(fakes), fakes.mode:
        batch = map_tensors(samples, fakes.on_host).to(DEVICE, non_blocking=True).compute_features()
    patches = batch.patch_groups[0].patches
    assert patches.device.type == DEVICE and patches.shape[1] == 256


@contextmanager
def constants_made_on_the_host(fakes: Fakes) -> Iterator[None]:
    """A front end's tables are made once, from real values, before any batch."""
    kept = kaldi_fbank._constants, epic_fbank._constants

    def kaldi(config: FbankConfig, dtype: torch.dtype, device: torch.device) -> Any:
        with unset_fake_temporarily():
            made = kept[0].__wrapped__(config, dtype, torch.device("cpu"))
        return _moved(made, fakes)

    def epic(config: FbankConfig, device: torch.device) -> Any:
        with unset_fake_temporarily():
            made = kept[1].__wrapped__(config, torch.device("cpu"))
        return _moved(made, fakes)

    kaldi_fbank._constants, epic_fbank._constants = kaldi, epic  # type: ignore[assignment]
    try:
        yield
    finally:
        kaldi_fbank._constants, epic_fbank._constants = kept


def _moved(made: Any, fakes: Fakes) -> Any:
    if isinstance(made, Tensor):
        return fakes.on_device(made)
    if isinstance(made, tuple):  # plain, or a NamedTuple
        parts = [_moved(part, fakes) for part in made]
        return type(made)(*parts) if hasattr(made, "_fields") else tuple(parts)
    return map_tensors(made, fakes.on_device) if hasattr(made, "__dataclass_fields__") else made


def block_mask() -> None:
    """FlexAttention's mask, from the layout's integers."""
    fakes = Fakes()
    layout = make_batch(MODELS["elasticast"], make_rows()).layout
    with fakes.mode:
        mask = segment_block_mask(map_tensors(layout, fakes.on_device))
    assert mask.kv_indices.device.type == DEVICE


def reads_a_value(tokens: Tensor, *arguments: Any) -> Tensor:
    """A mistake: the host waits for a number."""
    return tokens * (1.0 if tokens.sum().item() == 0 else 2.0)


def indexes_from_the_host(tokens: Tensor, *arguments: Any) -> Tensor:
    """Another: places are looked up on the host."""
    return tokens.index_select(0, torch.arange(len(tokens)))


@contextmanager
def mistake(wrong: Callable[..., Tensor]) -> Iterator[None]:
    """``wrong`` in the pooling."""
    right = pooling.segment_softmax
    pooling.segment_softmax = lambda scores, *rest: wrong(right(scores, *rest))
    try:
        yield
    finally:
        pooling.segment_softmax = right


def outcome(case: Callable[..., None], *arguments: Any) -> str:
    """Nothing where all is well, else the error with its traceback."""
    try:
        case(*arguments)
    except Exception:
        return traceback.format_exc()
    return ""


def main() -> None:
    """Every case under its name."""
    from torch.nn.attention.varlen import varlen_attn

    register()
    ATTENTION["varlen"]._kernel = varlen_attn  # type: ignore[attr-defined]
    found = {
        f"{kind}/{backend}/{precision}": outcome(step, kind, backend, precision)
        for kind in MODELS
        for backend in BACKENDS
        for precision in PRECISIONS
    }
    found |= {f"features/{name}": outcome(features, config) for name, config in EXTRACTORS.items()}
    found["block mask"] = outcome(block_mask)
    for wrong in (reads_a_value, indexes_from_the_host):
        with mistake(wrong):
            found[wrong.__name__] = outcome(step, "elasticast", "split", "fp32")
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
