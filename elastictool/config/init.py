"""Weights that a run starts from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from elastictool.config.check import require

Rgb = Literal["sum", "mean"]
GridFit = Literal["crop", "interpolate"]
PoolingStart = Literal["mean", "official", "random"]


@dataclass(frozen=True)
class InitConfig:
    """Weights that a run starts from, and how they are fitted to its model."""

    source: str = field(default="", metadata={"key": "from"})
    """Format of the weights; empty starts from new ones. Set together with ``path``."""
    path: str = ""
    """Where they are: a file, a folder, a run or the id of a model on Hugging Face."""
    model: Literal["config", "weights"] = "config"
    """Who decides about patches, positions and pooling: the section ``model`` (``config``), or the
    file (``weights``: exactly its model). Width, depth, heads and eps are always the file's."""
    head: Literal["keep", "replace"] = "keep"
    """What becomes of the classifier: ``keep`` it, or ``replace`` it by a new one, as new labels
    need."""
    rgb: Rgb = "sum"
    """How the three colours of a picture's kernel become one: their ``sum`` (AST) or ``mean``
    (PaSST)."""
    pos_embed: GridFit = "crop"
    """How a longer position table is fitted: cut (``crop``: those of pictures and AST at their
    middle) or stretched (``interpolate``). Shorter ones are always stretched."""
    grid_mean: Literal["once", "twice"] = "once"
    """Whether two factorised tables made of one grid hold its mean ``once``, as their sum should,
    or ``twice``, as published."""
    pooling: PoolingStart = "mean"
    """What attention pooling starts from, where the weights have none: the ``mean`` of the blocks'
    attention, the published code's value (``official``, a sixth of it), or at ``random``."""
    source_stride: tuple[int, int] = (0, 0)
    """Patch stride of the file, (frequency, time), where it cannot be inferred; 0 infers it."""
    heads: int = 0
    """Attention heads of the file; 0: as published models of its width have."""
    compat: Literal["none", "official"] = "none"
    """``official`` fits the weights as the published ElasticAST code does: ``rgb``, ``pos_embed``,
    ``grid_mean`` and ``pooling`` of its own, and attention without scale."""

    def __post_init__(self) -> None:
        require(bool(self.source) == bool(self.path), "set init.from and init.path together")
        require(min(self.source_stride) >= 0, "init.source_stride must not be negative")
        require(self.heads >= 0, "init.heads must be 0 (inferred) or above")
        chosen = (self.rgb, self.pos_embed, self.grid_mean, self.pooling)
        require(
            self.compat == "none" or chosen == ("sum", "crop", "once", "mean"),
            "init.compat = official sets rgb, pos_embed, grid_mean and pooling: leave them out",
        )
