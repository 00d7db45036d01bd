"""The three processes of a scenario, and the figures that are computed from its answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from time import monotonic
from typing import Any

from bench.overload.clients import Answer, Clients, steadily
from bench.processes import child

CALLEE = "mch_" + "c" * 27
MACHINE_KEY = "ak_" + "s" * 40
INSTANCE_KEY = "sk_test_" + "s" * 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A measured value and its aim."""

    what: str
    seen: float
    at_least: float | None = None
    at_most: float | None = None

    @property
    def met(self) -> bool:
        """Whether the aim is met; True if there is no aim."""
        return (self.at_least is None or self.seen >= self.at_least) and (
            self.at_most is None or self.seen <= self.at_most
        )


@dataclass(frozen=True, slots=True)
class Stage:
    """A running service and the upstream that replaces Clerk."""

    service: Clients
    clerk: Clients

    async def behave(self, **behaviour: Any) -> None:
        """Change Clerk's behaviour."""
        await self.clerk.ask("/control", **behaviour)

    async def counts(self) -> dict[str, int]:
        """Return the counts of the calls to Clerk."""
        counts: dict[str, int] = await self.clerk.ask("/counts")
        return counts

    async def resident(self) -> float:
        """Return the resident memory of the service, in MB."""
        stats: dict[str, float] = await self.service.ask("/stats")
        return stats["resident"] / 1e6

    async def get(self, token: str, *, leave_after: float | None = None) -> Answer:
        """Send one request with a token."""
        return await self.service.get(token, leave_after=leave_after)

    async def get_until_in(self, token: str, *, within: float) -> list[Answer]:
        """Repeat a request after each 503, as `Retry-After` says; return all answers.

        Ends with the first other answer, or if the next attempt would be after `within` seconds.
        """
        end, answers = monotonic() + within, []
        while True:
            answers.append(answer := await self.get(token))
            if answer.status != 503 or monotonic() + answer.retry_after > end:
                return answers
            await asyncio.sleep(answer.retry_after)

    async def introduce(self, tokens: Sequence[str]) -> None:
        """Send each token until it is accepted, so that the service has cached it."""
        for first in range(0, len(tokens), 10):
            some = tokens[first : first + 10]
            for answers in await asyncio.gather(
                *(self.get_until_in(token, within=60.0) for token in some)
            ):
                assert answers[-1].status == 200, answers


@asynccontextmanager
async def stage(*, live_graph: bool = False, **given: Any) -> AsyncIterator[Stage]:
    """Start a service with these settings, and the upstream that replaces Clerk."""
    with child("bench.overload.upstream") as upstream, child("bench.overload.service") as service:
        origin = upstream.ask({"callee": CALLEE})["origin"]
        settings = {
            "machine_id": CALLEE,
            "machine_secret_key": MACHINE_KEY,
            "secret_key": INSTANCE_KEY if live_graph else None,
            "api_url": origin,
        }
        clients = Clients(service.ask(settings | given)["origin"]), Clients(origin)
        try:
            yield Stage(*clients)
        finally:
            for each in clients:
                each.close()


def good(kind: str, count: int) -> list[str]:
    """Return `count` good tokens of different callers."""
    return [f"mt_good{kind}{number:036}" for number in range(count)]


async def calling(stage: Stage, tokens: Sequence[str], rate: float, seconds: float) -> list[Answer]:
    """Send requests with these tokens in turn, and return the answers."""
    answers: list[Answer] = []
    await steadily(rate, seconds, lambda n: stage.get(tokens[n % len(tokens)]), answers)
    return answers


def share(answers: Sequence[Answer], status: int = 200) -> float:
    """Return the share of the answers that have a status."""
    return sum(answer.status == status for answer in answers) / max(1, len(answers))


def p99(seconds: Sequence[float]) -> float:
    """Return the 99th percentile, in milliseconds."""
    ordered = sorted(seconds)
    return 1000 * ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))] if ordered else 0.0


def goodput(answers: Sequence[Answer], begun: float, first: float, last: float) -> float:
    """Return the 200s per second between `first` and `last` seconds after `begun`."""
    came = [each.sent_at + each.seconds - begun for each in answers if each.status == 200]
    return sum(first <= each < last for each in came) / (last - first)


def longest_gap(answers: Sequence[Answer], begun: float, first: float, last: float) -> float:
    """Return the longest time without a 200 between `first` and `last` seconds after `begun`."""
    came = sorted(each.sent_at + each.seconds - begun for each in answers if each.status == 200)
    edges = [first, *(each for each in came if first <= each <= last), last]
    return max(later - earlier for earlier, later in pairwise(edges))
