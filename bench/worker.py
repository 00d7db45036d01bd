"""A worker of a service in its own process: it verifies the tokens that it receives."""

from __future__ import annotations

import asyncio
import logging
from time import monotonic, perf_counter
from typing import Any

from clerk_m2m import Fleet, Settings, TokenInvalidError, Verifier
from clerk_m2m.demo.lines import read_line, write_line

# Seconds between two requests with the same token.
PAUSE = 0.1
# Seconds between two checks of a state that changes within milliseconds.
LOOK = 0.005


async def verify_all(verifier: Verifier, tokens: list[str], connections: int) -> int:
    """Verify all tokens, `connections` at a time; return the number of verifications sent."""
    before, rest = verifier.stats.sent, iter(tokens)

    async def connection() -> None:
        for token in rest:
            await verifier.verify(token)

    await asyncio.gather(*(connection() for _ in range(connections)))
    return verifier.stats.sent - before


async def again_and_again(verifier: Verifier, token: str, seconds: float) -> int:
    """Verify a token again and again for `seconds`; return the number of verifications sent."""
    before, end = verifier.stats.sent, perf_counter() + seconds
    while perf_counter() < end:
        await verifier.verify(token)
        await asyncio.sleep(PAUSE)
    return verifier.stats.sent - before


async def seconds_of_each(verifier: Verifier, tokens: list[str]) -> list[float]:
    """Verify one token after another; return the seconds of each."""
    took = []
    for token in tokens:
        began = perf_counter()
        await verifier.verify(token)
        took.append(perf_counter() - began)
    return took


async def follow(verifier: Verifier, seconds: float) -> bool:
    """Wait until the log is followed, for `seconds` at most; return whether it is."""

    def follows() -> bool:
        fleet = verifier.measure().fleet
        return fleet is not None and fleet.in_sync

    for _ in range(int(seconds / LOOK)):
        if follows():
            break
        await asyncio.sleep(LOOK)
    return follows()


async def until_refused(verifier: Verifier, token: str) -> float:
    """Verify a token until it is refused; return when the first refused verification began.

    The token was accepted until then at most. The instant is from the monotonic clock, which on
    Linux is the same in all processes.
    """
    while True:
        began = monotonic()
        try:
            await verifier.verify(token)
        except TokenInvalidError:
            return began
        await asyncio.sleep(LOOK)


async def invalidate_everywhere(verifier: Verifier, token: str) -> list[float]:
    """Invalidate a token; return the instants at which the call began and returned."""
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
    # On a busy machine, warnings about Redis would hide the report.
    logging.getLogger("clerk_m2m").addHandler(logging.NullHandler())
    asyncio.run(work())
