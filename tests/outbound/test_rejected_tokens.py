"""A callee rejects the token: when another is minted, and which calls are sent again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from outbound_calls import MINT, Callee, Gate, mint_bodies, mints, outbound, rejecting, settle
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from upstreams import eventually

from harness import World, protected


async def test_a_revoked_token_is_replaced_and_the_call_repeated(world: World) -> None:
    transport = httpx.ASGITransport(app=protected(world.verifier(world.settings(cache_ttl=0))))
    async with httpx.AsyncClient(
        transport=transport, base_url="http://callee.test", auth=outbound(world)
    ) as client:
        await client.get("/")
        await revoke_all(world)
        answer = await client.get("/")

    assert answer.status_code == 200
    assert mints(world) == 2


async def revoke_all(world: World) -> None:
    """Revoke the tokens of the caller."""
    async with world.emulator.client() as clerk:
        async for token in clerk.m2m_tokens.iter(world.caller.id):
            world.emulator.revoke_m2m_token(token.id)


async def test_a_call_with_a_body_in_memory_is_repeated_with_it(world: World) -> None:
    bodies: list[bytes] = []

    async def echo(request: Request) -> Response:
        bodies.append(await request.body())
        return Response(status_code=401 if len(bodies) == 1 else 200)

    app = Starlette(routes=[Route("/", echo, methods=["POST"])])
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app), base_url="http://callee.test", auth=outbound(world)
    ) as client:
        answer = await client.post("/", json={"order": 7})

    assert answer.status_code == 200
    assert bodies == [b'{"order":7}'] * 2


async def test_a_hundred_concurrent_rejections_cause_one_mint(world: World) -> None:
    callee = Callee()
    async with callee.client(outbound(world)) as client:
        await client.get("/")
        callee.decide = rejecting(callee.credentials[0])
        answers = await asyncio.gather(*(client.get("/") for _ in range(100)))

    assert {answer.status_code for answer in answers} == {200}
    assert mints(world) == 2


async def test_a_late_rejection_of_a_replaced_token_causes_no_mint(world: World) -> None:
    callee, answer_late = Callee(), asyncio.Event()

    class Late(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            if request.url.path == "/late":
                await answer_late.wait()
            return await callee.handle_async_request(request)

    auth = outbound(world)
    async with httpx.AsyncClient(
        transport=Late(), base_url="http://callee.test", auth=auth
    ) as client:
        await client.get("/")
        callee.decide = rejecting(callee.credentials[0])
        late = asyncio.create_task(client.get("/late"))
        await asyncio.sleep(0)
        await client.get("/")
        world.time.advance(60)
        answer_late.set()
        answer = await late

    assert answer.status_code == 200
    assert mints(world) == 2


async def test_a_callee_that_always_rejects_causes_mints_at_growing_pauses(world: World) -> None:
    callee = Callee(decide=lambda request: 401)
    async with callee.client(outbound(world, seconds_until_expiration=86_400)) as client:
        for _ in range(1800):
            answer = await client.get("/")
            assert answer.status_code == 401
            world.time.advance(2)

    # The first token, then pauses of 10, 20, 40, … 320 s, then of 600 s each.
    assert mints(world) == 1 + 11
    assert len(callee.credentials) == 1800 + 11


async def test_many_rejecting_callees_share_one_pause(world: World) -> None:
    callee = Callee(decide=lambda request: 401)
    async with callee.client(outbound(world)) as client:
        for number in range(100):
            await client.get(f"http://callee-{number}.test/")

    assert mints(world) == 2


async def test_a_rejecting_callee_does_not_delay_a_new_token_for_another(world: World) -> None:
    callee = Callee()
    revoked: set[str | None] = set()

    def decide(request: httpx.Request) -> int:
        bad = request.url.host == "bad.test"
        return 401 if bad or request.headers["Authorization"] in revoked else 200

    callee.decide = decide
    async with callee.client(outbound(world, seconds_until_expiration=86_400)) as client:
        for _ in range(300):
            await client.get("http://bad.test/")
            world.time.advance(1)
        world.time.advance(10)
        await client.get("/")
        revoked.add(callee.credentials[-1])
        answer = await client.get("/")

    assert answer.status_code == 200


async def test_a_token_that_is_revoked_repeatedly_is_replaced_each_time(world: World) -> None:
    callee = Callee()
    revoked: set[str | None] = set()
    callee.decide = lambda request: 401 if request.headers["Authorization"] in revoked else 200
    async with callee.client(outbound(world)) as client:
        for _ in range(5):
            answer = await client.get("/")
            assert answer.status_code == 200
            revoked.add(callee.credentials[-1])
            world.time.advance(10)

    assert mints(world) == 5


async def test_a_rejection_causes_no_mint_during_clerks_retry_after(world: World) -> None:
    callee = Callee()
    async with callee.client(outbound(world, seconds_until_expiration=3600)) as client:
        await client.get("/")
        world.emulator.fail(MINT, status=429, retry_after=20, times=1)
        world.time.advance(3400)
        await client.get("/")
        await settle()
        callee.decide = rejecting(callee.credentials[0])
        answer = await client.get("/")
        await settle()

    assert answer.status_code == 401
    assert mints(world) == 2


@pytest.mark.parametrize("kind", ["stream", "files"])
async def test_a_body_that_is_not_in_memory_is_sent_once(world: World, kind: str) -> None:
    async def stream() -> AsyncIterator[bytes]:
        yield b"once"

    callee = Callee()
    async with callee.client(outbound(world)) as client:
        await client.get("/")
        callee.decide = rejecting(callee.credentials[0])
        given: dict[str, Any] = (
            {"content": stream()} if kind == "stream" else {"files": {"file": b"once"}}
        )
        rejected = await client.post("/", **given)
        await settle()
        following = await client.get("/")

    assert rejected.status_code == 401
    assert len(callee.credentials) == 3
    assert following.status_code == 200
    assert mints(world) == 2


async def test_a_403_is_never_repeated_and_replaces_an_opaque_token_for_later_calls(
    world: World,
) -> None:
    callee = Callee()
    async with callee.client(outbound(world)) as client:
        await client.get("/")
        stale = callee.credentials[0]
        callee.decide = lambda request: 403 if request.headers["Authorization"] == stale else 200
        first = await client.get("/")
        await settle()
        second = await client.get("/")

    assert (first.status_code, second.status_code) == (403, 200)
    assert len(callee.credentials) == 3
    assert mints(world) == 2


async def test_calls_do_not_wait_for_the_new_token_after_a_403(world: World) -> None:
    callee, answer_mint = Callee(decide=lambda request: 403), Gate()

    async with callee.client(outbound(world)) as client:
        await client.get("/")
        await settle()
        world.upstream.intercept = answer_mint.hold
        world.time.advance(60)  # after the pause that follows the first mint for this callee
        await client.get("/")
        await eventually(lambda: len(world.upstream.requests) == 3)
        answer = await asyncio.wait_for(client.get("/"), 5.0)
        answer_mint.open()

    assert answer.status_code == 403
    assert callee.credentials[1] == callee.credentials[2]


async def test_a_403_never_replaces_a_jwt(world: World) -> None:
    callee = Callee(decide=lambda request: 403)
    async with callee.client(outbound(world, token_format="jwt")) as client:
        for _ in range(3):
            await client.get("/")
            await settle()
            world.time.advance(60)

    assert mints(world) == 1


async def test_a_callee_that_always_answers_403_causes_mints_at_growing_pauses(
    world: World,
) -> None:
    # Another route of the same callee answers 200: that does not reset the pauses.
    callee = Callee(decide=lambda request: 403 if request.url.path == "/closed" else 200)
    async with callee.client(outbound(world, seconds_until_expiration=86_400)) as client:
        for _ in range(1800):
            await client.get("/closed")
            await settle()
            await client.get("/")
            world.time.advance(2)

    assert mints(world) == 1 + 11
    assert len(callee.credentials) == 3600


async def test_after_a_rejection_clerk_is_not_allowed_to_return_the_same_token(
    world: World,
) -> None:
    callee = Callee()
    auth = outbound(world, seconds_until_expiration=3600, min_remaining_ttl_seconds=60)
    async with callee.client(auth) as client:
        await client.get("/")
        callee.decide = rejecting(callee.credentials[0])
        answer = await client.get("/")

    assert answer.status_code == 200
    assert "min_remaining_ttl_seconds" not in mint_bodies(world)[1]


async def test_a_401_while_clerk_is_down_is_returned_to_the_caller(world: World) -> None:
    callee = Callee()
    async with callee.client(outbound(world)) as client:
        await client.get("/")
        rejected = callee.credentials[0]
        world.emulator.fail(MINT, status=500)
        callee.decide = rejecting(rejected)
        answer = await client.get("/")
        callee.decide = lambda request: 200
        other_callee = await client.get("/")

    assert answer.status_code == 401
    assert other_callee.status_code == 200
    assert callee.credentials == [rejected] * 3


async def test_calls_wait_for_the_new_token_while_a_rejected_one_is_replaced(
    world: World,
) -> None:
    callee, answer_mint = Callee(), Gate()

    async with callee.client(outbound(world)) as client:
        await client.get("/")
        callee.decide = rejecting(callee.credentials[0])
        world.upstream.intercept = answer_mint.hold
        first = asyncio.create_task(client.get("/"))
        await eventually(lambda: len(world.upstream.requests) == 2)
        second = asyncio.create_task(client.get("/"))
        await asyncio.sleep(0)
        answer_mint.open()
        await asyncio.gather(first, second)

    # The first, the rejected and its repetition, and one that never saw the rejected token.
    assert len(callee.credentials) == 4
    assert mints(world) == 2
