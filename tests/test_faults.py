"""The service's answers while Clerk refuses, fails or sends unreadable answers.

A credential that cannot be verified is answered with 503 and `Retry-After`. That outcome is never
cached, and callers with a cached verdict are still accepted.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Any

import httpx
import pytest
from answers import TOKEN, ask, assert_not_found_out, assert_refused
from upstreams import record

from harness import USER_ID, World


def credential(world: World, operation: str) -> str:
    """A good credential that this operation verifies."""
    match operation:
        case "verifyM2MToken":
            return world.token()
        case "verifyApiKey":
            return world.emulator.add_api_key("key", subject=USER_ID).secret
        case _:
            return world.emulator.add_oauth_token(subject=USER_ID).token


# Negative verdicts


@pytest.mark.parametrize(
    ("operation", "fault"),
    [
        ("verifyM2MToken", {"kind": "revoked"}),
        ("verifyM2MToken", {"kind": "expired"}),
        ("verifyM2MToken", {"status": 404}),
        ("verifyM2MToken", {"status": 400}),
        ("verifyApiKey", {"kind": "revoked"}),
        ("verifyApiKey", {"kind": "expired"}),
        ("verifyApiKey", {"status": 404}),
        ("verifyApiKey", {"status": 400}),
        ("verifyOAuthAccessToken", {"kind": "inactive"}),
        ("verifyOAuthAccessToken", {"kind": "revoked"}),
        ("verifyOAuthAccessToken", {"kind": "expired"}),
        ("verifyOAuthAccessToken", {"status": 404}),
    ],
    ids=str,
)
async def test_a_negative_verdict_is_401_and_cached_for_ten_seconds(
    world: World, operation: str, fault: dict[str, Any]
) -> None:
    verifier, token = world.verifier(world.live_settings()), credential(world, operation)
    world.emulator.fail(operation, **fault)
    assert_refused(await ask(verifier, token))

    world.emulator.clear_faults()
    world.time.advance(9.5)
    assert_refused(await ask(verifier, token))
    assert world.emulator.calls[operation] == 1
    world.time.advance(0.5)
    assert (await ask(verifier, token)).status_code == 200


@pytest.mark.parametrize("status", [404, 400])
async def test_404_or_400_without_clerks_error_body_is_503(world: World, status: int) -> None:
    verifier, token = world.verifier(), world.token()
    world.emulator.fail("verifyM2MToken", status=status, body="<h1>Not here</h1>", times=1)

    assert_not_found_out(await ask(verifier, token))
    assert (await ask(verifier, token)).status_code == 200


@pytest.mark.parametrize("status", [401, 403])
async def test_401_or_403_without_clerks_error_body_is_an_outage_not_a_refused_key(
    world: World, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    verifier, token = world.verifier(), world.token()
    world.emulator.fail("verifyM2MToken", kind="html", status=status, times=1)

    assert_not_found_out(await ask(verifier, token))
    assert "own key" not in caplog.text
    assert (await ask(verifier, token)).status_code == 200


# Our own key


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refusal_of_our_own_key_is_503_and_not_cached(world: World, status: int) -> None:
    verifier, token = world.verifier(), world.token()
    world.emulator.fail("verifyM2MToken", status=status, times=1)

    assert_not_found_out(await ask(verifier, token), "verifier_misconfigured")
    world.time.advance(1.0)
    assert (await ask(verifier, token)).status_code == 200


async def test_a_refusal_of_our_own_key_is_logged_as_an_error_once_a_minute(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    verifier = world.verifier()
    world.emulator.fail("verifyM2MToken", status=401)

    def errors() -> int:
        return sum(each.levelno >= logging.ERROR for each in caplog.records)

    for _ in range(20):
        await ask(verifier, world.token())
        world.time.advance(2.9)
    assert errors() == 1
    world.time.advance(2.0)
    await ask(verifier, world.token())
    assert errors() == 2
    assert str(world.callee.secret_key) not in caplog.text


async def test_a_refused_instance_key_is_not_treated_as_an_outage_of_the_graph(
    world: World,
) -> None:
    verifier, token = world.verifier(world.live_settings()), world.token()
    assert (await ask(verifier, token)).status_code == 200
    world.emulator.fail("GetMachine", status=401)

    world.time.advance(31.0)
    assert_not_found_out(await ask(verifier, token), "verifier_misconfigured")


# The rate limit


@pytest.mark.parametrize(
    ("said", "waited"),
    [
        (7, 7),
        (1, 1),
        (30, 30),
        (31, 30),
        (86_400, 30),
        ("Mon, 01 Jan 2001 00:00:00 GMT", 1),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 30),
        ("Mon, 01 Jan 99999999999 00:00:00 GMT", 1),
        ("-5", 1),
        ("1e9", 1),
        ("soon", 1),
        (None, 1),
    ],
)
async def test_a_rate_limit_is_503_with_a_retry_after_of_at_most_30_seconds(
    world: World, said: int | str | None, waited: int
) -> None:
    world.emulator.fail("verifyM2MToken", status=429, retry_after=said)

    assert_not_found_out(await ask(world.verifier(), world.token()), retry_after=waited)
    assert len(world.upstream.requests) == 1


async def test_until_a_rate_limit_ends_clerk_is_not_called_and_known_callers_are_accepted(
    world: World,
) -> None:
    verifier, known = world.verifier(), world.token()
    await ask(verifier, known)
    world.emulator.fail("verifyM2MToken", status=429, retry_after=7, times=1)
    assert_not_found_out(await ask(verifier, world.token()), retry_after=7)
    calls = len(world.upstream.requests)

    for left in range(7, 0, -1):
        assert_not_found_out(await ask(verifier, world.token()), retry_after=left)
        assert (await ask(verifier, known)).status_code == 200
        world.time.advance(1.0)
    assert len(world.upstream.requests) == calls
    assert (await ask(verifier, world.token())).status_code == 200


async def test_a_later_shorter_retry_after_does_not_shorten_the_pause(world: World) -> None:
    verifier, told = world.verifier(), iter([20, 1])
    both_out = asyncio.Barrier(2)

    async def both_at_once(_request: httpx.Request) -> httpx.Response:
        await both_out.wait()
        return httpx.Response(429, headers={"Retry-After": str(next(told))})

    world.upstream.intercept = both_at_once
    await asyncio.gather(*(ask(verifier, world.token()) for _ in range(2)))
    world.upstream.intercept = None
    world.time.advance(2.0)

    assert_not_found_out(await ask(verifier, world.token()), retry_after=18)


# No answer, or an unreadable one


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 500},
        {"status": 501},
        {"status": 502},
        {"status": 503},
        {"status": 504},
        {"status": 520},
        {"status": 418},
        {"status": 409},
        {"status": 422},
        {"status": 302, "headers": {"Location": "/v1/m2m_tokens"}},
        {"status": 307, "headers": {"Location": "http://elsewhere.test/"}},
        {"status": 308, "headers": {"Location": "http://["}},
        {"status": 204, "body": b""},
        {"status": 200, "body": b""},
        {"kind": "drop"},
        {"kind": "oversize"},
        {"kind": "html"},
        {"kind": "malformed_json"},
        {"kind": "wrong_shape"},
        {"body": b"null"},
        {"body": b"[]"},
        {"body": b'"revoked"'},
        {"body": b"{}"},
        {"body": b"[" * 30_000},
        {"body": b"1" * 30_000},
        {"body": b"\xff\xfe{}"},
        {"body": b"{}", "headers": {"Content-Encoding": "gzip"}},
        {"body": b'{"active": true}'},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "operation", ["verifyM2MToken", "verifyApiKey", "verifyOAuthAccessToken"], ids=str
)
async def test_a_missing_or_unreadable_answer_is_503_and_not_cached(
    world: World, operation: str, fault: dict[str, Any]
) -> None:
    verifier, token = world.verifier(world.live_settings()), credential(world, operation)
    known = world.token()
    assert (await ask(verifier, known)).status_code == 200
    world.emulator.fail(operation, **fault)

    assert_not_found_out(await ask(verifier, token))
    assert (await ask(verifier, known)).status_code == 200
    world.emulator.clear_faults()
    assert (await ask(verifier, token)).status_code == 200


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": "mt_" + "0" * 31},
        {"id": "mt_" + "0" * 32 + "\n"},
        {"id": "ak_" + "0" * 32},
        {"id": None},
        {"subject": "mch_short"},
        {"subject": USER_ID},
        {"subject": "mch_" + "a" * 26 + "\n"},
        {"subject": ["mch_" + "a" * 27]},
        {"scopes": ["mch_short"]},
        {"scopes": "mch_" + "a" * 27},
        {"scopes": [1]},
        {"revoked": "false"},
        {"revoked": None},
        {"revoked": 0},
        {"expired": None},
        {"expired": "no"},
        {"expiration": 0},
        {"expiration": -1},
        {"expiration": 1_800_000_060},
        {"expiration": 1_800_000_060_000_000},
        {"expiration": 1e30},
        {"expiration": True},
        {"expiration": "never"},
        {"expiration": float("nan")},
    ],
    ids=str,
)
async def test_an_answer_with_an_invalid_member_is_503_and_not_cached(
    world: World, wrong: dict[str, Any]
) -> None:
    verifier = world.verifier()
    world.emulator.fail("verifyM2MToken", body=record(world, **wrong), times=1)
    world.emulator.fail("verifyM2MToken", body=record(world), times=1)

    assert_not_found_out(await ask(verifier, TOKEN))
    assert (await ask(verifier, TOKEN)).status_code == 200


@pytest.mark.parametrize("name", ["id", "subject", "revoked", "expired", "expiration"])
async def test_an_answer_without_a_required_member_is_503(world: World, name: str) -> None:
    answer = record(world)
    del answer[name]
    world.emulator.fail("verifyM2MToken", body=answer)

    assert_not_found_out(await ask(world.verifier(), TOKEN))


@pytest.mark.parametrize(
    "raised",
    [
        socket.gaierror(-2, "Name or service not known"),
        ConnectionRefusedError("refused"),
        httpx.ConnectError("certificate verify failed"),
        httpx.ReadError("reset"),
        httpx.RemoteProtocolError("illegal"),
        httpx.PoolTimeout("no slot"),
    ],
    ids=repr,
)
async def test_a_network_failure_is_503_and_not_cached(world: World, raised: Exception) -> None:
    verifier, token = world.verifier(), world.token()

    async def fail(_request: httpx.Request) -> httpx.Response:
        raise raised

    world.upstream.intercept = fail
    assert_not_found_out(await ask(verifier, token))
    world.upstream.intercept = None
    assert (await ask(verifier, token)).status_code == 200


async def test_a_graph_that_cannot_be_read_is_503(world: World) -> None:
    verifier, token = world.verifier(world.live_settings()), world.token()
    world.emulator.fail("GetMachine", status=500)

    assert_not_found_out(await ask(verifier, token))
    assert_not_found_out(await ask(verifier, token))
    assert world.emulator.calls["verifyM2MToken"] == 1
