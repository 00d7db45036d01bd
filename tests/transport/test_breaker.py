"""When calls to Clerk stop: after failures in a row, and because Clerk asked for a pause."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from upstreams import quiet

from clerk_m2m import RefusalError, VerificationUnavailableError, Verifier
from clerk_m2m.errors import (
    BackendAPIError,
    BackendUnavailableError,
    KeyRefusedError,
    NotFoundError,
    RateLimitedError,
)
from clerk_m2m.transport.admission import Priority
from clerk_m2m.transport.breaker import Breaker, Breakers
from harness import FakeTime, World


@pytest.fixture
def time() -> FakeTime:
    return FakeTime()


@pytest.fixture
def breaker(time: FakeTime) -> Breaker:
    return Breaker(time.clock.monotonic)


def fail(breaker: Breaker, times: int) -> None:
    for _ in range(times):
        breaker.enter()
        breaker.failed()


def test_four_failures_in_a_row_do_not_open_the_breaker(breaker: Breaker) -> None:
    fail(breaker, 4)
    breaker.enter()

    assert breaker.state == "closed"


def test_failures_that_are_not_in_a_row_do_not_add_up(breaker: Breaker) -> None:
    for _ in range(10):
        fail(breaker, 4)
        breaker.ended(None)
    breaker.enter()

    assert breaker.state == "closed"
    assert not breaker.last_call_failed


def test_after_five_failures_in_a_row_one_probe_a_second_is_sent(
    breaker: Breaker, time: FakeTime
) -> None:
    fail(breaker, 5)

    probes = 0
    for _ in range(100):
        time.advance(0.1)
        try:
            breaker.enter()
        except BackendUnavailableError:
            continue
        probes += 1
        breaker.failed()
    assert 9 <= probes <= 10


def test_check_does_not_use_up_a_probe(breaker: Breaker, time: FakeTime) -> None:
    fail(breaker, 5)
    time.advance(1.0)

    breaker.check()
    breaker.enter()
    with pytest.raises(BackendUnavailableError) as refused:
        breaker.check()
    assert refused.value.retry_after == 1.0


def test_one_success_closes_the_breaker(breaker: Breaker) -> None:
    fail(breaker, 5)
    breaker.ended(None)

    for _ in range(20):
        breaker.enter()
    assert breaker.state == "closed"


def told_to_wait(seconds: float) -> RateLimitedError:
    return RateLimitedError("429", retry_after=seconds)


@pytest.mark.parametrize(("asked", "granted"), [(7, 7), (31, 30), (1e9, 30), (0, 0), (-1, 0)])
def test_a_retry_after_is_obeyed_for_at_most_30_seconds(
    breaker: Breaker, time: FakeTime, asked: float, granted: float
) -> None:
    exc = told_to_wait(asked)
    breaker.back_off(exc)
    assert exc.retry_after == granted

    if granted:
        time.advance(granted - 0.25)
        with pytest.raises(RateLimitedError) as refused:
            breaker.enter()
        assert refused.value.retry_after == 0.25
        time.advance(0.25)
    breaker.enter()


def test_the_longest_of_several_retry_afters_counts(breaker: Breaker, time: FakeTime) -> None:
    breaker.back_off(told_to_wait(20))
    time.advance(1)

    second = told_to_wait(1)
    breaker.back_off(second)
    assert second.retry_after == 19


def test_a_503_with_retry_after_is_obeyed_and_counts_as_a_failure(
    breaker: Breaker, time: FakeTime
) -> None:
    breaker.ended(BackendUnavailableError("503", retry_after=7.0))

    assert breaker.last_call_failed
    time.advance(6.0)
    with pytest.raises(BackendUnavailableError) as refused:
        breaker.check()
    assert (refused.value.code, refused.value.retry_after) == ("backend_unavailable", 1.0)
    time.advance(1.0)
    breaker.check()


@pytest.mark.parametrize("refusal", [NotFoundError("404"), KeyRefusedError("401")])
def test_a_4xx_after_failures_counts_as_a_success(
    breaker: Breaker, refusal: BackendAPIError
) -> None:
    fail(breaker, 4)
    breaker.ended(refusal)
    assert not breaker.last_call_failed

    fail(breaker, 4)
    breaker.check()


def test_a_429_resets_the_failures_but_counts_as_no_answer(breaker: Breaker) -> None:
    fail(breaker, 4)
    breaker.ended(told_to_wait(5.0))

    assert breaker.last_call_failed


def test_failures_of_unknown_keys_do_not_open_the_breaker_of_known_keys(time: FakeTime) -> None:
    breakers = Breakers(time.clock.monotonic)
    fail(breakers.of(Priority.STRANGER), 5)

    for priority in (Priority.STRANGER, Priority.RECENT):
        with pytest.raises(BackendUnavailableError) as refused:
            breakers.of(priority).check()
        assert refused.value.code == "backend_unavailable"
    for priority in (Priority.KEPT, Priority.REFRESH):
        breakers.of(priority).check()


def test_an_answer_on_one_side_does_not_close_the_other_breaker(time: FakeTime) -> None:
    breakers = Breakers(time.clock.monotonic)
    fail(breakers.of(Priority.KEPT), 5)
    breakers.of(Priority.STRANGER).ended(None)

    with pytest.raises(BackendUnavailableError) as refused:
        breakers.of(Priority.KEPT).check()
    assert refused.value.code == "backend_unavailable"


# In a verifier


async def refused(verifier: Verifier, world: World) -> VerificationUnavailableError:
    with pytest.raises(VerificationUnavailableError) as raised:
        await verifier.verify(world.token())
    assert raised.value.code == "verification_unavailable"
    return raised.value


FAULTS: list[dict[str, Any]] = [{"status": 500}, {"kind": "drop"}, {"kind": "html"}]


@pytest.mark.parametrize("fault", FAULTS, ids=str)
async def test_a_dead_upstream_gets_five_calls_and_then_one_a_second(
    world: World, fault: dict[str, Any]
) -> None:
    verifier = world.verifier()
    world.emulator.fail("verifyM2MToken", **fault)
    for _ in range(20):
        await refused(verifier, world)
    # The first call is retried after a dropped connection, the others are not.
    asked = 6 if fault == {"kind": "drop"} else 5
    assert len(world.upstream.requests) == asked

    for _ in range(50):
        world.time.advance(0.2)
        await refused(verifier, world)
    assert asked + 9 <= len(world.upstream.requests) <= asked + 10


async def test_of_many_concurrent_calls_one_is_the_probe_and_it_is_not_retried(
    world: World,
) -> None:
    verifier = world.verifier()
    world.emulator.fail("verifyM2MToken", status=503)
    for _ in range(10):
        await refused(verifier, world)
    asked = len(world.upstream.requests)
    world.time.advance(1.0)

    await asyncio.gather(*(refused(verifier, world) for _ in range(50)))
    assert len(world.upstream.requests) == asked + 1


async def test_callers_are_accepted_within_two_seconds_of_the_upstreams_recovery(
    world: World,
) -> None:
    verifier = world.verifier()
    world.emulator.fail("verifyM2MToken", status=500)
    for _ in range(60):
        await refused(verifier, world)
        world.time.advance(0.9)
    world.emulator.clear_faults()
    recovered_at = world.time.monotonic

    token = world.token()
    while True:
        try:
            await verifier.verify(token)
            break
        except VerificationUnavailableError:
            world.time.advance(0.1)
    assert world.time.monotonic - recovered_at <= 2.0
    await asyncio.gather(*(verifier.verify(world.token()) for _ in range(20)))


async def test_hanging_calls_do_not_delay_the_refusal_of_later_requests(
    world: World,
) -> None:
    verifier, never = world.verifier(world.settings(timeout=1.0)), asyncio.Event()
    known = asyncio.all_tasks()

    async def hang(_request: httpx.Request) -> None:
        await never.wait()

    world.upstream.intercept = hang
    await asyncio.gather(*(refused(verifier, world) for _ in range(100)))
    asked = len(world.upstream.requests)
    assert asked <= 19  # there was no slot for the others, and calls without waiters are not sent
    await quiet(known)

    async with asyncio.timeout(0.9):  # less than the deadline of a call: no request waits for one
        await asyncio.gather(*(refused(verifier, world) for _ in range(100)))
    assert len(world.upstream.requests) == asked


async def test_each_verifier_has_its_own_breaker(world: World) -> None:
    one, other = world.verifier(), world.verifier()
    world.emulator.fail("verifyM2MToken", status=500, times=5)
    for _ in range(6):
        await refused(one, world)

    identity = await other.verify(world.token())

    assert identity.subject == world.caller.id


@pytest.mark.parametrize("status", [404, 429])
async def test_a_4xx_between_failures_resets_the_count(world: World, status: int) -> None:
    verifier = world.verifier()
    world.emulator.fail("verifyM2MToken", status=500, times=4)
    world.emulator.fail("verifyM2MToken", status=status, times=1)
    world.emulator.fail("verifyM2MToken", status=500, times=4)
    for number in range(9):
        with pytest.raises(RefusalError):
            await verifier.verify(world.token())
        if number == 4:
            world.time.advance(2.0)  # after the pause that the 429 asked for
    assert len(world.upstream.requests) == 9

    await verifier.verify(world.token())
