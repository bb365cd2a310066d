"""How clips become batches."""

from __future__ import annotations

from dataclasses import dataclass

from elastictool.config.check import require

COMPILED_MULTIPLE = 128
"""Slots that streams are filled up to a multiple of where code is compiled."""


@dataclass(frozen=True)
class PackingConfig:
    """How clips become batches: a planner fills rows with the tokens of several clips."""

    planner: str = "first-come"
    """Who decides which clips share a row; planners of a window (``…-decreasing`` and
    ``sorted-window``, see ``window``) also decide which share a batch. ``first-come`` is the
    paper's (ElasticAST Section 2.2); ``balanced`` leaves less padding."""
    capacity: int = 2_048
    """Tokens that a row holds; a longer clip gets a row of its own. ElasticAST Section 2.2: 2,048.
    """
    batch_clips: int = 12
    """Batch size in clips, all processes together. ElasticAST Section 3.2: 12. More need more
    memory and usually a higher ``train.lr``."""
    batch_tokens: int = 0
    """Above 0: a batch holds as many clips as fit into so many tokens, whatever ``batch_clips``
    says. It keeps memory even where lengths differ much. 0 is off."""
    window: int = 4_096
    """Shuffled clips that a planner of a window chooses from, rounded down to whole batches; other
    planners have no use for it."""
    pad_to_multiple_of: int = 0
    """Training fills each stream of tokens up to a multiple of so many, so that batches come in few
    sizes; 1 fills nothing up, 0 is 128 with ``train.compile``, else 1."""

    def __post_init__(self) -> None:
        require(
            self.pad_to_multiple_of >= 0, "packing.pad_to_multiple_of must be 0 (auto) or above"
        )
        require(self.capacity > 0, "packing.capacity must be above 0")
        require(self.batch_clips > 0, "packing.batch_clips must be above 0")
        require(self.batch_tokens >= 0, "packing.batch_tokens must be 0 (off) or above")
        require(self.window > 0, "packing.window must be above 0")
