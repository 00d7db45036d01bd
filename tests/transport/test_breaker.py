"""When Clerk is left alone: after failures in a row, and because it asked for it."""

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


def test_four_failures_in_a_row_let_the_next_call_through(breaker: Breaker) -> None:
    fail(breaker, 4)

    breaker.enter()


def test_failures_that_are_not_in_a_row_do_not_add_up(breaker: Breaker) -> None:
    for _ in range(10):
        fail(breaker, 4)
        breaker.ended(None)

    breaker.enter()


def test_five_failures_in_a_row_leave_one_probe_a_second(breaker: Breaker, time: FakeTime) -> None:
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


def test_to_ask_whether_a_call_may_go_out_takes_no_probe(breaker: Breaker, time: FakeTime) -> None:
    fail(breaker, 5)
    time.advance(1.0)

    breaker.check()
    breaker.enter()
    with pytest.raises(BackendUnavailableError) as refused:
        breaker.check()
    assert refused.value.retry_after == 1.0


def test_one_success_lets_everybody_through(breaker: Breaker) -> None:
    fail(breaker, 5)
    breaker.ended(None)

    for _ in range(20):
        breaker.enter()


def told_to_wait(seconds: float) -> RateLimitedError:
    return RateLimitedError("429", retry_after=seconds)


@pytest.mark.parametrize(("asked", "granted"), [(7, 7), (31, 30), (1e9, 30), (0, 0), (-1, 0)])
def test_a_wish_to_be_left_alone_is_granted_for_30_seconds_at_most(
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


def test_the_longest_of_several_wishes_holds(breaker: Breaker, time: FakeTime) -> None:
    breaker.back_off(told_to_wait(20))
    time.advance(1)

    second = told_to_wait(1)
    breaker.back_off(second)
    assert second.retry_after == 19


def test_a_503_that_asks_for_a_pause_is_left_alone_and_is_a_failure(
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
def test_an_answer_after_failures_is_a_success_whatever_it_says(
    breaker: Breaker, refusal: BackendAPIError
) -> None:
    fail(breaker, 4)
    breaker.ended(refusal)
    assert not breaker.last_call_failed

    fail(breaker, 4)
    breaker.check()


def test_a_429_ends_a_row_of_failures_and_still_counts_as_no_answer(breaker: Breaker) -> None:
    fail(breaker, 4)
    breaker.ended(told_to_wait(5.0))

    assert breaker.last_call_failed


def test_strangers_do_not_open_the_breaker_of_what_is_known(time: FakeTime) -> None:
    breakers = Breakers(time.clock.monotonic)
    fail(breakers.of(Priority.STRANGER), 5)

    for priority in (Priority.STRANGER, Priority.RECENT):
        with pytest.raises(BackendUnavailableError) as refused:
            breakers.of(priority).check()
        assert refused.value.code == "backend_unavailable"
    for priority in (Priority.KEPT, Priority.REFRESH):
        breakers.of(priority).check()


def test_an_answer_on_one_side_does_not_close_the_breaker_of_the_other(time: FakeTime) -> None:
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
async def test_a_dead_upstream_is_asked_five_times_and_then_once_a_second(
    world: World, fault: dict[str, Any]
) -> None:
    verifier = world.verifier()
    world.emulator.fail("verifyM2MToken", **fault)
    for _ in range(20):
        await refused(verifier, world)
    # The first call is repeated after a dropped connection, none of the others.
    asked = 6 if fault == {"kind": "drop"} else 5
    assert len(world.upstream.requests) == asked

    for _ in range(50):
        world.time.advance(0.2)
        await refused(verifier, world)
    assert asked + 9 <= len(world.upstream.requests) <= asked + 10


async def test_of_a_crowd_one_call_is_the_probe_and_it_is_not_repeated(world: World) -> None:
    verifier = world.verifier()
    world.emulator.fail("verifyM2MToken", status=503)
    for _ in range(10):
        await refused(verifier, world)
    asked = len(world.upstream.requests)
    world.time.advance(1.0)

    await asyncio.gather(*(refused(verifier, world) for _ in range(50)))
    assert len(world.upstream.requests) == asked + 1


async def test_callers_are_let_in_again_within_two_seconds_of_the_upstreams_recovery(
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


async def test_a_crowd_that_hangs_does_not_delay_the_answer_to_those_who_come_later(
    world: World,
) -> None:
    verifier, never = world.verifier(world.settings(timeout=1.0)), asyncio.Event()
    known = asyncio.all_tasks()

    async def hang(_request: httpx.Request) -> None:
        await never.wait()

    world.upstream.intercept = hang
    await asyncio.gather(*(refused(verifier, world) for _ in range(100)))
    asked = len(world.upstream.requests)
    assert asked <= 19  # no slot was free for the others, and what nobody waits for is not sent
    await quiet(known)

    async with asyncio.timeout(0.9):  # less than the deadline of a call: nobody waits for one
        await asyncio.gather(*(refused(verifier, world) for _ in range(100)))
    assert len(world.upstream.requests) == asked


async def test_a_breaker_of_one_verifier_is_none_of_anothers_business(world: World) -> None:
    one, other = world.verifier(), world.verifier()
    world.emulator.fail("verifyM2MToken", status=500, times=5)
    for _ in range(6):
        await refused(one, world)

    await other.verify(world.token())


@pytest.mark.parametrize("status", [404, 429])
async def test_failures_before_and_after_a_refusal_of_clerks_are_not_in_a_row(
    world: World, status: int
) -> None:
    verifier = world.verifier()
    world.emulator.fail("verifyM2MToken", status=500, times=4)
    world.emulator.fail("verifyM2MToken", status=status, times=1)
    world.emulator.fail("verifyM2MToken", status=500, times=4)
    for number in range(9):
        with pytest.raises(RefusalError):
            await verifier.verify(world.token())
        if number == 4:
            world.time.advance(2.0)  # past the time for which a 429 asks to be left alone
    assert len(world.upstream.requests) == 9

    await verifier.verify(world.token())
