"""Refreshes of verdicts before they expire, and stale verdicts while Clerk is down."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from outcomes import accepts, at_once, unavailable
from upstreams import eventually, quiet

from clerk_m2m import (
    VerificationUnavailableError,
    Verifier,
)
from harness import World

# Refreshes before expiry


async def test_requests_with_a_token_in_steady_use_never_wait_again(world: World) -> None:
    verifier, token = world.verifier(), world.token(seconds_until_expiration=86_400)
    await verifier.verify(token)
    known = asyncio.all_tasks()

    for _ in range(600):
        world.time.advance(1.0)
        at_once(verifier.verify(token))
        await quiet(known)
    assert 600 / 60 <= verifier.stats.refreshes <= 600 / 40
    assert verifier.stats.paid == 1 + verifier.stats.refreshes


async def test_a_request_does_not_wait_for_a_refresh_that_hangs(world: World) -> None:
    verifier, token = world.verifier(), world.token()
    await verifier.verify(token)
    never = asyncio.Event()

    async def hang(_request: httpx.Request) -> None:
        await never.wait()

    world.upstream.intercept = hang
    for _ in range(50):
        world.time.advance(1.0)
        at_once(verifier.verify(token))
        await asyncio.sleep(0)
    await eventually(lambda: len(world.upstream.requests) == 2)


async def test_after_a_failed_refresh_the_verdict_is_used_until_it_expires(world: World) -> None:
    verifier, token = world.verifier(), world.token()
    await verifier.verify(token)
    known = asyncio.all_tasks()
    world.emulator.fail("verifyM2MToken", status=500)

    answered = 0
    for _ in range(120):
        world.time.advance(0.5)
        try:
            at_once(verifier.verify(token))
            answered += 1
        except AssertionError:
            with pytest.raises(VerificationUnavailableError):
                await verifier.verify(token)
        await quiet(known)
    assert 54 * 2 - 1 <= answered < 120
    assert len(world.upstream.requests) < 40  # an attempt a second, not one per request


async def test_a_failed_refresh_is_retried_a_second_later_and_not_at_each_use(
    world: World,
) -> None:
    verifier, token = world.verifier(), world.token()
    await verifier.verify(token)
    known = asyncio.all_tasks()
    world.emulator.fail("verifyM2MToken", status=409)  # an answer, so the breaker stays closed

    world.time.advance(40.0)
    for _ in range(130):
        world.time.advance(0.1)
        at_once(verifier.verify(token))
        await quiet(known)
    assert 1 + 5 <= len(world.upstream.requests) <= 1 + 13


async def test_a_negative_verdict_of_a_refresh_replaces_the_positive_one_at_once(
    world: World,
) -> None:
    verifier, minted = world.verifier(), world.emulator.mint_m2m_token(world.caller)
    await verifier.verify(minted.token)
    known = asyncio.all_tasks()
    world.emulator.revoke_m2m_token(minted.id)

    world.time.advance(46.0)
    at_once(verifier.verify(minted.token))
    await quiet(known)
    assert not await accepts(verifier, minted.token)
    assert world.emulator.calls["verifyM2MToken"] == 2


async def test_an_unused_verdict_is_not_refreshed(world: World) -> None:
    verifier, token = world.verifier(), world.token()
    await verifier.verify(token)
    world.time.advance(100.0)

    assert verifier.stats.refreshes == 0
    assert len(verifier._verdicts) == 0


# Stale verdicts while Clerk is down


def patient(world: World, **given: Any) -> Verifier:
    return world.verifier(world.settings(**({"stale_if_error": 300.0} | given)))


async def test_by_default_no_stale_verdict_is_used(world: World) -> None:
    verifier, token = world.verifier(), world.token()
    await verifier.verify(token)
    world.emulator.fail(status=500)

    world.time.advance(60.0)
    await unavailable(verifier, token)
    assert verifier.stats.stale == 0


@pytest.mark.parametrize(
    "fault", [{"status": 500}, {"status": 429}, {"kind": "drop"}, {"kind": "html"}], ids=str
)
async def test_a_stale_verdict_is_marked_counted_and_bounded(
    world: World, fault: dict[str, Any]
) -> None:
    verifier, token = patient(world), world.token()
    assert not (await verifier.verify(token)).stale
    world.emulator.fail(**fault)

    world.time.advance(60.0)
    assert (await verifier.verify(token)).stale
    assert verifier.stats.stale == 1
    world.time.advance(239.0)
    assert (await verifier.verify(token)).stale
    assert verifier.stats.stale == 2
    world.time.advance(1.0)
    await unavailable(verifier, token)


async def test_stale_if_error_counts_from_the_last_answer_of_clerk(world: World) -> None:
    verifier, token = patient(world), world.token()
    await verifier.verify(token)
    world.time.advance(200.0)
    assert not (await verifier.verify(token)).stale
    world.emulator.fail(status=500)

    world.time.advance(299.0)
    assert (await verifier.verify(token)).stale
    world.time.advance(1.0)
    await unavailable(verifier, token)


async def test_no_stale_verdict_is_used_past_the_tokens_expiry(world: World) -> None:
    verifier, token = patient(world), world.token(seconds_until_expiration=120)
    await verifier.verify(token)
    world.emulator.fail(status=500)

    world.time.advance(118.9)  # its last second may be over: `Date` has whole seconds
    assert (await verifier.verify(token)).stale
    world.time.advance(1.1)
    await unavailable(verifier, token)


@pytest.mark.parametrize("what", ["token", "token_id", "machine_id"])
async def test_no_stale_verdict_is_used_after_an_invalidation(world: World, what: str) -> None:
    verifier, minted = patient(world), world.emulator.mint_m2m_token(world.caller)
    await verifier.verify(minted.token)
    world.emulator.fail(status=500)
    world.time.advance(60.0)
    assert (await verifier.verify(minted.token)).stale

    values = {"token": minted.token, "token_id": minted.id, "machine_id": world.caller.id}
    verifier.invalidate(**{what: values[what]})
    await unavailable(verifier, minted.token)


async def test_an_expired_negative_verdict_is_not_served_stale(world: World) -> None:
    verifier, token = patient(world), world.token()
    await verifier.verify(token)
    world.time.advance(60.0)
    world.emulator.fail(status=404, times=1)
    assert not await accepts(verifier, token)
    world.emulator.fail(status=500)

    world.time.advance(10.0)
    await unavailable(verifier, token)


async def test_no_stale_verdict_is_used_when_clerk_refuses_our_own_key(world: World) -> None:
    verifier, token = patient(world), world.token()
    await verifier.verify(token)
    world.emulator.fail(status=401)

    world.time.advance(60.0)
    with pytest.raises(VerificationUnavailableError) as refused:
        await verifier.verify(token)
    assert refused.value.code == "verifier_misconfigured"


async def test_a_stale_verdict_is_fresh_again_when_clerk_answers_again(world: World) -> None:
    verifier, token = patient(world), world.token()
    await verifier.verify(token)
    world.emulator.fail(status=500, times=1)
    world.time.advance(60.0)
    assert (await verifier.verify(token)).stale

    assert not (await verifier.verify(token)).stale
