"""The caller's side: calls that carry a token by themselves, and what they do when that fails."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import math
import random
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from clerk_m2m import (
    BackendUnavailableError,
    ClerkClient,
    Clock,
    ConfigurationError,
    InvalidRequestError,
    KeyRefusedError,
    KeyUnavailableError,
    MachineTokenAuth,
    RateLimitedError,
    Secret,
    TokenUnavailableError,
)
from harness import API_URL, FakeTime, World, protected, serve

MINT = "createM2MToken"


@dataclass
class Callee(httpx.AsyncBaseTransport):
    """A service that answers as `decide` says, and keeps the credential of each request."""

    decide: Callable[[httpx.Request], int] = lambda request: 200
    credentials: list[str | None] = field(default_factory=list)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Take the whole request, then answer."""
        assert isinstance(request.stream, httpx.AsyncByteStream)
        async for _ in request.stream:
            pass
        self.credentials.append(request.headers.get("Authorization"))
        # As on a network, others get their turn before the answer comes.
        await asyncio.sleep(0)
        return httpx.Response(self.decide(request))

    def client(self, auth: httpx.Auth, **given: Any) -> httpx.AsyncClient:
        """A client of this service."""
        return httpx.AsyncClient(transport=self, base_url="http://callee.test", auth=auth, **given)


def outbound(world: World, **given: Any) -> MachineTokenAuth:
    """The caller's auth, on the emulator."""
    defaults: dict[str, Any] = {
        "machine_secret_key": world.caller.secret_key,
        "api_url": API_URL,
        "transport": world.upstream,
        "clock": world.time.clock,
    }
    return MachineTokenAuth(**(defaults | given))


def mints(world: World) -> int:
    """How often Clerk was asked to mint."""
    return world.emulator.calls[MINT]


def mint_bodies(world: World) -> list[dict[str, Any]]:
    """What Clerk was asked to mint."""
    return [json.loads(request.content) for request in world.upstream.requests]


def rejecting(*credentials: str | None) -> Callable[[httpx.Request], int]:
    """Answer these with 401, and others with 200."""
    return lambda request: 401 if request.headers.get("Authorization") in credentials else 200


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop run until the condition holds."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  what is awaited lies in code that knows no event
            await asyncio.sleep(0)


async def settle() -> None:
    """Let what runs in the background end."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        await asyncio.wait(others, timeout=5)


# A live token


async def test_a_call_is_made_as_the_machine_whose_key_it_has(world: World) -> None:
    transport = httpx.ASGITransport(app=protected(world.verifier()))
    async with httpx.AsyncClient(
        transport=transport, base_url="http://callee.test", auth=outbound(world)
    ) as client:
        answer = await client.get("/")

    assert answer.json() == {"subject": world.caller.id}


async def test_a_jwt_is_minted_where_one_is_asked_for(world: World) -> None:
    verifier = world.verifier(world.live_settings())
    auth = outbound(world, token_format="jwt")
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=protected(verifier)),
        base_url="http://callee.test",
        auth=auth,
    ) as client:
        answer = await client.get("/")

    assert answer.json() == {"subject": world.caller.id}
    assert verifier.stats.offline == 1


async def test_the_options_go_into_the_mint(world: World) -> None:
    auth = outbound(
        world,
        seconds_until_expiration=120,
        claims={"on_behalf_of": "mch_a", "tags": ["x"]},
        min_remaining_ttl_seconds=60,
    )
    async with Callee().client(auth) as client:
        await client.get("/")

    assert mint_bodies(world) == [
        {
            "token_format": "opaque",
            "seconds_until_expiration": 120,
            "claims": {"on_behalf_of": "mch_a", "tags": ["x"]},
            "min_remaining_ttl_seconds": 60,
        }
    ]


async def test_the_environment_gives_the_key_and_the_address(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLERK_MACHINE_SECRET_KEY", world.caller.secret_key)
    monkeypatch.setenv("CLERK_API_URL", "http://elsewhere.test")
    async with Callee().client(MachineTokenAuth(transport=world.upstream)) as client:
        await client.get("/")

    assert [request.url.host for request in world.upstream.requests] == ["elsewhere.test"]


async def test_a_hundred_concurrent_first_calls_share_one_mint(world: World) -> None:
    callee = Callee()
    async with callee.client(outbound(world)) as client:
        await asyncio.gather(*(client.get("/") for _ in range(100)))

    assert mints(world) == 1
    assert len(callee.credentials) == 100
    assert len(set(callee.credentials)) == 1


async def test_ten_thousand_calls_over_ten_minutes_pay_for_eleven_mints_of_sixty_seconds(
    world: World,
) -> None:
    callee = Callee()
    async with callee.client(outbound(world, seconds_until_expiration=60)) as client:
        for _ in range(10_000):
            await client.get("/")
            world.time.advance(0.06)
    await settle()

    assert len(callee.credentials) == 10_000
    assert mints(world) == 11


async def test_a_token_that_is_due_is_renewed_while_calls_go_on_with_it(world: World) -> None:
    callee, answer_mint = Callee(), asyncio.Event()
    async with callee.client(outbound(world, seconds_until_expiration=60)) as client:
        await client.get("/")
        world.time.advance(56)

        async def hold(request: httpx.Request) -> None:
            await answer_mint.wait()

        world.upstream.intercept = hold
        await client.get("/")
        await client.get("/")
        answer_mint.set()
        await settle()
        await client.get("/")

    first, second, third, fourth = callee.credentials
    assert first == second == third != fourth
    assert mints(world) == 2


async def test_a_token_without_an_end_is_minted_once(world: World) -> None:
    endless = world.emulator.mint_m2m_token(world.caller, seconds_until_expiration=math.inf)

    async def without_end(request: httpx.Request) -> httpx.Response:
        answer = minted(world, token=endless.token, life=None)
        return httpx.Response(201, json=answer)

    world.upstream.intercept = without_end
    callee = Callee()
    async with callee.client(outbound(world)) as client:
        for _ in range(3):
            await client.get("/")
            world.time.advance(365 * 86_400)

    assert callee.credentials == [f"Bearer {endless.token}"] * 3
    assert len(world.upstream.requests) == 1


def minted(world: World, *, token: str, life: float | None, **given: Any) -> dict[str, Any]:
    """An answer of `createM2MToken`."""
    now = int(world.time.wall * 1000)
    return {
        "object": "machine_to_machine_token",
        "id": "mt_" + "0" * 32,
        "subject": world.caller.id,
        "claims": None,
        "scopes": [],
        "token": token,
        "revoked": False,
        "revocation_reason": None,
        "expired": False,
        "expiration": None if life is None else now + int(life * 1000),
        "last_used_at": None,
        "created_at": now,
        "updated_at": now,
    } | given


@pytest.mark.parametrize("skew", [-7200.0, 7200.0])
async def test_a_wall_clock_that_is_wrong_costs_nothing(world: World, skew: float) -> None:
    time = world.time
    clock = Clock(monotonic=lambda: time.monotonic, wall=lambda: time.wall + skew)
    callee = Callee()
    async with callee.client(outbound(world, seconds_until_expiration=60, clock=clock)) as client:
        for _ in range(60):
            await client.get("/")
            time.advance(1)
        await settle()

    assert mints(world) == 2


async def test_a_caller_that_leaves_does_not_fail_the_others(world: World) -> None:
    callee, answer_mint = Callee(), asyncio.Event()

    async def hold(request: httpx.Request) -> None:
        await answer_mint.wait()

    world.upstream.intercept = hold
    async with callee.client(outbound(world)) as client:
        calls = [asyncio.create_task(client.get("/")) for _ in range(5)]
        await until(lambda: len(world.upstream.requests) == 1)
        calls[0].cancel()
        answer_mint.set()
        answers = await asyncio.gather(*calls, return_exceptions=True)

    assert isinstance(answers[0], asyncio.CancelledError)
    assert [answer.status_code for answer in answers[1:] if isinstance(answer, httpx.Response)] == [
        200
    ] * 4
    assert mints(world) == 1


def test_event_loops_one_after_the_other_share_the_token() -> None:
    from harness import open_world

    async def open_and_call() -> tuple[MachineTokenAuth, World]:
        async with open_world() as world:
            auth = outbound(world)
            async with Callee().client(auth) as client:
                await client.get("/")
            assert mints(world) == 1
            return auth, world

    async def call_again(auth: MachineTokenAuth) -> None:
        async with callee.client(auth) as client:
            await client.get("/")

    callee = Callee()
    auth, _closed = asyncio.run(open_and_call())
    asyncio.run(call_again(auth))  # the emulator is closed: another mint would fail

    assert callee.credentials[0] is not None


def test_event_loops_in_threads_mint_at_most_once_each() -> None:
    from harness import open_world

    async def call(auth: MachineTokenAuth, callee: Callee) -> None:
        async with callee.client(auth) as client:
            await asyncio.gather(*(client.get("/") for _ in range(50)))

    async def main() -> None:
        async with open_world() as world, serve(world.emulator) as origin:
            auth = outbound(world, api_url=origin, transport=None)
            callees = [Callee() for _ in range(4)]
            threads = [
                threading.Thread(target=asyncio.run, args=(call(auth, callee),))
                for callee in callees
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                await asyncio.to_thread(thread.join)
            assert all(len(callee.credentials) == 50 for callee in callees)
            assert 1 <= mints(world) <= 4

    asyncio.run(main())


async def test_a_renewal_under_way_serves_the_other_event_loops_too(world: World) -> None:
    callee, answer_mint = Callee(), asyncio.Event()
    auth = outbound(world, seconds_until_expiration=60)

    async def hold(request: httpx.Request) -> None:
        await answer_mint.wait()

    async def call() -> int:
        async with callee.client(auth) as client:
            await client.get("/")
        return len(asyncio.all_tasks()) - 1

    await call()
    world.time.advance(56)
    world.upstream.intercept = hold
    await call()
    renewing_elsewhere = await asyncio.to_thread(asyncio.run, call())
    answer_mint.set()
    await settle()

    assert renewing_elsewhere == 0
    assert len(callee.credentials) == 3
    assert mints(world) == 2


async def test_no_connection_to_clerk_is_left_open(world: World) -> None:
    closed = 0

    class Counting(httpx.ASGITransport):
        async def aclose(self) -> None:
            nonlocal closed
            closed += 1

    auth = outbound(world, transport=Counting(app=world.emulator))
    async with Callee().client(auth) as client:
        await client.get("/")

    assert closed == 1


# Reuse of a token that Clerk has


async def test_a_worker_that_restarts_reuses_the_token_that_clerk_has(world: World) -> None:
    callee = Callee()
    for _ in range(3):
        auth = outbound(world, seconds_until_expiration=3600, min_remaining_ttl_seconds=600)
        async with callee.client(auth) as client:
            await client.get("/")
        world.time.advance(60)

    assert len(set(callee.credentials)) == 1


async def test_a_reused_token_is_renewed_by_what_is_left_of_it(world: World) -> None:
    callee = Callee()

    def worker() -> httpx.AsyncClient:
        auth = outbound(world, seconds_until_expiration=3600, min_remaining_ttl_seconds=600)
        return callee.client(auth)

    async with worker() as client:
        await client.get("/")
    world.time.advance(2900)
    async with worker() as client:
        await client.get("/")
        world.time.advance(699)
        await client.get("/")

    assert callee.credentials[0] == callee.credentials[1] != callee.credentials[2]


async def test_a_renewal_is_never_given_the_token_that_it_replaces(world: World) -> None:
    callee = Callee()
    # Clerk would give the same token while a second of it is left.
    auth = outbound(world, seconds_until_expiration=60, min_remaining_ttl_seconds=1)
    async with callee.client(auth) as client:
        await client.get("/")
        world.time.advance(56)
        await client.get("/")
        await settle()
        await client.get("/")

    assert callee.credentials[0] == callee.credentials[1] != callee.credentials[2]


# A callee that rejects the token


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
    async with ClerkClient(
        secret_key=world.emulator.secret_key, api_url=API_URL, transport=world.upstream
    ) as clerk:
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


async def test_a_hundred_concurrent_rejections_cost_one_mint(world: World) -> None:
    callee = Callee()
    async with callee.client(outbound(world)) as client:
        await client.get("/")
        callee.decide = rejecting(callee.credentials[0])
        answers = await asyncio.gather(*(client.get("/") for _ in range(100)))

    assert {answer.status_code for answer in answers} == {200}
    assert mints(world) == 2


async def test_a_late_rejection_of_a_replaced_token_costs_no_mint(world: World) -> None:
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


async def test_a_callee_that_always_rejects_causes_ever_fewer_mints(world: World) -> None:
    callee = Callee(decide=lambda request: 401)
    async with callee.client(outbound(world, seconds_until_expiration=86_400)) as client:
        for _ in range(3600):
            answer = await client.get("/")
            assert answer.status_code == 401
            world.time.advance(1)

    # The first token, then pauses of 10, 20, 40, … 320 s, and of 600 s from then on.
    assert mints(world) == 1 + 11
    assert len(callee.credentials) == 3600 + 11


async def test_many_rejecting_callees_share_one_pause(world: World) -> None:
    callee = Callee(decide=lambda request: 401)
    async with callee.client(outbound(world)) as client:
        for number in range(100):
            await client.get(f"http://callee-{number}.test/")

    assert mints(world) == 2


async def test_a_rejecting_callee_does_not_keep_another_from_a_new_token(world: World) -> None:
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


async def test_a_token_that_is_revoked_time_and_again_is_replaced_each_time(world: World) -> None:
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


async def test_a_rejection_does_not_break_the_silence_that_clerk_asked_for(world: World) -> None:
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


async def test_a_403_is_never_repeated(world: World) -> None:
    callee = Callee(decide=lambda request: 403)
    async with callee.client(outbound(world)) as client:
        answer = await client.get("/")

    assert answer.status_code == 403
    assert len(callee.credentials) == 1
    assert mints(world) == 1


async def test_a_rejected_token_is_not_asked_for_again(world: World) -> None:
    callee = Callee()
    auth = outbound(world, seconds_until_expiration=3600, min_remaining_ttl_seconds=60)
    async with callee.client(auth) as client:
        await client.get("/")
        callee.decide = rejecting(callee.credentials[0])
        answer = await client.get("/")

    assert answer.status_code == 200
    assert "min_remaining_ttl_seconds" not in mint_bodies(world)[1]


async def test_a_rejection_while_clerk_is_down_is_given_to_the_caller(world: World) -> None:
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


async def test_calls_wait_for_the_new_token_while_one_that_was_rejected_is_replaced(
    world: World,
) -> None:
    callee, answer_mint = Callee(), asyncio.Event()

    async def hold(request: httpx.Request) -> None:
        await answer_mint.wait()

    async with callee.client(outbound(world)) as client:
        await client.get("/")
        callee.decide = rejecting(callee.credentials[0])
        world.upstream.intercept = hold
        first = asyncio.create_task(client.get("/"))
        await until(lambda: len(world.upstream.requests) == 2)
        second = asyncio.create_task(client.get("/"))
        answer_mint.set()
        await asyncio.gather(first, second)

    # The first, the rejected and its repetition, and one that never saw the rejected token.
    assert len(callee.credentials) == 4
    assert mints(world) == 2


# Clerk down


@pytest.mark.parametrize(
    ("fault", "cause", "retry_after"),
    [
        ({"status": 500}, BackendUnavailableError, 1.0),
        ({"status": 503, "retry_after": 7}, BackendUnavailableError, 7.0),
        ({"status": 429, "retry_after": 7}, RateLimitedError, 7.0),
        ({"status": 429, "retry_after": 3600}, RateLimitedError, 30.0),
        ({"kind": "drop"}, BackendUnavailableError, 1.0),
        ({"kind": "hang"}, BackendUnavailableError, 1.0),
        ({"kind": "malformed_json"}, BackendUnavailableError, 1.0),
        ({"kind": "wrong_shape"}, BackendUnavailableError, 1.0),
        ({"kind": "html"}, BackendUnavailableError, 1.0),
        ({"kind": "oversize"}, BackendUnavailableError, 1.0),
        ({"kind": "expired"}, BackendUnavailableError, 1.0),
        ({"kind": "revoked"}, BackendUnavailableError, 1.0),
        ({"status": 401}, KeyRefusedError, None),
        ({"status": 403}, KeyRefusedError, None),
        ({"status": 400}, InvalidRequestError, None),
    ],
)
async def test_without_a_token_the_call_is_not_sent_and_the_error_names_the_cause(
    world: World, fault: dict[str, Any], cause: type[Exception], retry_after: float | None
) -> None:
    world.emulator.fail(MINT, **fault)
    callee = Callee()
    async with callee.client(outbound(world, timeout=0.2)) as client:
        with pytest.raises(TokenUnavailableError) as unavailable:
            await client.get("/")
    world.emulator.clear_faults()

    assert unavailable.value.code == "token_unavailable"
    assert isinstance(unavailable.value.__cause__, cause)
    assert str(unavailable.value.__cause__) in str(unavailable.value)
    assert unavailable.value.retry_after == retry_after
    assert callee.credentials == []


@pytest.mark.parametrize(
    "given",
    [{"token": "mt_x\r\nEvil: yes"}, {"token": "mt_ x"}, {"token": ""}, {"life": 0}, {"life": -5}],
)
async def test_a_token_that_makes_no_sense_is_not_sent(world: World, given: dict[str, Any]) -> None:
    sensible: dict[str, Any] = {"token": "mt_" + "x" * 40, "life": 60}
    answer = minted(world, **(sensible | given))
    world.emulator.fail(MINT, status=201, body=answer)
    callee = Callee()
    async with callee.client(outbound(world)) as client:
        with pytest.raises(TokenUnavailableError) as unavailable:
            await client.get("/")

    assert isinstance(unavailable.value.__cause__, BackendUnavailableError)
    assert callee.credentials == []


async def test_an_answer_that_comes_after_the_token_has_ended_is_not_used(world: World) -> None:
    async def slowly(request: httpx.Request) -> httpx.Response:
        answer = minted(world, token="mt_" + "x" * 40, life=2)
        world.time.advance(3)
        return httpx.Response(201, json=answer)

    callee = Callee()
    async with callee.client(outbound(world)) as client:
        world.emulator.fail(MINT, status=500, times=1)
        with pytest.raises(TokenUnavailableError, match="500"):
            await client.get("/")
        world.time.advance(1)
        world.upstream.intercept = slowly
        with pytest.raises(TokenUnavailableError, match="took longer than its life") as unavailable:
            await client.get("/")

    assert unavailable.value.__cause__ is None
    assert callee.credentials == []


async def test_a_live_token_is_used_to_its_end_while_clerk_is_down(world: World) -> None:
    callee = Callee()
    async with callee.client(outbound(world, seconds_until_expiration=60)) as client:
        await client.get("/")
        world.emulator.fail(MINT, status=500)
        world.time.advance(57)
        await client.get("/")
        await settle()
        world.time.advance(3)
        with pytest.raises(TokenUnavailableError) as unavailable:
            await client.get("/")
        world.emulator.clear_faults()
        world.time.advance(1)
        await client.get("/")

    assert unavailable.value.code == "token_unavailable"
    first, second, third = callee.credentials
    assert first == second != third


async def test_while_clerk_is_down_one_attempt_a_second_is_made(world: World) -> None:
    world.emulator.fail(MINT, status=500)
    async with Callee().client(outbound(world)) as client:
        for _ in range(100):
            with pytest.raises(TokenUnavailableError):
                await client.get("/")
            world.time.advance(0.05)

    assert mints(world) == 5


async def test_a_renewal_that_fails_is_tried_again_once_a_second(world: World) -> None:
    callee = Callee()
    async with callee.client(outbound(world, seconds_until_expiration=3600)) as client:
        await client.get("/")
        world.emulator.fail(MINT, status=500)
        world.time.advance(3400)
        for _ in range(100):
            await client.get("/")
            await settle()
            world.time.advance(0.05)

    assert mints(world) == 1 + 5
    assert len(set(callee.credentials)) == 1


async def test_a_rate_limit_silences_renewals_for_as_long_as_it_says(world: World) -> None:
    async with Callee().client(outbound(world, seconds_until_expiration=3600)) as client:
        await client.get("/")
        world.emulator.fail(MINT, status=429, retry_after=20, times=1)
        world.time.advance(3400)
        for _ in range(19):
            await client.get("/")
            await settle()
            world.time.advance(1)
        assert mints(world) == 2
        world.time.advance(1)
        await client.get("/")
        await settle()

    assert mints(world) == 3


async def test_a_failing_renewal_leaves_no_error_behind(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    left_behind: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: left_behind.append(context))
    async with Callee().client(outbound(world, seconds_until_expiration=3600)) as client:
        await client.get("/")
        world.emulator.fail(MINT, status=500)
        world.time.advance(3400)
        for _ in range(4):
            world.time.advance(1)
            await client.get("/")
            await settle()
    gc.collect()
    await asyncio.sleep(0)

    assert mints(world) == 5
    assert left_behind == []
    warnings = [record for record in caplog.records if record.name == "clerk_m2m"]
    assert [record.levelno for record in warnings] == [logging.WARNING]


async def test_closing_ends_a_mint_that_is_under_way(world: World) -> None:
    world.emulator.fail(MINT, kind="hang")
    async with outbound(world) as auth, Callee().client(auth) as client:
        call = asyncio.create_task(client.get("/"))
        await until(lambda: mints(world) == 1)
        await auth.aclose()
        with pytest.raises(TokenUnavailableError) as unavailable:
            await call
        world.emulator.clear_faults()
        again = await client.get("/")

    assert unavailable.value.code == "token_unavailable"
    assert again.status_code == 200


# Never an expired token


async def test_no_call_is_ever_sent_with_an_expired_token_in_a_thousand_schedules(
    world: World,
) -> None:
    sent = 0
    for seed in range(1000):
        sent += await Schedule(world, seed).run()

    assert sent > 3000


class Schedule(httpx.AsyncBaseTransport):
    """A random run: lives, pauses, slow and failing mints, rejections. It is both Clerk and callee.

    As the callee it knows the true end of each token, and checks it on arrival.
    """

    def __init__(self, world: World, seed: int) -> None:
        self._time, self._dice = world.time, (dice := random.Random(seed))
        self._clerk = httpx.ASGITransport(app=world.emulator)
        self._ends_at: dict[str, float] = {}
        self._sent = 0
        life = self._life = dice.choice([1, 2, 5, 30, 60, 600, dice.uniform(0.5, 5000)])
        reuse = dice.random() < 0.3 and life > 2
        skew = 0.0 if reuse else dice.choice([0.0, -900.0, 900.0])
        # Three calls at once together stay within the margin of a new token.
        self._way = 0.0 if reuse else min(life / 24, 5) / 4
        self._auth_options: dict[str, Any] = {
            "token_format": "jwt" if not reuse and dice.random() < 0.1 else "opaque",
            "seconds_until_expiration": life,
            "min_remaining_ttl_seconds": dice.randrange(1, math.ceil(life)) if reuse else None,
            "claims": {"schedule": seed},
            "clock": Clock(
                monotonic=lambda: self._time.monotonic, wall=lambda: self._time.wall + skew
            ),
        }
        self._world = world

    async def run(self) -> int:
        """Make the calls, and have the service start anew on the way; gives how many were sent."""
        for _ in range(2):
            auth = outbound(self._world, transport=self, **self._auth_options)
            async with httpx.AsyncClient(transport=self, auth=auth) as client:
                for _ in range(3):
                    await self._call(client)
                await settle()
        return self._sent

    async def _call(self, client: httpx.AsyncClient) -> None:
        together = self._dice.choice([1, 1, 1, 3])
        calls = (client.get("http://callee.test/") for _ in range(together))
        for answer in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(answer, httpx.Response | TokenUnavailableError), repr(answer)
        self._pass(self._dice.choice([0, 0.01, 0.3, 0.9, 1, 1.2]) * self._life)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer as Clerk or as the callee."""
        if request.url.host == "callee.test":
            return self._answer_call(request)
        return await self._answer_mint(request)

    def _answer_call(self, request: httpx.Request) -> httpx.Response:
        token = request.headers["Authorization"].removeprefix("Bearer ")
        self._pass(self._way)
        assert self._time.wall < self._ends_at[token]
        self._sent += 1
        return httpx.Response(self._dice.choice([200, 200, 200, 401]))

    async def _answer_mint(self, request: httpx.Request) -> httpx.Response:
        self._pass(self._dice.choice([0, 0, 0.1, 2]))
        if self._dice.random() < 0.2:
            return httpx.Response(self._dice.choice([500, 429, 401]))
        answer = await self._clerk.handle_async_request(request)
        body = json.loads(await answer.aread())
        self._ends_at[body["token"]] = body["expiration"] / 1000
        self._pass(self._dice.choice([0, 0, 0.1, 2]))
        return httpx.Response(201, json=body)

    def _pass(self, seconds: float) -> None:
        self._time.advance(seconds * self._dice.random())


# Where the token goes


@asynccontextmanager
async def two_origins() -> AsyncIterator[tuple[str, str, list[tuple[str, str | None]]]]:
    """Two services on real sockets; the first redirects to the other, or to itself."""
    seen: list[tuple[str, str | None]] = []

    async def answer(request: Request) -> Response:
        seen.append((request.url.path, request.headers.get("Authorization")))
        status = int(request.query_params.get("status", 200))
        return Response(status_code=status)

    async def redirect(request: Request) -> Response:
        seen.append((request.url.path, request.headers.get("Authorization")))
        return RedirectResponse(request.query_params["to"], status_code=303)

    methods = ["GET", "POST"]
    routes = [Route("/", answer, methods=methods), Route("/away", redirect, methods=methods)]
    app = Starlette(routes=routes)
    async with serve(app) as first, serve(app) as second:
        yield first, second, seen


async def test_a_redirect_to_another_origin_does_not_carry_the_token(world: World) -> None:
    async with (
        two_origins() as (first, second, seen),
        httpx.AsyncClient(auth=outbound(world), follow_redirects=True) as client,
    ):
        await client.get(f"{first}/away", params={"to": f"{second}/"})

    assert [path for path, _ in seen] == ["/away", "/"]
    assert seen[0][1] is not None
    assert seen[1][1] is None


async def test_a_redirect_within_the_origin_keeps_the_token(world: World) -> None:
    async with (
        two_origins() as (first, _, seen),
        httpx.AsyncClient(auth=outbound(world), follow_redirects=True) as client,
    ):
        await client.get(f"{first}/away", params={"to": f"{first}/"})

    assert seen[0][1] == seen[1][1] is not None


async def test_a_redirect_followed_by_hand_does_not_carry_the_token_away(world: World) -> None:
    async with (
        two_origins() as (first, second, seen),
        httpx.AsyncClient(auth=outbound(world)) as client,
    ):
        away = await client.get(f"{first}/away", params={"to": f"{second}/"})
        assert away.next_request is not None
        await client.send(away.next_request)

    assert seen[0][1] is not None
    assert seen[1][1] is None


async def test_a_401_of_another_origin_after_a_redirect_costs_no_mint(world: World) -> None:
    async with (
        two_origins() as (first, second, seen),
        httpx.AsyncClient(auth=outbound(world), follow_redirects=True) as client,
    ):
        answer = await client.get(f"{first}/away", params={"to": f"{second}/?status=401"})

    assert answer.status_code == 401
    assert len(seen) == 2
    assert mints(world) == 1


async def test_a_call_is_not_repeated_past_a_redirect(world: World) -> None:
    async with (
        two_origins() as (first, _, seen),
        httpx.AsyncClient(auth=outbound(world), follow_redirects=True) as client,
    ):
        answer = await client.post(f"{first}/away", params={"to": f"{first}/?status=401"})

    assert answer.status_code == 401
    assert [path for path, _ in seen] == ["/away", "/"]


@pytest.mark.parametrize(
    ("hosts", "url"),
    [
        (["callee.test"], "https://callee.test/"),
        (["callee.test"], "https://callee.test:8443/"),
        (["CALLEE.test"], "https://callee.test/"),
        (["https://callee.test"], "https://callee.test/"),
        (["callee.test:443"], "https://callee.test/"),
        (["callee.test"], "wss://callee.test/"),
        (["http://callee.test"], "http://callee.test/"),
        (["http://callee.test"], "http://callee.test:8000/"),
        (["http://callee.test"], "https://callee.test/"),
        (["HTTP://callee.test:80"], "http://callee.test/"),
        (["http://callee.test"], "ws://callee.test/"),
        (["other.test", "[::1]:8000"], "http://[::1]:8000/"),
        (["localhost"], "http://localhost:8000/"),
        (["127.0.0.1:8000"], "https://127.0.0.1:8000/"),
        (["bücher.test"], "https://xn--bcher-kva.test/"),
    ],
)
async def test_the_token_goes_to_a_host_that_is_named(
    world: World, hosts: list[str], url: str
) -> None:
    callee = Callee()
    async with callee.client(outbound(world, hosts=hosts)) as client:
        await client.get(url)

    assert callee.credentials[0] is not None


@pytest.mark.parametrize(
    ("hosts", "url"),
    [
        (["callee.test"], "http://callee.test/"),
        (["callee.test"], "ws://callee.test/"),
        (["callee.test:80"], "http://callee.test/"),
        (["https://callee.test"], "http://callee.test/"),
        (["callee.test"], "https://other.test/"),
        (["http://callee.test"], "http://other.test/"),
        (["callee.test"], "https://callee.test.evil.test/"),
        (["callee.test"], "https://sub.callee.test/"),
        (["callee.test"], "https://callee.test./"),
        (["callee.test"], "https://callee.test@evil.test/"),
        (["callee.test:443"], "http://callee.test/"),
        (["callee.test:8000"], "https://callee.test:8001/"),
        (["http://callee.test:8000"], "http://callee.test:8001/"),
        (["localhost:8000"], "http://localhost:8001/"),
        (["api.localhost"], "http://api.localhost/"),
        (["callee.test"], "http://localhost/"),
    ],
)
async def test_a_call_to_a_host_that_is_not_named_is_not_sent(
    world: World, hosts: list[str], url: str
) -> None:
    callee = Callee()
    async with callee.client(outbound(world, hosts=hosts)) as client:
        with pytest.raises(ConfigurationError, match="hosts") as refused:
            await client.get(url)
        await client.get(url, auth=None)

    assert refused.value.code == "configuration_invalid"
    assert callee.credentials in ([None], ["Basic Y2FsbGVlLnRlc3Q6"])
    assert mints(world) == 0


@pytest.mark.parametrize(
    ("hosts", "url", "said"),
    [
        (["callee.test"], "http://callee.test/", 'https only.* "http://callee.test" in hosts'),
        (["callee.test"], "http://other.test/", 'Add "http://other.test:80" to hosts'),
        (["callee.test"], "https://other.test/", 'Add "other.test:443" to hosts'),
        (["callee.test"], "http://[::1]:8000/", r'Add "\[::1\]:8000" to hosts'),
    ],
)
async def test_the_error_says_what_to_write_in_hosts(
    world: World, hosts: list[str], url: str, said: str
) -> None:
    async with Callee().client(outbound(world, hosts=hosts)) as client:
        with pytest.raises(ConfigurationError, match=said) as refused:
            await client.get(url)

    assert refused.value.code == "configuration_invalid"


# Secrets


async def test_neither_token_nor_key_is_in_any_log_repr_or_error(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    key, seen = world.caller.secret_key, []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(dict(scope["headers"])[b"authorization"].decode().removeprefix("Bearer "))
        await Response(status_code=401)(scope, receive, send)

    async with serve(world.emulator) as clerk, serve(app, lifespan="off") as origin:
        auth = outbound(world, api_url=clerk, transport=None)
        async with httpx.AsyncClient(base_url=origin, auth=auth) as client:
            answer = await client.get("/")
            with pytest.raises(httpx.HTTPStatusError) as error:
                answer.raise_for_status()
        echo = {"errors": [{"code": "x", "message": f"bad key {key}", "long_message": key}]}
        world.emulator.fail(MINT, status=401, body=echo)
        refused = outbound(world, api_url=clerk, transport=None)
        async with httpx.AsyncClient(base_url=origin, auth=refused) as client:
            with pytest.raises(TokenUnavailableError) as unavailable:
                await client.get("/")

    shown = [repr(auth), repr(vars(auth)), repr(answer.request.headers), repr(answer)]
    shown += [repr(error.value), str(error.value)]
    shown += [repr(unavailable.value), repr(unavailable.value.__cause__), caplog.text]
    assert len(seen) == 2
    assert "HTTP Request" in caplog.text
    assert not [text for text in shown for secret in (key, *seen) if secret in text]


# The machine's own key


async def test_a_rotated_key_is_asked_for_again_once(world: World) -> None:
    keys = iter(["ak_" + "0" * 40, world.caller.secret_key])
    callee = Callee()
    async with callee.client(outbound(world, machine_secret_key=lambda: next(keys))) as client:
        await client.get("/")

    assert len(callee.credentials) == 1
    assert mints(world) == 2


async def test_a_key_that_is_refused_and_has_not_changed_is_used_once(world: World) -> None:
    asked = []

    def key() -> Secret:
        asked.append(1)
        return Secret("ak_" + "0" * 40)

    async with Callee().client(outbound(world, machine_secret_key=key)) as client:
        with pytest.raises(TokenUnavailableError) as unavailable:
            await client.get("/")

    assert isinstance(unavailable.value.__cause__, KeyRefusedError)
    assert len(asked) == 2
    assert mints(world) == 1


async def test_a_refused_key_is_sent_ever_more_seldom(world: World) -> None:
    async with Callee().client(outbound(world, machine_secret_key="ak_" + "0" * 40)) as client:
        for _ in range(60):
            with pytest.raises(TokenUnavailableError) as unavailable:
                await client.get("/")
            assert unavailable.value.code == "token_unavailable"
            world.time.advance(1.0)

    assert mints(world) == 6  # after 0, 1, 3, 7, 15 and 31 s


async def test_a_callers_key_in_a_file_rotates_without_a_failed_call(
    world: World, tmp_path: Path
) -> None:
    path = tmp_path / "key"
    path.write_text(world.caller.secret_key, "utf-8")
    callee = Callee()
    auth = outbound(world, machine_secret_key=path, seconds_until_expiration=60)
    async with (
        callee.client(auth) as client,
        ClerkClient(
            secret_key=world.emulator.secret_key, api_url=API_URL, transport=world.upstream
        ) as admin,
    ):
        for minute in range(10):
            new = await admin.machines.rotate_secret_key(world.caller.id, previous_token_ttl=0)
            path.write_text(f"{new.reveal()}\n", "utf-8")
            for _ in range(60):
                assert (await client.get("/")).status_code == 200, minute
                await settle()
                world.time.advance(1.0)

    assert len(callee.credentials) == 600
    assert 10 <= len(set(callee.credentials)) <= 12


@pytest.mark.parametrize("key", ["", "sk_test_wrong_kind", "ak_with space"])
async def test_a_callable_that_gives_no_key_is_named_in_the_error(world: World, key: str) -> None:
    callee = Callee()
    async with callee.client(outbound(world, machine_secret_key=lambda: key)) as client:
        with pytest.raises(TokenUnavailableError, match="machine_secret_key") as unavailable:
            await client.get("/")

    assert isinstance(unavailable.value.__cause__, KeyUnavailableError)
    assert unavailable.value.__cause__.code == "key_unavailable"
    assert callee.credentials == []


async def test_a_callable_that_raises_is_named_and_its_text_is_not(world: World) -> None:
    def key() -> str:
        raise LookupError(f"cannot decrypt {world.caller.secret_key}")

    async with Callee().client(outbound(world, machine_secret_key=key)) as client:
        with pytest.raises(TokenUnavailableError, match="LookupError") as unavailable:
            await client.get("/")

    assert world.caller.secret_key not in str(unavailable.value)
    assert unavailable.value.retry_after == 1.0


# Construction


@pytest.mark.parametrize(
    "given",
    [
        {"machine_secret_key": None},
        {"machine_secret_key": ""},
        {"machine_secret_key": "sk_test_x"},
        {"token_format": "JWT"},
        {"seconds_until_expiration": 0},
        {"seconds_until_expiration": math.inf},
        {"seconds_until_expiration": math.nan},
        {"seconds_until_expiration": True},
        {"min_remaining_ttl_seconds": 0},
        {"min_remaining_ttl_seconds": 1.5},
        {"min_remaining_ttl_seconds": 60, "seconds_until_expiration": 60},
        {"min_remaining_ttl_seconds": 60, "token_format": "jwt"},
        {"claims": {"when": FakeTime()}},
        {"claims": {"ratio": math.nan}},
        {"claims": [1]},
        {"timeout": 0},
        {"timeout": 61},
        {"api_url": "https://api.clerk.com/v1"},
        {"hosts": "callee.test"},
        {"hosts": []},
        {"hosts": ["ftp://callee.test"]},
        {"hosts": ["://callee.test"]},
        {"hosts": ["http://"]},
        {"hosts": ["http://https://callee.test"]},
        {"hosts": ["callee.test/path"]},
        {"hosts": ["user@callee.test"]},
        {"hosts": ["*.callee.test"]},
        {"hosts": [""]},
        {"hosts": ["::1"]},
    ],
)
async def test_what_cannot_work_is_refused_at_construction(
    world: World, given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CLERK_MACHINE_SECRET_KEY", raising=False)

    with pytest.raises(ConfigurationError) as refused:
        outbound(world, **given)

    assert refused.value.code == "configuration_invalid"
    assert set(given) & set(str(refused.value).replace(":", " ").replace(".", " ").split())


def test_a_sync_client_is_refused_before_anything_is_sent() -> None:
    sent: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(200)

    auth = MachineTokenAuth("ak_" + "0" * 40)
    with (
        httpx.Client(transport=httpx.MockTransport(answer), auth=auth) as client,
        pytest.raises(ConfigurationError, match="AsyncClient") as refused,
    ):
        client.get("http://callee.test/")

    assert refused.value.code == "configuration_invalid"
    assert sent == []
