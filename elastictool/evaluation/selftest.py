"""Check in two seconds that an installation computes correctly.

No replacement for the tests: it finds a broken library build or a faulty device on the user's
machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from elastictool.evaluation.installation import attempt, usable_devices

if TYPE_CHECKING:
    from torch import Tensor

FBANK_PEAKS = {
    0: (13, 2.7142, -13.2874),
    11: (33, 5.0482, -12.7899),
    23: (48, 6.0939, -13.0278),
    35: (60, 6.8367, -13.2912),
    47: (70, 7.4950, -13.4628),
}
"""For some frames of ``chirp``: the loudest mel bin, its log energy, and the mean over all bins.

Source: ``torchaudio.compliance.kaldi.fbank`` (a test computes them again).
"""

_TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2}


@dataclass(frozen=True)
class Check:
    """The result of one check.

    Attributes:
        name: What was computed.
        passed: Whether it is correct.
        detail: The largest difference, or what went wrong.
    """

    name: str
    passed: bool
    detail: str


def self_test() -> list[Check]:
    """Checks the filterbank, and on each device packed clips and resized kernels."""
    checks: list[tuple[str, Callable[[str], Check]]] = [("filterbank", _filterbank)]
    for device in usable_devices() or ["cpu"]:
        for dtype in ("float32", "bfloat16"):
            check = partial(_packed, device=device, dtype=dtype)
            checks.append((f"packed equals unpacked ({device}, {dtype})", check))
        checks.append((f"resized kernels ({device})", partial(_resized, device=device)))
    return [attempt(partial(check, name), partial(Check, name, False)) for name, check in checks]


def _filterbank(name: str) -> Check:
    import numpy as np
    import torch

    from elastictool.audio.fbank import fbank
    from elastictool.config import FbankConfig

    time_s = np.arange(8_000) / 16_000
    chirp = 0.5 * np.sin(2 * np.pi * (200 * time_s + 2_000 * time_s * time_s))
    frames = fbank(torch.from_numpy(chirp.astype(np.float32)), FbankConfig())
    rows = frames[list(FBANK_PEAKS)]
    peaks, highest, means = torch.tensor(list(FBANK_PEAKS.values())).T
    same_bins = torch.equal(rows.argmax(dim=1), peaks.long())
    differences = torch.stack((rows.amax(dim=1) - highest, rows.mean(dim=1) - means))
    off = float(differences.abs().max())
    return Check(name, same_bins and off < 2e-3, f"largest difference to stored values {off:.1e}")


def _packed(name: str, device: str, dtype: str) -> Check:
    """Compares a tiny model's logits of clips in one stream with those of each clip alone."""
    import torch

    from elastictool.config import ModelConfig
    from elastictool.data.collate import Example, PackSpec, collate
    from elastictool.models.transformer import SpectrogramTransformer

    with torch.random.fork_rng(), torch.inference_mode():
        torch.manual_seed(0)
        config = ModelConfig(width=64, depth=2, heads=2, grid=(8, 17), num_classes=7)
        model = SpectrogramTransformer(config).to(device).eval()
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape).to(device))
        spec = PackSpec(config.patch_size, config.patch_stride)
        clips = [
            Example(torch.randn(frames, config.num_mel_bins), torch.zeros(7), "", 10.0)
            for frames in (100, 33, 257, 16, 64)
        ]
        kind = getattr(torch, dtype)
        with torch.autocast(device, kind, enabled=kind is not torch.float32):
            packed, *alone = (
                _fetched(model(collate([row], spec).to(device)))
                for row in (clips, *([clip] for clip in clips))
            )
    expected = torch.cat(alone)
    differ = bool((expected.std(dim=0) > 1e-3).all())  # equal because constant would prove nothing
    return compare(name, packed, expected, _TOLERANCE[dtype], differ)


def _resized(name: str, device: str) -> Check:
    """Compares enlarged kernels on enlarged patches with the kernels on the patches."""
    import torch
    import torch.nn.functional as F

    from elastictool.models.resize import pi_resize

    generator = torch.Generator().manual_seed(0)
    kernels, patches = (torch.randn(5, 16, 16, generator=generator) for _ in range(2))
    resized = _fetched(pi_resize(kernels.to(device), (24, 40)))
    kernels, patches = kernels.double(), patches.double()
    larger = F.interpolate(patches[None], size=(24, 40), mode="bilinear", antialias=False)[0]
    expected = (kernels * patches).sum(dim=(1, 2))
    found = (resized * larger).sum(dim=(1, 2))
    return compare(name, found, expected, _TOLERANCE["float32"])


def _fetched(values: Tensor) -> Tensor:
    """Returns values on the host in float64: a faulty device must not compare its own results."""
    return values.detach().cpu().double()


def compare(
    name: str, found: Tensor, expected: Tensor, tolerance: float, sound: bool = True
) -> Check:
    """Checks that two tensors on the host agree and are finite."""
    off = float((found - expected).abs().max() / expected.abs().max())
    passed = sound and math.isfinite(off) and 0 <= off < tolerance
    return Check(name, passed, f"largest relative difference {off:.1e}")
