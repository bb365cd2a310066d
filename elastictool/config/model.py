"""Settings of the model, of its training patch sizes, and of the weights that it starts from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from elastictool.config.check import require, within

PositionFit = Literal["interpolate", "slice"]
Resize = Literal["pi", "bl", "bl-plain"]
PoolKind = Literal["average", "max"]
PatchAxes = Literal["both", "time", "frequency"]
GridFit = Literal["crop", "interpolate"]

SIZES: Mapping[str, tuple[int, int]] = {"tiny": (192, 3), "small": (384, 6), "base": (768, 12)}
"""Width and heads of the named model sizes (DeiT's Ti, S, B)."""
PATCH_SIZES = (8, 10, 12, 16, 20, 24, 30, 32, 40, 48)
"""Patch sizes that FlexiAST trains with. Source: FlexiAST Section 2.3."""
_AST = {
    "model.pos_embed": "grid",
    "model.prefix_tokens": 1,
    "model.pooling": "prefix",
    "model.fc_norm_eps": 1e-5,
}
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "elasticast": {
        "model.pos_embed": "factorised",
        "model.prefix_tokens": 0,
        "model.pooling": "attention",
        "model.fc_norm_eps": 1e-6,
    },
    "ast": _AST,
    "flexiast": {**_AST, "flexi.sizes": PATCH_SIZES},
}
"""Settings that ``model.preset`` stands for; each can still be set to another value."""


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
    """Features of a token (``embed_dim``), a multiple of ``heads``. ``model.size`` sets both."""
    depth: int = 12
    """Transformer blocks. Fewer are faster and better for small data."""
    heads: int = 12
    """Attention heads of a block (``num_heads``)."""
    mlp_ratio: float = 4.0
    """Width of a block's hidden layer, as a multiple of ``width``."""
    num_mel_bins: int = 128
    """Mel bands that the model expects; ``fbank.num_mel_bins`` must be the same."""
    patch_size: tuple[int, int] = (16, 16)
    """Mel bins and frames of a patch, at most as many bins as there are. Smaller patches mean more
    tokens, more detail and more time. ElasticAST and AST: 16 by 16."""
    patch_stride: tuple[int, int] = (16, 16)
    """Mel bins and frames from patch to patch; ``patch_size`` also sets it. A smaller stride makes
    patches overlap (AST: 10 of 16)."""
    pos_embed: Literal["factorised", "grid"] = "factorised"
    """Learned positions: a frequency and a time table, added (``factorised``, ElasticAST), or one
    table over both (``grid``, AST)."""
    grid: tuple[int, int] = (0, 0)
    """Number of patches that the position tables hold; 0 takes what the data need."""
    pos_embed_fit: PositionFit = "interpolate"
    """How one ``grid`` table is fitted to clips of another length: interpolated (``interpolate``),
    or cut to its first columns (``slice``)."""
    pos_embed_overflow: Literal["interpolate", "error"] = "interpolate"
    """What happens to a clip that is longer than a ``factorised`` time table: the table is
    interpolated (``interpolate``), or the clip is an ``error``."""
    resize: Resize = "pi"
    """How the patch kernel is resized to another patch size: ``pi`` (FlexiAST's PI-resize), ``bl``
    (bilinear, antialiased as published) or ``bl-plain`` (without antialiasing)."""
    prefix_tokens: int = 0
    """Learned tokens before each clip's patches: 0, 1 (cls) or 2 (cls and distillation)."""
    pooling: Literal["attention", "mean", "prefix"] = "attention"
    """How a clip's tokens become one vector: by ``attention`` of a learned query (ElasticAST
    Section 2.2), the ``mean`` of the patches, or the mean of the ``prefix`` tokens (AST)."""
    norm_eps: float = 1e-6
    """Epsilon of the blocks' LayerNorms, above 0. Imported weights have their own."""
    fc_norm: bool = True
    """Whether a LayerNorm precedes the classifier, as in both published models; attention pooling
    hardly learns without it."""
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
    """Share of features dropped after attention and hidden layer in training, from 0 (off) to below
    1."""
    num_classes: int = 0
    """Number of classes; 0 takes those of the data."""

    def __post_init__(self) -> None:
        within("model.width", self.width, 1, 65_536)
        within("model.depth", self.depth, 1, 1_000)
        require(
            self.heads > 0 and self.width % self.heads == 0,
            f"model.heads ({self.heads}) must divide model.width ({self.width})",
        )
        for patch, stride, count in zip(self.patch_size, self.patch_stride, self.grid, strict=True):
            within("model.patch_size", patch, 1, 10_000)
            within("model.patch_stride", stride, 1, 10_000)
            within("model.grid", count, 0, 1_000_000)
        within("model.prefix_tokens", self.prefix_tokens, 0, 2)
        require(
            self.pooling != "prefix" or self.prefix_tokens > 0,
            "model.pooling = prefix needs model.prefix_tokens of 1 or 2",
        )
        # At 0, a token whose features are all alike is divided by 0.
        require(self.norm_eps > 0, "model.norm_eps must be above 0")
        require(self.fc_norm_eps > 0, "model.fc_norm_eps must be above 0")
        require(self.attention_scale >= 0, "model.attention_scale must not be negative")
        require(0 <= self.dropout < 1, "model.dropout must be in 0..1")
        require(self.mlp_ratio * self.width >= 1, "model.mlp_ratio must be above 0")
        require(self.mlp_ratio <= 100, "model.mlp_ratio must be at most 100")
        within("model.num_classes", self.num_classes, 0, 10_000_000)


@dataclass(frozen=True)
class FlexiConfig:
    """Patch sizes drawn in training, one for each optimiser step.

    Source: FlexiAST Section 2.3; time only for speakers, Section 3.3.
    """

    sizes: tuple[int, ...] = ()
    """Patch sizes to draw from, in mel bins and frames; empty: only ``model.patch_size``. FlexiAST
    Section 2.3: 8, 10, 12, 16, 20, 24, 30, 32, 40, 48."""
    weights: tuple[float, ...] = ()
    """Relative probability of each size, in the same order; empty: equal."""
    axes: PatchAxes = "both"
    """Axes that a drawn size applies to; the other axis keeps its size in ``model.patch_size``."""

    def __post_init__(self) -> None:
        require(all(size > 0 for size in self.sizes), "flexi.sizes must be above 0")
        require(len(set(self.sizes)) == len(self.sizes), "flexi.sizes names a size twice")
        require(
            not self.weights or len(self.weights) == len(self.sizes),
            f"flexi.weights has {len(self.weights)} values for {len(self.sizes)} sizes",
        )
        require(
            not self.weights or (min(self.weights) >= 0 and sum(self.weights) > 0),
            "flexi.weights must not be negative, nor all 0",
        )


@dataclass(frozen=True)
class InitConfig:
    """Weights that a run starts from, and how they are fitted to its model."""

    source: str = field(default="", metadata={"key": "from"})
    """Format of the weights; empty: new weights. Set together with ``path``."""
    path: str = ""
    """The weights: a file, a folder, a run or the id of a model on Hugging Face."""
    model: Literal["config", "weights"] = "config"
    """Where patches, positions and pooling come from: the section ``model`` (``config``), or the
    file (``weights``: exactly its model). Width, depth, heads and eps are always the file's."""
    head: Literal["keep", "replace"] = "keep"
    """What to do with the classifier: ``keep`` it, or ``replace`` it by a new one, as new labels
    need."""
    rgb: Literal["sum", "mean"] = "sum"
    """How the three colours of a picture's kernel become one: their ``sum`` (AST) or ``mean``
    (PaSST)."""
    pos_embed: GridFit = "crop"
    """How a longer position table is fitted: cut (``crop``: those of pictures and AST at their
    centre) or interpolated (``interpolate``). Shorter ones are always interpolated."""
    grid_mean: Literal["once", "twice"] = "once"
    """Whether two factorised tables made of one grid hold its mean ``once``, as their sum should,
    or ``twice``, as published."""
    pooling: Literal["mean", "official", "random"] = "mean"
    """What attention pooling starts from, where the weights have none: the ``mean`` of the blocks'
    attention, the published code's value (``official``, a sixth of it), or at ``random``."""
    fc_norm: Literal["new", "encoder"] = "new"
    """What the LayerNorm before a new classifier starts from: scale 1 and shift 0 (``new``), or the
    ``encoder``'s last LayerNorm."""
    source_stride: tuple[int, int] = (0, 0)
    """Patch stride of the file, (frequency, time), where it cannot be inferred; 0 infers it."""
    heads: int = 0
    """Attention heads of the file; 0: as published models of its width have."""
    compat: Literal["none", "official"] = "none"
    """``official`` fits the weights as the published ElasticAST code does: ``rgb``, ``pos_embed``,
    ``grid_mean``, ``pooling`` and ``fc_norm`` of its own, and attention without scale."""

    def __post_init__(self) -> None:
        require(bool(self.source) == bool(self.path), "set init.from and init.path together")
        require(min(self.source_stride) >= 0, "init.source_stride must not be negative")
        require(self.heads >= 0, "init.heads must be 0 (inferred) or above")
        chosen = (self.rgb, self.pos_embed, self.grid_mean, self.pooling, self.fc_norm)
        require(
            self.compat == "none" or chosen == ("sum", "crop", "once", "mean", "new"),
            "init.compat = official sets rgb, pos_embed, grid_mean, pooling and fc_norm: "
            "leave them out",
        )
