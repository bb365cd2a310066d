"""Names what of a recording was not read, for notes of ``prep``, ``predict`` and ``embed``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

Losses = Mapping[str, int]
"""Counts of what was lost of one recording, by names of ``LOSSES``."""

LOSSES = {
    "damaged_packets": "packets that cannot be decoded, silence took their place",
    "unread_bytes": "bytes behind the audio that the header states, they were not read",
    "other_streams": "further audio streams, only the first was read",
    "cancelled_channels": "channels that cancel each other in their mean, which was taken "
    "(prep --channel first takes one of them)",
}
"""Attributes of an opened recording that count what was lost of it, as notes name them."""


def loss_notes(found: Iterable[tuple[str, Losses]], shown: int = 3) -> Iterator[str]:
    """Yields a note on each kind of loss.

    Args:
        found: Names of recordings and their losses. Slices of one file have its name: their
            damaged packets are added up, the rest is that of the whole file in each.
        shown: Recordings that a note names, with their counts, the largest first.
    """
    counts: dict[str, Counter[str]] = {kind: Counter() for kind in LOSSES}
    for name, losses in found:
        for kind, count in losses.items():
            before = counts[kind][name]
            adds = kind == "damaged_packets"
            counts[kind][name] = before + count if adds else max(before, count)
    for kind, files in counts.items():
        if files:
            some = ", ".join(f"{name} ({count:,})" for name, count in files.most_common(shown))
            more = f", and {len(files) - shown:,} more" if len(files) > shown else ""
            have = "1 file has" if len(files) == 1 else f"{len(files):,} files have"
            yield f"{have} {LOSSES[kind]}: {some}{more}"
