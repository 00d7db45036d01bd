"""`running_for`: a limit that a host without free processor time does not use up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from math import ceil
from typing import Final

# Time is counted in parts of so many seconds.
PART: Final = 0.05


@asynccontextmanager
async def running_for(seconds: float) -> AsyncIterator[None]:
    """Raise `TimeoutError` in a block that takes longer than `seconds` in which this process runs.

    A part that ends late, as the event loop was held up or the host had no processor for it, counts
    as one that ended in time. So an answer that is there is read before the limit ends: a process
    that is late itself does not take that for a server that does not answer.
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
