"""`running_for`: a time limit that does not count the time in which this process cannot run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from math import ceil
from typing import Final

# Seconds. The limit is counted in parts of this length.
PART: Final = 0.05


@asynccontextmanager
async def running_for(seconds: float) -> AsyncIterator[None]:
    """Raise `TimeoutError` in a block that uses more than `seconds` of the process's running time.

    The limit is counted in parts of 0.05 s. A part that ends late, because the event loop was
    blocked or the host had no free processor, counts as 0.05 s. So an answer that has already
    arrived is read before the limit expires: a delay of this process is not taken for a server that
    does not answer.
    """
    loop, left = asyncio.get_running_loop(), ceil(seconds / PART)
    part: asyncio.TimerHandle

    def end_part() -> None:
        nonlocal left, part
        left -= 1
        if left > 0:
            part = loop.call_later(PART, end_part)
        else:
            limit.reschedule(loop.time())

    async with asyncio.timeout(None) as limit:
        part = loop.call_later(PART, end_part)
        try:
            yield
        finally:
            part.cancel()
