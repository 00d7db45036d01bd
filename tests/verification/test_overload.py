"""More requests than Clerk can answer: which are refused, and that this is no outage."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from upstreams import eventually, quiet

from clerk_m2m import MachineIdentity, VerificationUnavailableError, Verifier
from clerk_m2m.emulator.faults import FaultKind
from clerk_m2m.errors import OverloadedError, RateLimitedError
from harness import World


class Clerk:
    """Holds calls until `let_go` is set; a `status` other than 200 replaces the answer."""

    def __init__(self, world: World) -> None:
        self.let_go = asyncio.Event()
        self.status = 200
        self.seconds = 0.0
        self.held = 0
        world.upstream.intercept = self._answer

    async def _answer(self, _request: httpx.Request) -> httpx.Response | None:
        self.held += 1
        await self.let_go.wait()
        await asyncio.sleep(self.seconds)
        return None if self.status == 200 else httpx.Response(self.status)


@pytest.fixture
async def clerk(world: World) -> AsyncIterator[Clerk]:
    clerk, known = Clerk(world), asyncio.all_tasks()
    clerk.let_go.set()
    yield clerk
    clerk.let_go.set()
    await quiet(known)


def service(world: World, **given: object) -> Verifier:
    """Two slots, of which unknown tokens may use one; no call may wait longer than 0.5 s."""
    return world.verifier(
        world.settings(**({"max_inflight": 2, "stale_if_error": 600, "timeout": 2} | given))
    )


async def refused(verifier: Verifier, token: str) -> VerificationUnavailableError:
    with pytest.raises(VerificationUnavailableError) as raised:
        await verifier.verify(token)
    assert raised.value.code == "verification_unavailable"
    return raised.value


async def test_a_request_that_does_not_fit_in_the_queue_is_refused_at_once(
    world: World, clerk: Clerk
) -> None:
    verifier = service(world)
    clerk.let_go.clear()
    # One call is sent. Ten may wait: two slots of 0.1 s each answer them within 0.5 s.
    crowd = [asyncio.create_task(verifier.verify(world.token())) for _ in range(11)]
    await eventually(lambda: clerk.held == 1)

    refusal = await refused(verifier, world.token())
    assert isinstance(refusal.__cause__, OverloadedError)
    assert "more calls wait than Clerk answers in time" in str(refusal.__cause__)
    assert 1.0 <= refusal.retry_after <= 2.25
    clerk.let_go.set()
    assert all(isinstance(each, MachineIdentity) for each in await asyncio.gather(*crowd))
    assert (verifier.stats.sent, verifier.stats.paid) == (11, 11)


async def test_unknown_rate_limits_only_calls_for_unknown_tokens(
    world: World, clerk: Clerk
) -> None:
    verifier, known = service(world, unknown_rate=4.0), world.token()
    await verifier.verify(known)
    for _ in range(2):
        await verifier.verify(world.token())
    refusal = await refused(verifier, world.token())

    assert "unknown_rate" in str(refusal.__cause__)
    assert verifier.stats.sent == 3
    world.time.advance(700.0)  # no longer cached, but good within the last hour
    assert isinstance(await verifier.verify(known), MachineIdentity)


async def test_a_request_that_returns_after_a_refusal_goes_before_new_ones(
    world: World, clerk: Clerk
) -> None:
    verifier, token = service(world, unknown_rate=4.0), world.token()
    for _ in range(3):
        await verifier.verify(world.token())
    await refused(verifier, token)

    await refused(verifier, world.token())
    assert isinstance(await verifier.verify(token), MachineIdentity)


async def test_our_own_congestion_is_no_outage_and_serves_no_stale_verdict(
    world: World, clerk: Clerk
) -> None:
    verifier, kept = service(world), [world.token() for _ in range(20)]
    for first in range(0, 20, 2):
        clerk.seconds = 0.1 if first >= 12 else 0.0  # so that ten may wait
        await asyncio.gather(*map(verifier.verify, kept[first : first + 2]))
    world.time.advance(61.0)  # past cache_ttl, within stale_if_error
    clerk.let_go.clear()
    requests = [asyncio.create_task(verifier.verify(token)) for token in kept]
    await eventually(lambda: sum(request.done() for request in requests) >= 5)

    refused_at_once = [request.exception() for request in requests if request.done()]
    assert {getattr(each, "code", "none") for each in refused_at_once} == {
        "verification_unavailable"
    }
    assert verifier.stats.stale == 0
    clerk.seconds = 0.0
    clerk.let_go.set()
    served = await asyncio.gather(*requests, return_exceptions=True)
    identities = [each for each in served if isinstance(each, MachineIdentity)]
    assert identities
    assert not any(each.stale for each in identities)


async def test_a_stale_verdict_is_served_after_an_error_of_clerk(
    world: World, clerk: Clerk
) -> None:
    verifier, token = service(world), world.token()
    await verifier.verify(token)
    world.time.advance(61.0)
    clerk.status = 500

    assert (await verifier.verify(token)).stale


async def test_a_429_counts_as_an_outage_for_known_callers(world: World, clerk: Clerk) -> None:
    verifier, token = service(world), world.token()
    await verifier.verify(token)
    world.time.advance(61.0)
    clerk.status = 429

    assert (await verifier.verify(token)).stale
    refusal = await refused(verifier, world.token())
    assert isinstance(refusal.__cause__, RateLimitedError)


async def test_a_429_for_a_known_caller_does_not_pause_calls_for_unknown_tokens(
    world: World, clerk: Clerk
) -> None:
    verifier, token = service(world), world.token()
    await verifier.verify(token)
    world.time.advance(61.0)
    clerk.status = 429
    assert (await verifier.verify(token)).stale
    clerk.status = 200

    assert isinstance(await verifier.verify(world.token()), MachineIdentity)
    assert (await verifier.verify(token)).stale  # the pause still holds for known callers


@pytest.mark.parametrize("kind", ["wrong_shape", "malformed_json", "oversize"])
async def test_an_unreadable_200_opens_the_breaker(world: World, kind: FaultKind) -> None:
    verifier = world.verifier()
    world.emulator.fail("verifyM2MToken", kind=kind)
    for _ in range(60):
        await refused(verifier, world.token())

    assert world.emulator.calls["verifyM2MToken"] == 5


async def test_a_sent_call_is_counted_even_if_its_answer_never_arrives(
    world: World, clerk: Clerk
) -> None:
    verifier = service(world, timeout=0.1)
    clerk.let_go.clear()
    await refused(verifier, world.token())

    assert (verifier.stats.sent, verifier.stats.paid) == (1, 0)


async def test_closing_waits_for_a_verification_in_progress_and_uses_its_verdict(
    world: World, clerk: Clerk
) -> None:
    verifier, token = service(world), world.token()
    clerk.let_go.clear()
    request = asyncio.create_task(verifier.verify(token))
    await eventually(lambda: clerk.held == 1)
    closing = asyncio.create_task(verifier.aclose())
    await asyncio.sleep(0)
    clerk.let_go.set()
    await closing

    assert isinstance(await request, MachineIdentity)
    assert verifier.stats.paid == 1
