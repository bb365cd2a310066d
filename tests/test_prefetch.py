"""Prefetched values come in order, in bounded number, and with its errors."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator

import pytest

from elastictool.data.prefetch import prefetched


class Source:
    """Counts what it was asked for; item ``broken`` cannot be made."""

    def __init__(self, items: int, broken: int = -1) -> None:
        self.items, self.broken = items, broken
        self.made, self.closed = 0, False
        self.threads: set[int] = set()

    def __call__(self) -> Generator[int, None, None]:
        try:
            for item in range(self.items):
                self.threads.add(threading.get_ident())
                if item == self.broken:
                    raise ValueError(f"item {item}")
                self.made += 1
                yield item
        finally:
            self.closed = True


def wait_until_quiet(source: Source) -> None:
    """Until the source makes no more items."""
    before = -1
    while source.made != before:
        before = source.made
        time.sleep(0.05)


@pytest.mark.parametrize("ahead", [1, 2, 7, 100])
def test_all_items_in_order_from_one_other_thread(ahead: int) -> None:
    source = Source(50)
    assert list(prefetched(source(), ahead)) == list(range(50))
    assert source.closed and len(source.threads) == 1
    assert threading.get_ident() not in source.threads


@pytest.mark.parametrize("ahead", [1, 3])
def test_no_more_than_the_limit_are_made_ahead(ahead: int) -> None:
    source = Source(50)
    items = prefetched(source(), ahead)
    for taken in range(1, 6):
        next(items)
        wait_until_quiet(source)
        assert source.made == taken + ahead + 1
    items.close()


def test_an_error_comes_after_the_items_before_it() -> None:
    taken = []
    source = Source(50, broken=4)
    with pytest.raises(ValueError, match="item 4"):
        for item in prefetched(source(), 2):
            taken.append(item)
    assert taken == [0, 1, 2, 3] and source.closed


def test_closing_early_ends_the_thread_and_closes_the_source() -> None:
    threads = threading.active_count()
    for taken in (1, 3):
        source = Source(1_000)
        items = prefetched(source(), 2)
        for _ in range(taken):
            next(items)
        items.close()
        assert source.closed and source.made <= taken + 3
    assert threading.active_count() == threads


def test_nothing_is_made_of_an_empty_source() -> None:
    assert list(prefetched(Source(0)(), 2)) == []
