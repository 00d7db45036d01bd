"""Mints that fail: which token is sent then, and when the mint is retried."""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
from typing import Any

import httpx
import pytest
from outbound_calls import MINT, Callee, minted, mints, outbound, settle
from upstreams import eventually

from clerk_m2m import (
    BackendUnavailableError,
    InvalidRequestError,
    KeyRefusedError,
    RateLimitedError,
    TokenUnavailableError,
)
from clerk_m2m.background import BACKGROUND
from harness import World


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
    # Only a call that hangs is to reach its timeout; on a busy machine any other may take a while.
    timeout = 0.2 if fault.get("kind") == "hang" else 5.0
    async with callee.client(outbound(world, timeout=timeout)) as client:
        with pytest.raises(TokenUnavailableError) as unavailable:
            await client.get("/")
    world.emulator.clear_faults()

    assert unavailable.value.code == "token_unavailable"
    assert isinstance(unavailable.value.__cause__, cause)
    assert str(unavailable.value.__cause__) in str(unavailable.value)
    if retry_after is None:
        assert unavailable.value.retry_after is None
    else:  # the jitter makes it longer
        assert unavailable.value.retry_after is not None
        assert retry_after < unavailable.value.retry_after <= retry_after * 1.25
    assert callee.credentials == []


@pytest.mark.parametrize(
    "given",
    [{"token": "mt_x\r\nEvil: yes"}, {"token": "mt_ x"}, {"token": ""}, {"life": 0}, {"life": -5}],
)
async def test_an_invalid_token_from_clerk_is_not_sent(world: World, given: dict[str, Any]) -> None:
    sensible: dict[str, Any] = {"token": "mt_" + "x" * 40, "life": 60}
    answer = minted(world, **(sensible | given))
    world.emulator.fail(MINT, status=201, body=answer)
    callee = Callee()
    async with callee.client(outbound(world)) as client:
        with pytest.raises(TokenUnavailableError) as unavailable:
            await client.get("/")

    assert isinstance(unavailable.value.__cause__, BackendUnavailableError)
    assert callee.credentials == []


@pytest.mark.parametrize(
    ("raised", "attempts"),
    [
        (httpx.ReadError, 2),
        (httpx.RemoteProtocolError, 2),
        (httpx.ConnectError, 4),  # retries of `transport`, which are safe: nothing was sent
    ],
)
async def test_a_mint_is_retried_after_a_lost_connection_but_not_after_a_refused_one(
    world: World, raised: type[httpx.TransportError], attempts: int
) -> None:
    async def fail(_request: httpx.Request) -> None:
        # A new one each time: its traceback keeps the frames of this mint, and so its auth.
        raise raised("lost")

    world.upstream.intercept = fail
    with pytest.raises(TokenUnavailableError) as unavailable:
        await outbound(world).token()

    assert unavailable.value.code == "token_unavailable"
    assert len(world.upstream.requests) == attempts


async def test_a_token_that_expired_before_the_answer_arrived_is_not_used(world: World) -> None:
    async def slowly(request: httpx.Request) -> httpx.Response:
        answer = minted(world, token="mt_" + "x" * 40, life=2)
        world.time.advance(3)
        return httpx.Response(201, json=answer)

    callee = Callee()
    async with callee.client(outbound(world)) as client:
        world.emulator.fail(MINT, status=500, times=1)
        with pytest.raises(TokenUnavailableError, match="500"):
            await client.get("/")
        world.time.advance(2)
        world.upstream.intercept = slowly
        with pytest.raises(
            TokenUnavailableError, match="expired before Clerk's answer"
        ) as unavailable:
            await client.get("/")
        with pytest.raises(TokenUnavailableError, match="expired before Clerk's answer"):
            await client.get("/")

    assert isinstance(unavailable.value.__cause__, BackendUnavailableError)
    assert callee.credentials == []
    assert len(world.upstream.requests) == 2


async def test_a_token_that_expires_exactly_when_the_answer_arrives_is_not_used(
    world: World,
) -> None:
    async def slowly(request: httpx.Request) -> httpx.Response:
        answer = minted(world, token="mt_" + "x" * 40, life=24)
        world.time.advance(23)  # the margin is 1/24 of the lifetime
        return httpx.Response(201, json=answer)

    world.upstream.intercept = slowly
    with pytest.raises(TokenUnavailableError, match="expired before Clerk's answer") as unavailable:
        await outbound(world).token()

    assert unavailable.value.code == "token_unavailable"


async def test_the_margin_before_a_tokens_expiry_is_at_most_five_seconds(world: World) -> None:
    auth = outbound(world, seconds_until_expiration=3600)
    first = await auth.token()
    world.emulator.fail(MINT, status=500)
    world.time.advance(3594.9)
    assert await auth.token() == first
    await settle()
    world.time.advance(0.1)
    with pytest.raises(TokenUnavailableError) as unavailable:
        await auth.token()

    assert unavailable.value.code == "token_unavailable"


async def test_a_live_token_is_used_until_it_expires_while_clerk_is_down(world: World) -> None:
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
        world.time.advance(3)
        await client.get("/")

    assert unavailable.value.code == "token_unavailable"
    first, second, third = callee.credentials
    assert first == second != third


@pytest.mark.parametrize("fault", [{"status": 500}, {"kind": "malformed_json"}])
async def test_failed_mints_are_retried_after_growing_pauses(
    world: World, fault: dict[str, Any]
) -> None:
    world.emulator.fail(MINT, **fault)
    asked_at: list[float] = []
    async with Callee().client(outbound(world)) as client:
        for _ in range(7200):
            before = mints(world)
            with pytest.raises(TokenUnavailableError):
                await client.get("/")
            if mints(world) > before:
                asked_at.append(world.time.monotonic)
            world.time.advance(0.5)

    # After 1, 2, 4, 8, 16 s, and then every 30 s; jitter makes each pause up to a quarter longer.
    assert 95 <= mints(world) <= 125
    pauses = [later - earlier for earlier, later in itertools.pairwise(asked_at)]
    for pause, least in zip(pauses, [1, 2, 4, 8, 16, 30, 30], strict=False):
        assert least <= pause <= 1.25 * least + 0.5


async def test_failed_renewals_are_retried_after_growing_pauses(world: World) -> None:
    callee = Callee()
    async with callee.client(outbound(world, seconds_until_expiration=3600)) as client:
        await client.get("/")
        world.emulator.fail(MINT, status=500)
        world.time.advance(3400)
        for _ in range(100):
            await client.get("/")
            await settle()
            world.time.advance(0.05)

    assert mints(world) == 1 + 3  # after 0, 1 and 3 s, and a little
    assert len(set(callee.credentials)) == 1


async def test_no_renewal_is_sent_during_the_retry_after_of_a_429(world: World) -> None:
    async with Callee().client(outbound(world, seconds_until_expiration=3600)) as client:
        await client.get("/")
        world.emulator.fail(MINT, status=429, retry_after=20, times=1)
        world.time.advance(3400)
        for _ in range(20):
            await client.get("/")
            await settle()
            world.time.advance(1)
        assert mints(world) == 2
        world.time.advance(5)
        await client.get("/")
        await settle()

    assert mints(world) == 3


async def test_a_failing_renewal_leaves_no_unhandled_task_error(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    left_behind: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: left_behind.append(context))
    async with Callee().client(outbound(world, seconds_until_expiration=3600)) as client:
        await client.get("/")
        world.emulator.fail(MINT, status=500)
        world.time.advance(3400)
        for _ in range(4):
            world.time.advance(30 * 1.25)
            await client.get("/")
            await settle()
    gc.collect()
    await asyncio.sleep(0)

    assert mints(world) == 5
    assert left_behind == []
    warnings = [record for record in caplog.records if record.name == "clerk_m2m"]
    assert {record.levelno for record in warnings} == {logging.WARNING}
    assert len(warnings) <= 2  # at most one a minute


async def test_closing_cancels_a_mint_in_progress(world: World) -> None:
    world.emulator.fail(MINT, kind="hang")
    async with outbound(world, timeout=0.5) as auth, Callee().client(auth) as client:
        call = asyncio.create_task(client.get("/"))
        await eventually(lambda: mints(world) == 1)
        await auth.aclose()
        with pytest.raises(TokenUnavailableError, match="cancelled the mint") as unavailable:
            await call
        assert str(unavailable.value) == "There is no token to send: aclose() cancelled the mint."
        world.emulator.clear_faults()
        again = await client.get("/")

    assert unavailable.value.code == "token_unavailable"
    assert again.status_code == 200


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, asyncio.CancelledError])
async def test_an_exception_of_a_key_callable_fails_only_its_own_mint(
    world: World, kind: type[BaseException]
) -> None:
    """If `SystemExit` left the mint's task, it would stop the thread that runs all mints."""

    async def ends() -> str:
        raise kind

    def ends_at_once() -> str:
        raise kind

    other = outbound(world)
    for source in (ends, ends_at_once):
        auth = outbound(world, machine_secret_key=source, timeout=1.0)
        with pytest.raises(TokenUnavailableError):
            await auth.token()
        await auth.aclose()
        await other.token()
        assert other.forget()
        world.time.advance(1000.0)
    await other.aclose()

    assert mints(world) == 2


async def test_a_mint_that_never_started_does_not_block_the_next(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C may come after the mint is registered and before it starts."""
    auth = outbound(world, timeout=0.2)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(BACKGROUND, "start", interrupt)
        with pytest.raises(KeyboardInterrupt):
            auth.token_sync()
        # Or the thread accepted the mint but never ran it.
        patched.setattr(BACKGROUND, "start", lambda *_: None)
        with pytest.raises(TokenUnavailableError, match="none was minted within"):
            await auth.token()

    assert (await auth.token()).startswith("mt_")
    await auth.aclose()
