"""The scenarios: what each one does, and its figures with their aims."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from statistics import median
from time import monotonic
from typing import Any, Final

from bench.overload.clients import Answer, steadily
from bench.overload.long import kept, soak
from bench.overload.stage import (
    Figure,
    calling,
    good,
    goodput,
    longest_gap,
    p99,
    share,
    stage,
)

KNOWN: Final = good("k", 40)
LASTING: Final = 15.0  # seconds of overload


def _known_figures(answers: list[Answer], *, at_least: float = 1.0) -> list[Figure]:
    return [
        Figure(what="known callers, share of 200", seen=share(answers), at_least=at_least),
        Figure(what="known callers, p99 (ms)", seen=p99([a.seconds for a in answers]), at_most=20),
    ]


async def overload(times: float, **behaviour: Any) -> list[Figure]:
    """Send new tokens at `times` the capacity of 40 a second, and requests of known callers."""
    async with stage() as service:
        await service.behave(**behaviour)
        await service.introduce(KNOWN)
        before, new = await service.counts(), list[Answer]()
        begun = monotonic()
        _, known = await asyncio.gather(
            steadily(times * 40, LASTING, lambda n: service.get(f"mt_goodn{n:036}"), new),
            calling(service, KNOWN, 50.0, LASTING),
        )
        await asyncio.sleep(max(0.0, begun + LASTING + 1.0 - monotonic()))
        after = await service.get("mt_goodafter" + "0" * 32)
        counts = await service.counts()
    billed, distinct = (counts[name] - before[name] for name in ("calls", "distinct"))
    refused = [answer.seconds for answer in new if answer.status == 503]
    capacity = 40.0
    return [
        Figure(
            what="goodput / capacity",
            seen=goodput(new, begun, 1.0, LASTING) / capacity,
            at_least=0.95,
        ),
        Figure(what="billed / distinct", seen=billed / distinct, at_most=1.02),
        Figure(what="refusals, p99 (ms)", seen=p99(refused), at_most=50),
        *_known_figures(known),
        Figure(
            what="a new token 1 s after the end is accepted",
            seen=after.status == 200,
            at_least=1,
        ),
    ]


async def cold_start() -> list[Figure]:
    """Start 300 callers at once and 16 more a second, while Clerk answers 32 calls a second.

    All callers wait as `Retry-After` says.
    """
    async with stage() as service:
        await service.behave(slots=8, seconds=0.25)
        arrivals: list[list[Answer]] = []

        begun = monotonic()
        first = [service.get_until_in(token, within=25.0) for token in good("f", 300)]
        _, answers = await asyncio.gather(
            steadily(
                16.0,
                25.0,
                lambda n: service.get_until_in(f"mt_goodn{n:036}", within=begun + 40 - monotonic()),
                arrivals,
            ),
            asyncio.gather(*first),
        )
        counts = await service.counts()
    came = [a[-1] for a in answers]
    served = [a for a in came if a.status == 200 and a.sent_at + a.seconds <= begun + 25.0]
    last = max((a.sent_at + a.seconds - begun for a in served), default=0.0)
    return [
        Figure(what="of 300 served within 25 s", seen=len(served), at_least=300),
        Figure(what="the last of them served after (s)", seen=last),
        Figure(what="attempts of each, mean", seen=sum(map(len, answers)) / 300),
        Figure(
            what="later callers, share of 200",
            seen=sum(a[-1].status == 200 for a in arrivals) / len(arrivals),
        ),
        Figure(what="billed / distinct", seen=counts["calls"] / counts["distinct"], at_most=1.0),
    ]


async def garbage(*, honours: bool, seconds: float = 45.0) -> list[Figure]:
    """Send 300 unknown tokens a second, while `unknown_rate` allows 20 verifications a second."""
    # `cache_ttl` is 5 s, so most requests of known callers need a new verification.
    async with stage(unknown_rate=20, cache_ttl=5) as service:
        await service.behave(seconds=0.1)
        known = good("k", 100)
        await service.introduce(known)
        await asyncio.sleep(6.0)
        before = await service.counts()

        async def bad(n: int) -> Answer:
            token = f"mt_bad{n:037}"
            if not honours:
                return await service.get(token)
            return (await service.get_until_in(token, within=10.0))[-1]

        garbage_answers, known_answers = list[Answer](), list[Answer]()
        new: list[list[Answer]] = []
        begun = monotonic()
        await asyncio.gather(
            steadily(300.0, seconds, bad, garbage_answers),
            steadily(
                1.0,
                seconds - 15,
                lambda n: service.get_until_in(f"mt_goodn{n:036}", within=30.0),
                new,
            ),
            steadily(20.0, seconds, lambda n: service.get(known[n % 100]), known_answers),
        )
        lasted = monotonic() - begun
        counts = await service.counts()
    waits = [a[-1].sent_at + a[-1].seconds - a[0].sent_at for a in new]
    waited = [w if a[-1].status == 200 else 60.0 for w, a in zip(waits, new, strict=True)]
    return [
        Figure(
            what="unknown tokens billed a second",
            seen=(counts["garbage"] - before["garbage"]) / lasted,
            at_most=21.0,
        ),
        Figure(
            what="known callers, 200 at the first attempt", seen=share(known_answers), at_least=0.99
        ),
        Figure(
            what="a new good caller is accepted after (s), median",
            seen=median(waited),
            at_most=None if honours else 3.0,
        ),
        Figure(what="the slowest new good caller is accepted after (s)", seen=max(waited)),
    ]


async def leavers() -> list[Figure]:
    """Let 400 times 20 clients disconnect after 50 ms; then send a new good token."""
    async with stage(max_inflight=10) as service:
        await service.behave(seconds=0.1)
        await service.introduce(KNOWN[:2])
        tokens = iter(good("l", 400 * 20))
        for _ in range(400):
            await asyncio.gather(*(service.get(next(tokens), leave_after=0.05) for _ in range(20)))
        answer = await service.get("mt_goodafter" + "0" * 32)
    return [
        Figure(what="a new token is accepted", seen=answer.status == 200, at_least=1),
        Figure(what="its answer came after (s)", seen=answer.seconds, at_most=1.0),
    ]


async def disturbed(*changes: tuple[float, dict[str, Any]], **given: Any) -> list[Figure]:
    """Change Clerk's behaviour, with known callers at 50 requests a second and new ones at 20."""
    settings: dict[str, Any] = {"stale_if_error": 600, "cache_ttl": 10} | given
    seconds = changes[-1][0] + 10
    async with stage(**settings) as service:
        await service.behave(seconds=0.1)
        await service.introduce(KNOWN)
        new, begun = list[Answer](), monotonic()

        async def change() -> None:
            for at, behaviour in changes:
                await asyncio.sleep(max(0.0, begun + at - monotonic()))
                if "refuse_for" in behaviour:
                    behaviour = {"refuse_until": monotonic() + behaviour["refuse_for"]}
                await service.behave(**behaviour)

        _, known, _ = await asyncio.gather(
            steadily(20.0, seconds, lambda n: service.get(f"mt_good{'hn'[n % 2]}{n:036}"), new),
            calling(service, KNOWN, 50.0, seconds),
            change(),
        )
    first, last = changes[0][0], changes[-1][0]
    return [
        Figure(what="known callers, share of 200", seen=share(known), at_least=1.0),
        Figure(
            what="known callers, share of stale verdicts",
            seen=sum(a.stale for a in known) / len(known),
        ),
        Figure(
            what="new callers, 200s a second during the change",
            seen=goodput(new, begun, first, last),
        ),
        Figure(
            what="new callers, 200s a second from 2 s after its end",
            seen=goodput(new, begun, last + 2, seconds),
            at_least=19.0 if "hang" not in changes[0][1] else None,
        ),
        Figure(
            what="new callers, answers other than 200 and 503",
            seen=sum(a.status not in (200, 503) for a in new),
            at_most=0,
        ),
    ]


async def limited(limit: int, seconds: float = 180.0) -> list[Figure]:
    """Send new tokens at twice Clerk's rate limit."""
    async with stage() as service:
        await service.behave(seconds=0.05, limit=limit)
        new, begun = list[Answer](), monotonic()
        await steadily(2.0 * limit, seconds, lambda n: service.get(f"mt_goodn{n:036}"), new)
    return [
        Figure(
            what="goodput / limit after the first minute",
            seen=goodput(new, begun, 60.0, seconds) / limit,
            at_least=0.8,
        ),
        Figure(
            what="longest time in which no new caller was accepted (s)",
            seen=longest_gap(new, begun, 0.0, seconds),
            at_most=10.0,
        ),
    ]


_FIXED: Final[dict[str, Any]] = {"slots": 8, "seconds": 0.2}
_ENDLESS: Final[dict[str, Any]] = {"slots": 0, "seconds": 0.5}

SCENARIOS: Final[Mapping[str, Callable[[], Coroutine[Any, Any, list[Figure]]]]] = {
    **{
        f"overload-{times:g}-{name}": partial(overload, times, **behaviour)
        for name, behaviour in (("8x200ms", _FIXED), ("500ms", _ENDLESS))
        for times in (1.25, 2.0, 5.0, 20.0)
    },
    "cold-start": cold_start,
    "garbage": partial(garbage, honours=False),
    "garbage-honours": partial(garbage, honours=True),
    "leavers": leavers,
    "slower": partial(disturbed, (5.0, {"seconds": 0.5}), (15.0, {"seconds": 0.1})),
    "429": partial(disturbed, (5.0, {"refuse_for": 4.0}), (9.0, {"refuse_until": 0.0})),
    "hang": partial(disturbed, (5.0, {"hang": "mt_"}), (20.0, {"hang": ""})),
    "hang-strangers": partial(
        disturbed, (5.0, {"hang": "mt_goodh"}), (20.0, {"hang": ""}), stale_if_error=0
    ),
    "limit-100": partial(limited, 100),
    "limit-10": partial(limited, 10),
    "kept-900": partial(kept, 900, 3.0, 120.0),
    "kept-1800": partial(kept, 1800, 6.0, 160.0, graph_ttl=60.0),
    "kept-10000": partial(kept, 10_000, 30.0, 420.0, file=True, cache_ttl=300.0),
    "soak": soak,
}
