"""Change one clip of packed batches and look for differences in all others.

    python -m benchmarks.reliability leakage --cases 1000 --seed 1

A case draws a model, an attention backend, a type, patch sizes (one, or one for each clip), the
number and lengths of clips, and what becomes of one clip: other values, infinities, NaN, none at
all. The logits of all other clips must stay equal to the bit. Each case also compares the packed
logits with those of each clip alone, which other matrix shapes round differently.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from elastictool import AST, ElasticAST, FlexiAST, pack
from elastictool.models.attention.base import ATTENTION, AttentionInputs

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-11, torch.bfloat16: 0.15}
"""Largest difference from the clip alone, of logits of size 1."""
CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "larger": lambda clip: 100 * clip + 7,
    "zeros": torch.zeros_like,
    "NaN": lambda clip: torch.full_like(clip, torch.nan),
    "infinite": lambda clip: torch.full_like(clip, torch.inf),
    "1e30": lambda clip: torch.full_like(clip, 1e30),
    "reversed": lambda clip: clip.flip(0),
}
BINS, CLASSES = 32, 5
SETTINGS: dict[str, Any] = {"width": 24, "heads": 3, "depth": 2, "num_mel_bins": BINS}
MODELS = {"ElasticAST": ElasticAST, "AST": AST, "FlexiAST": FlexiAST}
SIZES = (4, 8, 16, (8, 4), (16, 2), (32, 8))


@dataclass(frozen=True)
class Case:
    """What a case found.

    Attributes:
        backend: Of attention.
        dtype: Of the model.
        leaked: Whether another clip's logits changed by a bit.
        difference: Largest difference of packed logits from those of each clip alone.
    """

    backend: str
    dtype: torch.dtype
    leaked: bool
    difference: float

    @property
    def agrees(self) -> bool:
        """Whether packing changes no more than rounding."""
        return self.difference <= TOLERANCE[self.dtype]


def measure(cases: int, seed: int) -> list[dict[str, Any]]:
    """Try the cases; return a row for each backend and type."""
    torch.set_num_threads(1)
    found: dict[tuple[str, torch.dtype], list[Case]] = {}
    kinds = [(backend, dtype) for backend in backends() for dtype in TOLERANCE]
    for number in range(cases):
        backend, dtype = kinds[number % len(kinds)]
        case = one_case(backend, dtype, np.random.default_rng([seed, number]))
        found.setdefault((backend, dtype), []).append(case)
        if case.leaked or not case.agrees:
            print(f"{backend}, {dtype}, case {seed}-{number}: {case}", flush=True)
    return [
        {
            "attention": backend,
            "type": str(dtype).removeprefix("torch."),
            "cases": len(several),
            "leaks": sum(case.leaked for case in several),
            "apart": sum(not case.agrees for case in several),
            "difference": max(case.difference for case in several),
        }
        for (backend, dtype), several in found.items()
    ]


def backends() -> list[str]:
    """Return the attention backends that work on this CPU."""
    inputs = AttentionInputs(torch.device("cpu"), torch.float32)
    return sorted(name for name in ATTENTION if not ATTENTION[name].unsupported(inputs))


def one_case(backend: str, dtype: torch.dtype, rng: np.random.Generator) -> Case:
    """Draw a case and try it."""
    name = [*MODELS][rng.integers(len(MODELS))]
    stride = bool(name == "AST" and rng.random() < 0.5)
    sizes = [SIZES[rng.integers(len(SIZES))] for _ in range(3)]
    several = name == "FlexiAST" or rng.random() < 0.3
    settings = SETTINGS | ({"patch_size": 8, "patch_stride": 5} if stride else {})
    model = _model(MODELS[name](num_classes=CLASSES, attention=backend, **settings), rng)
    count = int(rng.integers(2, 10))
    frames = [int(2 ** rng.uniform(0, 8)) for _ in range(count)]
    clips = [torch.from_numpy(rng.standard_normal((n, BINS), dtype=np.float32)) for n in frames]
    patches = [8 if stride or not several else sizes[rng.integers(3)] for _ in clips]
    steps = 5 if stride else None

    def logits(chosen: list[int], given: list[Tensor]) -> Tensor:
        batch = pack(
            [given[index] for index in chosen],
            patch_size=[patches[index] for index in chosen],
            stride=steps,
        )
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, dtype == torch.bfloat16):
            wide = torch.float64 if dtype == torch.float64 else torch.float32
            found: Tensor = model.to(wide)(batch.astype(wide))
        return found.double()

    everyone = list(range(count))
    before = logits(everyone, clips)
    victim = int(rng.integers(count))
    change = CHANGES[[*CHANGES][rng.integers(len(CHANGES))]]
    changed = [change(clip) if index == victim else clip for index, clip in enumerate(clips)]
    after = logits(everyone, changed)
    others = [index for index in everyone if index != victim]
    alone = torch.cat([logits([index], clips) for index in everyone])
    leaked = not torch.equal(before[others], after[others])
    return Case(backend, dtype, leaked, float((alone - before).abs().max()))


def _model(model: nn.Module, rng: np.random.Generator) -> nn.Module:
    """Give a model weights with which attention and positions matter, and logits of size 1."""
    generator = torch.Generator().manual_seed(int(rng.integers(1 << 30)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()
