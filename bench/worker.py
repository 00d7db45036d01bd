"""A worker of a service in a process of its own: it verifies the tokens that it is told."""

from __future__ import annotations

import asyncio
import logging
from time import monotonic, perf_counter
from typing import Any

from clerk_m2m import Fleet, Settings, TokenInvalidError, Verifier
from clerk_m2m.demo.lines import read_line, write_line

# Between two requests with the same token, in seconds.
PAUSE = 0.1
# Between two looks at something that changes within milliseconds, in seconds.
LOOK = 0.005


async def verify_all(verifier: Verifier, tokens: list[str], connections: int) -> int:
    """Verify all of them over so many connections; gives how many verifications were asked for."""
    before, rest = verifier.stats.sent, iter(tokens)

    async def connection() -> None:
        for token in rest:
            await verifier.verify(token)

    await asyncio.gather(*(connection() for _ in range(connections)))
    return verifier.stats.sent - before


async def again_and_again(verifier: Verifier, token: str, seconds: float) -> int:
    """Verify one for so long; gives how many verifications this process has asked for."""
    before, end = verifier.stats.sent, perf_counter() + seconds
    while perf_counter() < end:
        await verifier.verify(token)
        await asyncio.sleep(PAUSE)
    return verifier.stats.sent - before


async def seconds_of_each(verifier: Verifier, tokens: list[str]) -> list[float]:
    """Verify one after the other; gives the seconds of each."""
    took = []
    for token in tokens:
        began = perf_counter()
        await verifier.verify(token)
        took.append(perf_counter() - began)
    return took


async def follow(verifier: Verifier, seconds: float) -> bool:
    """Wait until the log is followed, for so long; gives whether it is."""

    def follows() -> bool:
        fleet = verifier.measure().fleet
        return fleet is not None and fleet.in_sync

    for _ in range(int(seconds / LOOK)):
        if follows():
            break
        await asyncio.sleep(LOOK)
    return follows()


async def until_refused(verifier: Verifier, token: str) -> float:
    """Verify one until it is refused; gives when the first verification that was refused began.

    It was accepted up to then at most. The instant is that of the monotonic clock, which on Linux
    is the same one in all processes.
    """
    while True:
        began = monotonic()
        try:
            await verifier.verify(token)
        except TokenInvalidError:
            return began
        await asyncio.sleep(LOOK)


async def invalidate_everywhere(verifier: Verifier, token: str) -> list[float]:
    """Invalidate one; gives the instants at which the call began and at which it returned."""
    began = monotonic()
    await verifier.invalidate_everywhere(token=token)
    return [began, monotonic()]


async def work() -> None:
    """Answer lines until there are no more. The first one has the settings."""
    wanted = await read_line()
    sharing = Verifier(Settings(**wanted["settings"], fleet=Fleet(**wanted["fleet"])))
    await sharing.warm_up()  # as a server does before its first request
    alone = Verifier(Settings(**wanted["settings"]))
    works: dict[str, Any] = {
        "verify_all": verify_all,
        "again_and_again": again_and_again,
        "seconds_of_each": seconds_of_each,
        "follow": follow,
        "until_refused": until_refused,
        "invalidate_everywhere": invalidate_everywhere,
    }
    write_line(None)
    while (asked := await read_line()) is not None:
        chosen = [{"sharing": sharing, "alone": alone}[side] for side in asked["sides"]]
        work, given = works[asked["work"]], asked["given"]
        write_line(await asyncio.gather(*(work(verifier, *given) for verifier in chosen)))
    for each in (sharing, alone):
        await each.aclose()


if __name__ == "__main__":
    # A busy machine is told of as an outage of Redis; the report would be lost among these lines.
    logging.getLogger("clerk_m2m").addHandler(logging.NullHandler())
    asyncio.run(work())
