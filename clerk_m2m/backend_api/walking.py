"""Reads a whole list: all pages are read before the first item is yielded.

Rules of this file:

- The loop body may revoke, delete or create items: all pages have been read by then, so no item can
  move to a page that was already read.
- If others remove items during the reading, later items move up. So each page begins with the last
  item of the page before. If that item is not there, the walk goes back one page.
- A page may hold fewer items than requested. The list ends at `total_count` or at an empty page. At
  `total_count`, that many different ids must have been found.
- A page that is too large is requested again with fewer items.
- After a 429 the walk waits for as long as Clerk asks, and requests the page again.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from math import inf
from typing import Final, Protocol, TypeVar

from clerk_m2m.backend_api.resources import Page
from clerk_m2m.errors import AnswerTooLargeError, BackendUnavailableError, RateLimitedError

# How often a walk goes back before it fails. If someone else empties the list, it goes back once
# for each page.
MAX_RETURNS: Final = 100
# How often one page is requested again after a 429, and the longest `Retry-After` that is waited
# for, in seconds. Clerk counts requests over 10 seconds.
MAX_WAITS: Final = 5
MAX_WAIT: Final = 60.0


class Identified(Protocol):
    """A resource with an id of Clerk's."""

    @property
    def id(self) -> str:
        """The id."""


T = TypeVar("T", bound=Identified)


async def walk(page: Callable[[int, int], Awaitable[Page[T]]], page_size: int) -> AsyncIterator[T]:
    """Iterate over a list, each item once; `page(limit, offset)` reads one page."""
    for item in await _read(page, page_size):
        yield item


async def _read(page: Callable[[int, int], Awaitable[Page[T]]], page_size: int) -> list[T]:
    limit, offset, repeats, returns = page_size, 0, False, 0
    found: dict[str, T] = {}
    least = inf  # the smallest `total_count` since the walk began, or began again
    while returns <= MAX_RETURNS:
        try:
            got = await _patiently(page, limit, offset)
        except AnswerTooLargeError:
            if limit == 1:
                raise
            limit = max(1, limit // 4)
            continue
        if repeats and not (got.items and got.items[0].id in found):
            # The last item of the page before was removed, and later items have moved up.
            returns += 1
            offset = max(0, offset - limit)
            repeats = offset > 0
            continue
        for item in got:
            found.setdefault(item.id, item)
        end, least = offset + len(got), min(least, got.total_count)
        if got.items and end < got.total_count:
            repeats = len(got) > 1  # with one item per page, the walk would not advance
            offset = end - 1 if repeats else end
        elif got.items and len(found) < least:
            # The order differed between pages (items of the same instant may change places), so
            # some items were missed: read the list again from the start.
            returns += 1
            offset, repeats, least = 0, False, inf
        else:
            return list(found.values())
    raise BackendUnavailableError(
        "The list changes faster than it can be read, so nothing is returned. Try again later."
    )


async def _patiently(
    page: Callable[[int, int], Awaitable[Page[T]]], limit: int, offset: int
) -> Page[T]:
    """Read one page; after a 429, wait and read it again."""
    waits = 0
    while True:
        try:
            return await page(limit, offset)
        except RateLimitedError as exc:
            pause = exc.retry_after or 0.0
            waits += 1
            if waits > MAX_WAITS or pause > MAX_WAIT:
                raise
        await asyncio.sleep(pause + random.random() / 2)  # noqa: S311  not a secret: spreads load
