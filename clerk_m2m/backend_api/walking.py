"""Walking a list: all of its pages are read before the first item is given.

Rules of this file:

- What the loop body does (revoke, delete, create) cannot move items to a place that was read
  already, because nothing is read any more.
- What others remove meanwhile moves the rest up. So each page begins with the last item of the page
  before; where that is not there, the walk goes back a page.
- A page may hold less than was asked for. The list ends at `total_count` or at an empty page; at
  `total_count`, as many ids must have been found.
- A page that is too large is asked for again with fewer items.
- Where Clerk asks to wait (429), the walk waits and asks again.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from math import inf
from typing import Final, Protocol, TypeVar

from clerk_m2m.backend_api.resources import Page
from clerk_m2m.errors import AnswerTooLargeError, BackendUnavailableError, RateLimitedError

# How often a walk goes back before it gives up. Somebody else who empties the list makes it go back
# once for each page.
MAX_RETURNS: Final = 100
# How often in turn one page is asked for after a 429, and the longest wait that is taken, in
# seconds. Clerk counts requests over 10 seconds.
MAX_WAITS: Final = 5
MAX_WAIT: Final = 60.0


class Identified(Protocol):
    """What has an id of Clerk's."""

    @property
    def id(self) -> str:
        """The id."""


T = TypeVar("T", bound=Identified)


async def walk(page: Callable[[int, int], Awaitable[Page[T]]], page_size: int) -> AsyncIterator[T]:
    """Give each item of a list once, from the pages that `page(limit, offset)` gives."""
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
            # What was read before is gone, and the rest has moved up.
            returns += 1
            offset = max(0, offset - limit)
            repeats = offset > 0
            continue
        for item in got:
            found.setdefault(item.id, item)
        end, least = offset + len(got), min(least, got.total_count)
        if got.items and end < got.total_count:
            repeats = len(got) > 1  # else there would be no way forward
            offset = end - 1 if repeats else end
        elif got.items and len(found) < least:
            # The order of the pages was not the same (items of one instant may change places):
            # what was missed is looked for from the start.
            returns += 1
            offset, repeats, least = 0, False, inf
        else:
            return list(found.values())
    raise BackendUnavailableError(
        "The list changes faster than it can be read: nothing of it is given."
    )


async def _patiently(
    page: Callable[[int, int], Awaitable[Page[T]]], limit: int, offset: int
) -> Page[T]:
    """Read one page, and wait where Clerk asks to."""
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
