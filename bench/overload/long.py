"""Long scenarios: many cached callers of whom some are revoked, and callers that come and go."""

from __future__ import annotations

import asyncio
import random
from time import monotonic
from typing import Any, Final

from bench.overload.clients import Answer, steadily
from bench.overload.stage import CALLEE, Figure, good, share, stage


async def kept(
    callers: int, every: float, seconds: float, *, file: bool = False, **given: Any
) -> list[Figure]:
    """Run cached callers with a healthy Clerk; then remove some edges and revoke some tokens."""
    tokens = good("k", callers)
    if file:
        # A mapping replaces the file, because no edge is removed in this case.
        given |= {"graph": {_machine_of(token): [CALLEE] for token in tokens}}
    cache_ttl, graph_ttl = given.get("cache_ttl", 60.0), given.get("graph_ttl", 30.0)
    cut, revoked = tokens[: 0 if file else 20], tokens[20:40]
    last_accepted: dict[str, float] = {}
    answers: list[Answer] = []
    changed_at = 0.0
    async with stage(live_graph=not file, **given) as service:
        await service.behave(seconds=0.1)
        await service.introduce(tokens)
        # In random order: in the order of the first requests, refreshes would come in bursts.
        order = random.Random(1).sample(tokens, callers)

        async def ask(number: int) -> Answer:
            token = order[number % callers]
            answer = await service.get(token)
            if answer.status == 200:
                last_accepted[token] = answer.sent_at
            return answer

        async def change() -> None:
            nonlocal changed_at
            await asyncio.sleep(seconds / 4)
            await service.behave(cut=[_machine_of(token) for token in cut], revoked=revoked)
            changed_at = monotonic()

        await asyncio.gather(steadily(callers / every, seconds, ask, answers), change())
        stats = await service.service.ask("/stats")
    figures = [
        # If the machine blocks the service for a second, its refusals say nothing about us.
        Figure(what="longest time for which the event loop was blocked (s)", seen=stats["stall"]),
        Figure(what="stale answers", seen=sum(a.stale for a in answers), at_most=0),
        Figure(
            what=f"answered 200, 401 or 403 {stats['causes']}",
            seen=sum(share(answers, s) for s in (200, 401, 403)),
            at_least=1.0,
        ),
        Figure(
            what="a revoked token accepted for (s)",
            seen=max(last_accepted[token] - changed_at for token in revoked),
            at_most=cache_ttl + 2,
        ),
    ]
    if cut:
        seen = max(last_accepted[token] - changed_at for token in cut)
        figures.append(
            Figure(what="a removed edge accepted for (s)", seen=seen, at_most=graph_ttl + 2)
        )
    return figures


def _machine_of(token: str) -> str:
    return "mch_" + token[7:].rjust(27, "0")[-27:]


SOAK: Final = 900.0
# Seconds. An edge may be used for 330 s (`graph_ttl` and `graph_max_stale`), so the store grows
# until the edges of the first callers have expired.
WARM: Final = 500.0
LIVES: Final = 150.0  # for how many seconds a caller sends requests
REVOKED_AT: Final = 30.0
EVERY: Final = 10.0


async def soak() -> list[Figure]:
    """Start ten callers a second, each for 150 s; revoke one in twenty after 30 s."""
    accepted: list[float] = []
    stale = 0
    async with stage(live_graph=True) as service:
        await service.behave(seconds=0.1)
        revoked: list[str] = []

        async def one_caller(number: int) -> None:
            nonlocal stale
            token, came_at = f"mt_goods{number:036}", monotonic()
            revoked_at = came_at + REVOKED_AT if number % 20 == 0 else float("inf")
            while monotonic() < came_at + LIVES:
                if monotonic() >= revoked_at and token not in revoked:
                    revoked.append(token)
                    await service.behave(revoked=revoked)
                    revoked_at = monotonic()
                answer = await service.get(token)
                stale += answer.stale
                if answer.status == 200 and token in revoked:
                    accepted.append(answer.sent_at - revoked_at)
                await asyncio.sleep(EVERY)

        sizes: list[tuple[float, float]] = []

        async def watch() -> None:
            begun = monotonic()
            while monotonic() < begun + SOAK:
                sizes.append((monotonic() - begun, await service.resident()))
                await asyncio.sleep(10.0)

        nothing: list[None] = []
        await asyncio.gather(steadily(10.0, SOAK - LIVES, one_caller, nothing), watch())
    warm = [(at, size) for at, size in sizes if WARM <= at <= SOAK - LIVES]
    growth = (warm[-1][1] - warm[0][1]) / (warm[-1][0] - warm[0][0]) * 60
    return [
        Figure(what="callers revoked", seen=len(revoked)),
        Figure(what="a revoked token accepted for (s)", seen=max(accepted, default=0), at_most=62),
        Figure(what="stale answers", seen=stale, at_most=0),
        Figure(what="growth after 500 s (MB a minute)", seen=growth, at_most=0.2),
    ]
