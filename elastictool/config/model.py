"""The model: its size, its patches, its positions, what it makes of the tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from elastictool.config.check import require

PositionFit = Literal["interpolate", "slice"]
Resize = Literal["pi", "bl", "bl-plain"]
PoolKind = Literal["average", "max"]

SIZES: Mapping[str, tuple[int, int]] = {"tiny": (192, 3), "small": (384, 6), "base": (768, 12)}
"""Width and heads of the named model sizes (DeiT's Ti, S, B)."""


@dataclass(frozen=True)
class ModelConfig:
    """Everything that shapes a model, imported ones too. Pairs are (frequency, time); one number
    stands for both.
    """

    preset: Literal["elasticast", "ast", "flexiast"] = "elasticast"
    """Sets ``pos_embed``, ``prefix_tokens``, ``pooling`` and ``fc_norm_eps`` as a paper does,
    where they are not set themselves: ``elasticast`` for clips of any length, ``ast`` for one fixed
    length (``length.fixed_frames``), ``flexiast`` an AST whose ``flexi.sizes`` are the paper's."""
    width: int = 768
    """Features of a token, a multiple of ``heads``. With ``heads`` it is what ``model.size`` sets.
    """
    depth: int = 12
    """Transformer blocks. A few serve small data better and run faster."""
    heads: int = 12
    """Attention heads of a block."""
    mlp_ratio: float = 4.0
    """Width of a block's hidden layer, as a multiple of ``width``."""
    num_mel_bins: int = 128
    """Mel bands that the model expects; ``fbank.num_mel_bins`` must be the same."""
    patch_size: tuple[int, int] = (16, 16)
    """Mel bins and frames of a patch, at most as many bins as there are. Smaller patches mean more
    tokens, more detail and more time. ElasticAST and AST: 16 by 16."""
    patch_stride: tuple[int, int] = (16, 16)
    """Mel bins and frames from patch to patch; ``patch_size`` sets it, too. Below it patches
    overlap (AST: 10 of 16)."""
    pos_embed: Literal["factorised", "grid"] = "factorised"
    """Learned positions: a frequency and a time table, added (``factorised``, ElasticAST), or one
    table over both (``grid``, AST)."""
    grid: tuple[int, int] = (0, 0)
    """Patches that the position tables are trained for; 0 takes what the data need."""
    pos_embed_fit: PositionFit = "interpolate"
    """How one ``grid`` table serves clips of another length: stretched (``interpolate``), or its
    first columns (``slice``)."""
    pos_embed_overflow: Literal["interpolate", "error"] = "interpolate"
    """What a clip gets that is longer than a ``factorised`` time table: the table stretched
    (``interpolate``), or an ``error``."""
    resize: Resize = "pi"
    """How the patch kernel serves patches of another size: ``pi`` (FlexiAST's PI-resize), ``bl``
    (bilinear, antialiased as published) or ``bl-plain`` (without antialiasing)."""
    prefix_tokens: int = 0
    """Learned tokens before each clip's patches: 0, 1 (cls) or 2 (cls and distillation)."""
    pooling: Literal["attention", "mean", "prefix"] = "attention"
    """How a clip's tokens become one vector: by ``attention`` of a learned query (ElasticAST
    Section 2.2), the ``mean`` of the patches, or the mean of the ``prefix`` tokens (AST)."""
    norm_eps: float = 1e-6
    """Added to the variance in the blocks' LayerNorms, above 0. Imported weights bring their own.
    """
    fc_norm: bool = True
    """Whether a LayerNorm stands before the classifier, as in both published models; attention
    pooling hardly learns without."""
    fc_norm_eps: float = 1e-6
    """As ``norm_eps``, for the LayerNorm before the classifier."""
    attention_scale: float = 0.0
    """Factor on attention scores; 0 is 1 / sqrt(width of a head). The published ElasticAST code
    has 1."""
    initialization: Literal["vit", "official", "scaled"] = "vit"
    """How new weights are drawn: ``vit`` (standard deviation 0.02, for width 768 and long
    training), ``official`` (as the published ElasticAST code), or ``scaled`` (by each weight's
    size, for narrow models and short training)."""
    dropout: float = 0.0
    """Share of features dropped behind attention and hidden layer in training, 0 (off) up to but
    not 1."""
    num_classes: int = 0
    """Classes that the model tells apart; 0 takes those of the data."""

    def __post_init__(self) -> None:
        require(self.width > 0, "model.width must be positive")
        require(self.depth > 0, "model.depth must be positive")
        require(
            self.heads > 0 and self.width % self.heads == 0,
            f"model.heads ({self.heads}) must divide model.width ({self.width})",
        )
        require(min(self.patch_size) > 0, "model.patch_size must be positive")
        require(min(self.patch_stride) > 0, "model.patch_stride must be positive")
        require(min(self.grid) >= 0, "model.grid must not be negative")
        require(0 <= self.prefix_tokens <= 2, "model.prefix_tokens must be 0, 1 or 2")
        require(
            self.pooling != "prefix" or self.prefix_tokens > 0,
            "model.pooling = prefix needs model.prefix_tokens of 1 or 2",
        )
        # At 0, a token whose features are all alike is divided by 0.
        require(self.norm_eps > 0, "model.norm_eps must be above 0")
        require(self.fc_norm_eps > 0, "model.fc_norm_eps must be above 0")
        require(self.attention_scale >= 0, "model.attention_scale must not be negative")
        require(0 <= self.dropout < 1, "model.dropout must be in 0..1")
        require(self.mlp_ratio > 0, "model.mlp_ratio must be above 0")
        require(self.num_classes >= 0, "model.num_classes must not be negative")
