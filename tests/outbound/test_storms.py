"""Many concurrent calls: to callees that reject the token, or while Clerk fails once."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from outbound_calls import MINT, Callee, Gate, mints, outbound, rejecting
from upstreams import eventually

from clerk_m2m import TokenUnavailableError
from clerk_m2m.outbound.rejections import Rejections
from harness import World


async def test_500_concurrent_rejected_calls_each_return_their_401(world: World) -> None:
    callee = Callee(decide=lambda request: 401)
    async with callee.client(outbound(world)) as client:
        answers = await asyncio.gather(*(client.get("/") for _ in range(500)))

    assert {answer.status_code for answer in answers} == {401}
    assert mints(world) == 2


async def test_500_concurrent_calls_with_a_rejected_token_share_the_next_mint(world: World) -> None:
    callee = Callee()
    callee.decide = lambda request: rejecting(callee.credentials[0])(request)
    async with callee.client(outbound(world)) as client:
        answers = await asyncio.gather(*(client.get("/") for _ in range(500)))

    assert {answer.status_code for answer in answers} == {200}
    assert mints(world) == 2


async def test_calls_to_other_callees_continue_while_a_rejected_token_is_replaced(
    world: World,
) -> None:
    callee, answer_mint = Callee(), Gate()
    async with callee.client(outbound(world)) as client:
        await client.get("http://healthy.test/")
        first = callee.credentials[0]
        callee.decide = lambda request: (
            401
            if request.url.host == "bad.test" and request.headers["Authorization"] == first
            else 200
        )
        world.upstream.intercept = answer_mint.hold
        rejected = asyncio.create_task(client.get("http://bad.test/"))
        await eventually(lambda: len(world.upstream.requests) == 2)
        held = asyncio.create_task(client.get("http://bad.test/"))
        for _ in range(20):
            await client.get("http://healthy.test/")
        during_mint = callee.credentials[2:]
        assert not held.done()
        answer_mint.open()
        answers = await asyncio.gather(rejected, held)
        await client.get("http://healthy.test/")

    assert [answer.status_code for answer in answers] == [200, 200]
    assert during_mint == [first] * 20
    assert callee.credentials[-1] != first
    assert mints(world) == 2


@pytest.mark.parametrize("fault", [{"status": 502}, {"status": 504}, {"kind": "drop"}])
async def test_100_first_calls_succeed_after_one_passing_error_of_clerk(
    world: World, fault: dict[str, object]
) -> None:
    world.emulator.fail(MINT, times=1, **fault)  # type: ignore[arg-type]
    async with Callee().client(outbound(world)) as client:
        answers = await asyncio.gather(*(client.get("/") for _ in range(100)))

    assert [answer.status_code for answer in answers] == [200] * 100
    assert mints(world) == 2


async def test_a_mint_is_not_retried_after_an_error_that_a_retry_would_not_cure(
    world: World,
) -> None:
    for status, retry_after in ((500, None), (503, 1), (429, 30)):
        world.emulator.fail(MINT, times=1, status=status, retry_after=retry_after)
        before = mints(world)
        with pytest.raises(TokenUnavailableError) as unavailable:
            await outbound(world).token()
        assert unavailable.value.code == "token_unavailable"
        assert mints(world) - before == 1


async def test_if_no_new_token_can_be_minted_the_callees_401_is_returned(
    world: World,
) -> None:
    callee = Callee()
    async with callee.client(outbound(world, seconds_until_expiration=60)) as client:
        await client.get("/")
        world.emulator.fail(MINT, status=500)

        def reject(request: httpx.Request) -> int:
            world.time.advance(60)  # the old token has expired and cannot be sent again
            return 401

        callee.decide = reject
        answer = await client.get("/")

    assert answer.status_code == 401


def test_the_pauses_of_at_most_1000_callees_are_kept() -> None:
    rejections = Rejections()

    def may_mint(number: int, now: float) -> bool:
        return rejections.may_mint(("https", f"callee-{number}.test", None), now)

    assert may_mint(0, 0)
    assert may_mint(0, 10)  # the next pause is 20 s
    for number in range(1, 1000):
        assert may_mint(number, 10 + number / 100 + 10 * number)
    assert not may_mint(1, 30.02 + 0.1)
    known = len(rejections._by_origin)
    assert may_mint(1000, 20_000)

    assert known == Rejections.MAX_ORIGINS
    assert len(rejections._by_origin) == 1


def test_the_pause_of_a_callee_is_reset_after_twenty_minutes_without_a_mint() -> None:
    rejections, callee = Rejections(), ("https", "callee.test", None)

    assert [now for now in range(200) if rejections.may_mint(callee, now)] == [0, 10, 30, 70, 150]
    assert rejections.may_mint(callee, 150 + 1200)
    assert not rejections.may_mint(callee, 150 + 1200 + 9)
    assert rejections.may_mint(callee, 150 + 1200 + 10)
