"""Requests with one token share one verification, whichever of them are cancelled."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from upstreams import eventually, quiet

from clerk_m2m import Identity, MachineIdentity, VerificationUnavailableError, Verifier
from clerk_m2m.errors import BackendUnavailableError, OverloadedError
from clerk_m2m.lookups.cache import Cache
from clerk_m2m.lookups.invalidations import Invalidations
from clerk_m2m.lookups.single_flight import Demand
from clerk_m2m.lookups.verdict import Answer
from harness import FakeTime, World, bearer, calling, protected

WAITERS = 10


class HeldUpstream:
    """Holds every call until `let_go` is set, then answers it or raises."""

    def __init__(self, world: World) -> None:
        self.raises: Exception | None = None
        self.calls = 0
        self.let_go = asyncio.Event()
        world.upstream.intercept = self._hold

    async def _hold(self, _request: httpx.Request) -> None:
        self.calls += 1
        await self.let_go.wait()
        if self.raises:
            raise self.raises


@asynccontextmanager
async def waiting(
    verifier: Verifier, token: str, upstream: HeldUpstream
) -> AsyncIterator[list[asyncio.Task[Identity]]]:
    """Ten requests that wait for one verification; they leave no task and no lost exception."""
    loop, known = asyncio.get_running_loop(), asyncio.all_tasks()
    complaints: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _loop, context: complaints.append(context))
    waiters = [asyncio.create_task(verifier.verify(token)) for _ in range(WAITERS)]
    await eventually(lambda: upstream.calls == 1)
    yield waiters
    upstream.let_go.set()
    await asyncio.wait(waiters)
    await quiet(known)
    waiters.clear()
    gc.collect()
    await asyncio.sleep(0)
    loop.set_exception_handler(None)
    assert complaints == []


def cancel(waiters: Sequence[asyncio.Task[Identity]], leavers: Sequence[int]) -> None:
    for index in leavers:
        waiters[index].cancel()


@pytest.mark.parametrize(
    "leavers",
    [[0], [5], [WAITERS - 1], [0, 5], list(range(WAITERS - 1))],
    ids=["the first", "a follower", "the last", "first and follower", "all but one"],
)
@pytest.mark.parametrize("times", [1, 2])
async def test_cancelling_a_waiter_does_not_cancel_the_shared_call(
    world: World, leavers: list[int], times: int
) -> None:
    verifier, token, upstream = world.verifier(), world.token(), HeldUpstream(world)
    async with waiting(verifier, token, upstream) as waiters:
        for _ in range(times):
            cancel(waiters, leavers)
            await asyncio.sleep(0)
        upstream.let_go.set()
        answers = await asyncio.gather(*waiters, return_exceptions=True)
        for index, answer in enumerate(answers):
            left = index in leavers
            assert isinstance(answer, asyncio.CancelledError if left else MachineIdentity)

    assert upstream.calls == 1


async def test_when_all_waiters_are_cancelled_the_call_finishes_and_its_verdict_is_cached(
    world: World,
) -> None:
    verifier, token, upstream = world.verifier(), world.token(), HeldUpstream(world)
    async with waiting(verifier, token, upstream) as waiters:
        cancel(waiters, range(WAITERS))
        await asyncio.sleep(0)

    await verifier.verify(token)
    assert (upstream.calls, verifier.stats.hits) == (1, 1)


async def test_a_request_after_all_waiters_were_cancelled_joins_the_call_in_progress(
    world: World,
) -> None:
    verifier, token, upstream = world.verifier(), world.token(), HeldUpstream(world)
    async with waiting(verifier, token, upstream) as waiters:
        cancel(waiters, range(WAITERS))
        await asyncio.sleep(0)
        late = asyncio.create_task(verifier.verify(token))
        await asyncio.sleep(0)
        upstream.let_go.set()
        assert isinstance(await late, MachineIdentity)

    assert upstream.calls == 1


async def test_when_the_shared_call_fails_all_waiters_fail(world: World) -> None:
    verifier, token, upstream = world.verifier(), world.token(), HeldUpstream(world)
    upstream.raises = httpx.ReadError("reset")
    async with waiting(verifier, token, upstream) as waiters:
        upstream.let_go.set()
        answers = await asyncio.gather(*waiters, return_exceptions=True)

    assert {type(answer) for answer in answers} == {VerificationUnavailableError}
    # A dropped connection is retried once, for all of them together.
    assert (upstream.calls, verifier.stats.unavailable) == (2, WAITERS)
    upstream.raises = None
    await verifier.verify(token)
    assert upstream.calls == 3


async def test_a_failed_call_without_waiters_leaves_no_unretrieved_exception(world: World) -> None:
    verifier, token, upstream = world.verifier(), world.token(), HeldUpstream(world)
    upstream.raises = httpx.ReadError("reset")
    async with waiting(verifier, token, upstream) as waiters:
        cancel(waiters, range(WAITERS))

    assert upstream.calls == 1


async def test_a_hanging_call_fails_all_waiters_at_the_deadline_and_leaves_no_task(
    world: World,
) -> None:
    verifier, token = world.verifier(world.settings(timeout=0.2)), world.token()
    upstream = HeldUpstream(world)
    begun = time.monotonic()
    async with waiting(verifier, token, upstream) as waiters:
        answers = await asyncio.gather(*waiters, return_exceptions=True)
        assert {type(answer) for answer in answers} == {VerificationUnavailableError}
        assert time.monotonic() - begun < 1.0
        await quiet(set())

    assert upstream.calls == 1


async def test_different_tokens_do_not_wait_for_each_other(world: World) -> None:
    verifier, held, other = world.verifier(), world.token(), world.token()
    upstream = HeldUpstream(world)
    async with waiting(verifier, held, upstream):
        world.upstream.intercept = None
        assert isinstance(await verifier.verify(other), MachineIdentity)


async def test_cancelled_requests_do_not_delay_live_ones(world: World) -> None:
    verifier, known = world.verifier(world.settings(max_inflight=5)), asyncio.all_tasks()

    async def take_a_while(_request: httpx.Request) -> None:
        await asyncio.sleep(0.05)

    world.upstream.intercept = take_a_while
    leavers = [asyncio.create_task(verifier.verify(world.token())) for _ in range(300)]
    await eventually(lambda: len(world.upstream.requests) == 4)
    for leaver in leavers:
        leaver.cancel()
    begun = time.monotonic()

    assert isinstance(await verifier.verify(world.token()), MachineIdentity)
    assert time.monotonic() - begun < 1.0
    await quiet(known)
    assert len(world.upstream.requests) == 5


async def test_a_request_that_joins_a_queued_call_keeps_the_place_in_the_queue(
    world: World,
) -> None:
    verifier, token = world.verifier(world.settings(max_inflight=2)), world.token()
    upstream = HeldUpstream(world)
    first = asyncio.create_task(verifier.verify(world.token()))
    await eventually(lambda: upstream.calls == 1)
    leaver = asyncio.create_task(verifier.verify(token))
    for _ in range(10):
        await asyncio.sleep(0)
    leaver.cancel()
    joiner = asyncio.create_task(verifier.verify(token))
    await asyncio.sleep(0)
    upstream.let_go.set()

    assert isinstance(await joiner, MachineIdentity)
    assert isinstance(await first, MachineIdentity)
    assert upstream.calls == 2


async def test_an_abandoned_look_up_does_not_remove_its_successor() -> None:
    turn, end, answer = asyncio.Event(), asyncio.Event(), asyncio.Event()
    loads = 0

    async def load(demand: Demand) -> Answer[str]:
        nonlocal loads
        loads += 1
        if loads == 1:
            await turn.wait()
            demand.on_change = lambda: None
            await end.wait()
            raise BackendUnavailableError("nobody waits")
        await answer.wait()
        return Answer(value="verdict")

    clock = FakeTime().clock
    cache: Cache[str, str] = Cache(
        ttl=60.0,
        maxsize=10,
        clock=clock,
        invalidations=Invalidations(clock),
        names=lambda key, _value: (key,),
    )

    async def obtain() -> str:
        return (await cache.get_or_load("key", load, timeout=2.0))[0]

    leaver = asyncio.create_task(obtain())
    await eventually(lambda: loads == 1)
    turn.set()
    await asyncio.sleep(0)
    leaver.cancel()
    await asyncio.sleep(0)
    second = asyncio.create_task(obtain())
    await eventually(lambda: loads == 2)
    end.set()
    for _ in range(5):
        await asyncio.sleep(0)
    third = asyncio.create_task(obtain())
    await asyncio.sleep(0)
    answer.set()
    assert {await second, await third} == {"verdict"}
    assert loads == 2


async def test_requests_through_the_middleware_share_one_call(world: World) -> None:
    verifier, token, upstream = world.verifier(), world.token(), HeldUpstream(world)
    async with calling(protected(verifier)) as client:
        requests = [
            asyncio.create_task(client.get("/", headers=bearer(token))) for _ in range(WAITERS)
        ]
        await eventually(lambda: upstream.calls == 1)
        requests[0].cancel()
        await asyncio.sleep(0)
        upstream.let_go.set()
        answers = await asyncio.gather(*requests[1:])

    assert {answer.status_code for answer in answers} == {200}
    assert upstream.calls == 1


async def test_a_flood_of_different_tokens_is_bounded_and_refused_at_once(world: World) -> None:
    verifier, upstream = world.verifier(world.settings(timeout=5.0)), HeldUpstream(world)
    known = world.token()
    upstream.let_go.set()
    await verifier.verify(known)
    upstream.let_go.clear()
    crowd = [asyncio.create_task(verifier.verify(f"mt_{number:040}")) for number in range(1_000)]
    await eventually(lambda: upstream.calls == 1 + 19)

    with pytest.raises(VerificationUnavailableError) as refused:
        await verifier.verify("mt_" + "z" * 40)
    assert refused.value.code == "verification_unavailable"
    assert isinstance(refused.value.__cause__, OverloadedError)
    world.time.advance(50.0)
    await verifier.verify(known)  # due for a refresh, which the flood does not prevent
    await eventually(lambda: upstream.calls == 1 + 19 + 1)
    for each in crowd:
        each.cancel()
    upstream.let_go.set()
    await quiet(asyncio.all_tasks() - set(crowd))
