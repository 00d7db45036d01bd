"""The clock that decides about expiry: Clerk's for opaque credentials, this host's for JWTs."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from outcomes import accepts, unavailable

from clerk_m2m import Clock, TokenInvalidError, Verifier
from harness import World, bearer, calling, protected

HOUR = 3600.0
TTL = 60.0
TOKEN = "mt_" + "x" * 40

Intercept = Callable[[httpx.Request], Awaitable[httpx.Response]]


def host(world: World, *, ahead: float = 0.0, **given: Any) -> Verifier:
    """The service on a host whose wall clock is `ahead` seconds ahead of Clerk's."""
    time = world.time
    clock = Clock(monotonic=lambda: time.monotonic, wall=lambda: time.wall + ahead)
    verifier = Verifier(world.settings(**given), transport=world.upstream, clock=clock)
    world.verifiers.append(verifier)
    return verifier


def with_headers(world: World, *, without: str = "", **added: str) -> Intercept:
    """Clerk's answers, without one of their headers and with these."""
    emulator = httpx.ASGITransport(app=world.emulator)

    async def intercept(request: httpx.Request) -> httpx.Response:
        answer = await emulator.handle_async_request(request)
        answer.headers.pop(without, None)
        answer.headers.update(added)
        return answer

    return intercept


def untimed(world: World, how: str) -> None:
    """Remove Clerk's time from its answers."""
    world.upstream.intercept = (
        with_headers(world, without="Date") if how == "no Date" else with_headers(world, Age="120")
    )


def record(world: World, *, expiration: float) -> dict[str, Any]:
    """An answer of Clerk's with `expired: false` and this `expiration` (Unix seconds)."""
    return {
        "object": "machine_to_machine_token",
        "id": "mt_" + "0" * 32,
        "subject": world.caller.id,
        "scopes": [world.callee.id],
        "claims": None,
        "revoked": False,
        "revocation_reason": None,
        "expired": False,
        "expiration": int(expiration * 1000),
        "created_at": 0,
        "updated_at": 0,
    }


# Opaque credentials


@pytest.mark.parametrize("ahead", [HOUR, -HOUR])
async def test_an_opaque_tokens_life_is_measured_by_clerks_clock(
    world: World, ahead: float
) -> None:
    verifier = host(world, ahead=ahead, cache_ttl=10 * TTL)
    token = world.token(seconds_until_expiration=120)

    assert await accepts(verifier, token)
    world.time.advance(118)
    assert await accepts(verifier, token)
    assert verifier.stats.paid == 1
    world.time.advance(2)
    assert not await accepts(verifier, token)
    assert verifier.stats.paid == 2


async def test_an_api_keys_life_is_measured_by_clerks_clock(world: World) -> None:
    verifier = host(world, ahead=HOUR, secret_key=world.emulator.secret_key, accepts=["api_key"])
    key = world.emulator.add_api_key(
        "ci", subject="user_" + "u" * 27, seconds_until_expiration=120
    ).secret

    assert await accepts(verifier, key)


@pytest.mark.parametrize("how", ["no Date", "Age"])
@pytest.mark.parametrize("ahead", [HOUR, -HOUR])
async def test_a_verdict_without_clerks_time_is_cached_for_the_ttl_at_most(
    world: World, how: str, ahead: float
) -> None:
    untimed(world, how)
    verifier = host(world, ahead=ahead, cache_ttl=TTL)
    token = world.token(seconds_until_expiration=TTL + 10)

    assert await accepts(verifier, token)
    world.time.advance(TTL - 7)  # the ttl is shortened by up to a tenth
    assert await accepts(verifier, token)
    world.time.advance(17)
    assert not await accepts(verifier, token)


@pytest.mark.parametrize("how", ["no Date", "Age"])
async def test_a_verdict_with_unknown_expiry_is_not_used_beyond_the_ttl(
    world: World, how: str
) -> None:
    untimed(world, how)
    verifier = host(world, cache_ttl=TTL, stale_if_error=10 * TTL)
    token = world.token(seconds_until_expiration=20 * TTL)
    assert await accepts(verifier, token)
    world.emulator.fail(status=500)

    world.time.advance(TTL - 0.1)
    assert await accepts(verifier, token)
    world.time.advance(0.1)
    await unavailable(verifier, token)


async def test_a_verdict_with_known_expiry_is_used_stale_until_then(world: World) -> None:
    verifier = host(world, ahead=HOUR, cache_ttl=TTL, stale_if_error=10 * TTL)
    token = world.token(seconds_until_expiration=3 * TTL)
    await verifier.verify(token)
    world.emulator.fail(status=500)

    world.time.advance(2 * TTL)
    assert (await verifier.verify(token)).stale
    world.time.advance(TTL)
    await unavailable(verifier, token)


@pytest.mark.parametrize("left", [-4.0, -6.0])
async def test_an_expiration_past_by_clerks_clock_is_refused_beyond_the_leeway(
    world: World, left: float
) -> None:
    """Clerk says `expired: false` of both tokens."""
    verifier = host(world, ahead=-HOUR)
    world.emulator.fail("verifyM2MToken", body=record(world, expiration=world.time.wall + left))

    assert await accepts(verifier, TOKEN) is (left > -5)


async def test_a_slow_answer_does_not_extend_the_life_of_a_verdict(
    world: World,
) -> None:
    emulator = httpx.ASGITransport(app=world.emulator)

    async def slow(request: httpx.Request) -> httpx.Response:
        answer = await emulator.handle_async_request(request)
        world.time.advance(5)  # the answer is on its way
        return answer

    world.upstream.intercept = slow
    verifier, token = host(world), world.token(seconds_until_expiration=20)
    assert await accepts(verifier, token)

    world.upstream.intercept = None
    world.time.advance(15)
    assert not await accepts(verifier, token)


# Suspension


async def test_a_suspension_of_the_host_does_not_extend_the_life_of_a_verdict(
    world: World,
) -> None:
    """A clock that counts suspension advances with the wall clock; see `test_clock`."""
    verifier, token = host(world, cache_ttl=10 * TTL), world.token(seconds_until_expiration=120)
    assert await accepts(verifier, token)

    world.time.advance(8 * HOUR)

    assert not await accepts(verifier, token)


# JWTs


def graph(world: World) -> dict[str, Any]:
    return {"graph": {world.caller.id: [world.callee.id]}, "secret_key": world.emulator.secret_key}


@pytest.mark.parametrize(
    ("ahead", "detail"),
    [
        (HOUR, "The JWT has expired by this host's clock"),
        (-HOUR, "The JWT is not valid yet by this host's clock"),
    ],
)
async def test_the_refusal_of_a_jwt_names_the_clock_and_its_skew(
    world: World, caplog: pytest.LogCaptureFixture, ahead: float, detail: str
) -> None:
    verifier = host(world, ahead=ahead, **graph(world))
    jwt = world.jwt(seconds_until_expiration=600)
    with pytest.raises(TokenInvalidError) as refused:
        await verifier.verify(jwt)
    assert (refused.value.code, refused.value.detail) == ("token_invalid", f"{detail}.")

    await verifier.verify(world.token())  # Clerk's answer tells its time
    caplog.clear()
    with caplog.at_level(logging.INFO):
        async with calling(protected(verifier)) as client:
            answer = await client.get("/", headers=bearer(jwt))

    direction = "ahead of" if ahead > 0 else "behind"
    told = f"{detail}, which is 3600 s {direction} Clerk's."
    assert (answer.status_code, answer.json()["code"]) == (401, "token_invalid")
    assert answer.json()["detail"] == told
    assert told in caplog.text


async def test_a_skewed_host_logs_one_warning_for_many_verifications(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    verifier = host(world, ahead=HOUR)

    for _ in range(20):
        await verifier.verify(world.token())

    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "This host's clock is 3600 s ahead of Clerk's" in record.getMessage()
