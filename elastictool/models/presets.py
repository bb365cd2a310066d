"""Builds the papers' three models by name and size, for users' own training loops.

Each is a ``SpectrogramTransformer`` with a paper's settings; any setting of ``ModelConfig`` can be
given by its name and wins over the preset's.
"""

from __future__ import annotations

from typing import Any, Literal

from elastictool.config import FbankConfig, ModelConfig
from elastictool.config.loader import run_config
from elastictool.models.transformer import SpectrogramTransformer
from elastictool.packing.grid import grid_shape

Size = Literal["tiny", "small", "base"]
"""Width and heads of DeiT's Ti (192, 3), S (384, 6) and B (768, 12); all have 12 blocks."""


class ElasticAST(SpectrogramTransformer):
    """A transformer for clips of any length: factorised positions, attention pooling.

    Args:
        size: Width and heads; ``width`` and ``heads`` among the settings win.
        num_classes: Classes of the classifier; 0 leaves it out, and the model returns embeddings.
        max_frames: Frames that the time positions are made for. Longer clips are served as well,
            by positions that are interpolated for them.
        attention: Attention backend, or ``auto`` for the fastest one.
        **settings: Fields of ``ModelConfig``, for example ``depth=4`` or ``patch_size=8``; pairs
            are (frequency, time), one number stands for both.

    Raises:
        UsageError: A setting is unknown or wrong; the message names the nearest one.

    Source: ElasticAST (Interspeech 2024), Section 2.
    """

    def __init__(
        self,
        size: Size = "base",
        num_classes: int = 0,
        max_frames: int = 3_072,
        attention: str = "auto",
        **settings: Any,
    ) -> None:
        config = _config("elasticast", size, num_classes, max_frames, settings)
        super().__init__(config, attention)


class AST(SpectrogramTransformer):
    """The standard audio spectrogram transformer: one position grid, a cls token.

    It is made for clips of one length, ``frames``: cut or pad them to it, as the paper does. For a
    clip of another length the grid is interpolated in time (``pos_embed_fit="slice"`` takes its
    first columns instead), which works but costs accuracy.

    Args:
        size: Width and heads; ``width`` and ``heads`` among the settings win.
        num_classes: Classes of the classifier; 0 leaves it out, and the model returns embeddings.
        frames: Frames of a clip.
        attention: Attention backend, or ``auto`` for the fastest one.
        **settings: Fields of ``ModelConfig``; see ``ElasticAST``. Overlapping patches as in the
            paper are ``patch_stride=10``, with ``stride=10`` in ``pack``.

    Raises:
        UsageError: A setting is unknown or wrong; the message names the nearest one.

    Source: AST (Gong et al., Interspeech 2021), Section 2; without ImageNet weights.
    """

    _preset: Literal["ast", "flexiast"] = "ast"

    def __init__(
        self,
        size: Size = "base",
        num_classes: int = 0,
        frames: int = 1_024,
        attention: str = "auto",
        **settings: Any,
    ) -> None:
        config = _config(self._preset, size, num_classes, frames, settings)
        super().__init__(config, attention)


class FlexiAST(AST):
    """An AST for any patch size: train it with a patch size drawn for each step.

    ``pack(features, patch_size=32)`` decides the patch size of a batch; kernel and positions are
    resized to it. Arguments are those of ``AST``; ``patch_size`` among the settings is the size of
    the kernel itself.

    Source: FlexiAST (Interspeech 2023), Section 2.
    """

    _preset = "flexiast"


def _config(
    preset: str, size: str, num_classes: int, frames: int, settings: dict[str, Any]
) -> ModelConfig:
    values = {"preset": preset, "size": size, "num_classes": num_classes, **settings}
    named = {f"model.{key}": value for key, value in values.items()}
    named["fbank.num_mel_bins"] = settings.get("num_mel_bins", FbankConfig.num_mel_bins)
    config = run_config(named, complete=False).model
    if "grid" in settings:
        return config
    sizes = config.patch_size, config.patch_stride
    named["model.grid"] = grid_shape(frames, config.num_mel_bins, *sizes, "pad")
    return run_config(named, complete=False).model
