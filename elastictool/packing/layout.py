"""Defines which token of a packed stream belongs to which clip.

A batch is one stream of ``stream_length`` tokens, cut into spans: a span is one clip's segment, or
padding. Flat layouts have no padding, or a little at their end (the fast path); padded rows are
the paper's B rows of L tokens laid end to end (ElasticAST, Section 2.2), so that the dense mask
needs a reshape only. A layout is built once per batch from Python integers: nothing in ``forward``
asks the device for a size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

PAD = -1
"""Segment id of padding."""

R = TypeVar("R")


@dataclass(frozen=True)
class SegmentLayout:
    """Positions of S segments in a stream of tokens.

    Attributes:
        lengths: Tokens of each segment, prefix tokens included (S integers).
        starts: Position of each segment's first token (S integers, ascending).
        span_lengths: Lengths of all spans in stream order, padding included.
        span_segments: The segment of each span, or ``PAD``.
        stream_length: Length of the stream.
        rows_shape: (B, L) where the stream is B padded rows of L tokens, else None.
        prefix_tokens: Leading tokens of each segment that are no patches (cls, distillation).
        segment_ids: (stream_length,) int64, ``PAD`` where there is none.
        max_span: Length of the longest span.
        cu_seqlens: (S + 1,) int32, cumulative lengths of the segments, without padding.
        cu_spans: (spans + 1,) int32, start of each span and the end of the stream.
        token_indices: (N,) int64, positions of the tokens that are no padding, in segment order.
    """

    lengths: tuple[int, ...]
    starts: tuple[int, ...]
    span_lengths: tuple[int, ...]
    span_segments: tuple[int, ...]
    stream_length: int
    rows_shape: tuple[int, int] | None
    prefix_tokens: int
    max_span: int
    segment_ids: Tensor
    cu_seqlens: Tensor
    cu_spans: Tensor
    token_indices: Tensor

    @property
    def num_segments(self) -> int:
        """S."""
        return len(self.lengths)

    @property
    def num_tokens(self) -> int:
        """N, the tokens that are no padding."""
        return sum(self.lengths)

    @property
    def max_seqlen(self) -> int:
        """Tokens of the longest segment."""
        return max(self.lengths)

    def prefix_rows(self) -> Tensor:
        """(S, prefix tokens) int64: rows of the prefix tokens among tokens without padding."""
        first = self.cu_seqlens[:-1].long()
        return first[:, None] + torch.arange(self.prefix_tokens, device=first.device)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> SegmentLayout:
        """Moves all tensors to ``device``."""
        return map_tensors(self, lambda tensor: tensor.to(device, non_blocking=non_blocking))


def map_tensors(record: R, change: Callable[[Tensor], Tensor]) -> R:
    """Changes each tensor of a dataclass, also those in its dataclasses and tuples of these."""
    changed: dict[str, Any] = {}
    for field in fields(record):  # type: ignore[arg-type]
        old = getattr(record, field.name)
        new = _mapped(old, change)
        if new is not old:
            changed[field.name] = new
    return replace(record, **changed) if changed else record  # type: ignore[type-var]


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if is_dataclass(value):
        return map_tensors(value, change)
    # Long tuples of integers and ids are skipped: they hold nothing else.
    holds = isinstance(value, tuple) and value and not isinstance(value[0], int | str)
    return tuple(_mapped(item, change) for item in value) if holds else value


def build_layout(
    rows: Sequence[Sequence[int]],
    prefix_tokens: int = 0,
    padded_rows: bool = False,
    multiple: int = 1,
) -> SegmentLayout:
    """Lays segments out in stream order.

    Args:
        rows: Token counts of the segments of each row, prefix tokens included. Segments are
            numbered row by row.
        prefix_tokens: Leading non-patch tokens of each segment.
        padded_rows: Pad each row to the longest (the paper's rows); without it the
            rows follow one another without a gap.
        multiple: Pad a flat stream to a multiple of this number of tokens, so that
            batches come in few sizes: compiled code and cached kernels depend on the size.

    Raises:
        ValueError: No segment, or a segment with no patch token.
    """
    lengths = tuple(length for row in rows for length in row)
    if not lengths or min(lengths) <= prefix_tokens:
        raise ValueError(
            f"every segment needs a token in addition to its {prefix_tokens} prefix tokens"
        )
    width = max(sum(row) for row in rows)
    spans: list[tuple[int, int]] = []
    starts: list[int] = []
    stop = 0
    for row in rows:
        for length in row:
            spans.append((length, len(starts)))
            starts.append(stop)
            stop += length
        if padded_rows and sum(row) < width:
            spans.append((width - sum(row), PAD))
            stop += width - sum(row)
    if not padded_rows and stop % multiple:
        spans.append((-stop % multiple, PAD))
        stop += spans[-1][0]
    span_lengths, span_segments = zip(*spans, strict=True)
    segment_ids = torch.repeat_interleave(torch.tensor(span_segments), torch.tensor(span_lengths))
    return SegmentLayout(
        lengths=lengths,
        starts=tuple(starts),
        span_lengths=span_lengths,
        span_segments=span_segments,
        stream_length=stop,
        rows_shape=(len(rows), width) if padded_rows else None,
        prefix_tokens=prefix_tokens,
        segment_ids=segment_ids,
        max_span=max(span_lengths),
        cu_seqlens=_offsets(lengths),
        cu_spans=_offsets(span_lengths),
        token_indices=torch.nonzero(segment_ids != PAD).flatten(),
    )


def _offsets(lengths: Sequence[int]) -> Tensor:
    """Returns (len + 1,) int32: where each of the ``lengths`` starts, and the end."""
    return torch.tensor((0, *lengths)).cumsum(0).to(torch.int32)
