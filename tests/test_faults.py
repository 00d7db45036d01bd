"""What the service answers while Clerk refuses, fails, lies or hangs, row by row of the promise.

"Could not find out" is a 503 that tells when to come back: it lets nobody in, is kept nowhere, and
does not touch the callers that are known.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import socket
import ssl
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from upstreams import (
    Handler,
    answering,
    eventually,
    http_answer,
    over_sockets,
    raw_upstream,
    record,
)

from clerk_m2m import Verifier
from harness import SIGNING_KEY, USER_ID, World, bearer, calling, protected

TOKEN = "mt_" + "t" * 40


async def ask(verifier: Verifier, token: str) -> httpx.Response:
    async with calling(protected(verifier)) as client:
        return await client.get("/", headers=bearer(token))


def assert_refused(answer: httpx.Response) -> None:
    assert (answer.status_code, answer.json()["code"]) == (401, "token_invalid")
    assert answer.headers["cache-control"] == "no-store"


def assert_not_found_out(
    answer: httpx.Response, code: str = "verification_unavailable", *, retry_after: int = 1
) -> None:
    assert (answer.status_code, answer.json()["code"]) == (503, code)
    assert answer.headers["retry-after"] == str(retry_after)
    assert answer.headers["cache-control"] == "no-store"
    assert "www-authenticate" not in answer.headers


def credential(world: World, operation: str) -> str:
    """A good credential that this operation verifies."""
    match operation:
        case "verifyM2MToken":
            return world.token()
        case "verifyApiKey":
            return world.emulator.add_api_key("key", subject=USER_ID).secret
        case _:
            return world.emulator.add_oauth_token(subject=USER_ID).token


# A definitive no


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
async def test_a_no_of_clerks_is_401_and_believed_for_ten_seconds_at_most(
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
async def test_a_no_of_something_else_than_clerk_decides_nothing(world: World, status: int) -> None:
    verifier, token = world.verifier(), world.token()
    world.emulator.fail("verifyM2MToken", status=status, body="<h1>Not here</h1>", times=1)

    assert_not_found_out(await ask(verifier, token))
    assert (await ask(verifier, token)).status_code == 200


@pytest.mark.parametrize("status", [401, 403])
async def test_a_gateways_401_or_403_is_an_outage_and_says_nothing_of_our_own_key(
    world: World, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    verifier, token = world.verifier(), world.token()
    world.emulator.fail("verifyM2MToken", kind="html", status=status, times=1)

    assert_not_found_out(await ask(verifier, token))
    assert "own key" not in caplog.text
    assert (await ask(verifier, token)).status_code == 200


# Our own key


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refusal_of_our_own_key_is_503_and_kept_nowhere(world: World, status: int) -> None:
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


async def test_a_refused_instance_key_is_not_taken_for_an_outage_of_the_graph(
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
async def test_a_rate_limit_is_503_with_its_retry_after_of_30_seconds_at_most(
    world: World, said: int | str | None, waited: int
) -> None:
    world.emulator.fail("verifyM2MToken", status=429, retry_after=said)

    assert_not_found_out(await ask(world.verifier(), world.token()), retry_after=waited)
    assert len(world.upstream.requests) == 1


async def test_clerk_is_left_alone_until_the_rate_limit_ends_while_known_callers_go_on(
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


async def test_a_shorter_wait_told_later_does_not_shorten_a_longer_one(world: World) -> None:
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


# No answer, or none that makes sense


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
async def test_no_answer_that_makes_sense_is_503_and_kept_nowhere(
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
async def test_an_answer_whose_parts_are_not_what_they_should_be_is_503_and_kept_nowhere(
    world: World, wrong: dict[str, Any]
) -> None:
    verifier = world.verifier()
    world.emulator.fail("verifyM2MToken", body=record(world, **wrong), times=1)
    world.emulator.fail("verifyM2MToken", body=record(world), times=1)

    assert_not_found_out(await ask(verifier, TOKEN))
    assert (await ask(verifier, TOKEN)).status_code == 200


@pytest.mark.parametrize("name", ["id", "subject", "revoked", "expired", "expiration"])
async def test_an_answer_without_a_part_that_decides_is_503(world: World, name: str) -> None:
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
async def test_a_network_that_fails_is_503_and_kept_nowhere(
    world: World, raised: Exception
) -> None:
    verifier, token = world.verifier(), world.token()

    async def fail(_request: httpx.Request) -> httpx.Response:
        raise raised

    world.upstream.intercept = fail
    assert_not_found_out(await ask(verifier, token))
    world.upstream.intercept = None
    assert (await ask(verifier, token)).status_code == 200


async def test_a_graph_that_cannot_be_read_lets_nobody_in(world: World) -> None:
    verifier, token = world.verifier(world.live_settings()), world.token()
    world.emulator.fail("GetMachine", status=500)

    assert_not_found_out(await ask(verifier, token))
    assert_not_found_out(await ask(verifier, token))
    assert world.emulator.calls["verifyM2MToken"] == 1


# Over real sockets


async def reset(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def close_early(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(http_answer(b"{}", headers={"content-length": "5000"}))
    writer.close()


async def endless_body(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(http_answer(headers={"content-length": "99999999"}))
    while True:
        writer.write(b"x" * 1000)
        await writer.drain()


async def endless_headers(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"x: " + b"x" * 1000 + b"\r\n")
        await writer.drain()


async def endless_hints(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 50)
        await writer.drain()


BOMB = gzip.compress(b"[" * 10_000_000)
BROKEN = {
    "reset": reset,
    "closed early": close_early,
    "endless body": endless_body,
    "endless headers": endless_headers,
    "endless hints": endless_hints,
    "TLS to a plain port": answering(b"\x15\x03\x01\x00\x02\x02\x16\r\n\r\n"),
    "status of five digits": answering(b"HTTP/1.1 99999 What\r\n\r\n"),
    "negative length": answering(http_answer(b"{}", headers={"content-length": "-1"})),
    "unfinished chunks": answering(http_answer(b"{}", headers={"transfer-encoding": "chunked"})),
    "too long": answering(http_answer(b"x" * 100_000)),
    "gzip bomb": answering(http_answer(BOMB, headers={"content-encoding": "gzip"})),
    "hidden gzip": answering(http_answer(BOMB, headers={"content-encoding": "identity, gzip"})),
}


@pytest.mark.parametrize("handle", BROKEN.values(), ids=BROKEN.keys())
async def test_an_upstream_that_breaks_http_is_503_and_its_connections_are_given_back(
    world: World, handle: Handler
) -> None:
    async with raw_upstream(handle) as upstream:
        # Of two slots one is kept for refreshes: the second call needs the first one's.
        verifier = over_sockets(world, upstream.origin, max_inflight=2)
        for number in range(2):
            assert_not_found_out(await ask(verifier, f"{TOKEN}{number}"))
        assert upstream.requests == 2
        await eventually(lambda: upstream.open == 0)


async def test_a_good_answer_that_is_compressed_is_not_unpacked(world: World) -> None:
    body = gzip.compress(json.dumps(record(world)).encode())
    answer = http_answer(body, headers={"content-encoding": "gzip"})
    async with raw_upstream(answering(answer)) as upstream:
        assert_not_found_out(await ask(over_sockets(world, upstream.origin), TOKEN))


async def test_a_redirect_is_not_followed_and_never_answered_with_the_key(world: World) -> None:
    async with raw_upstream(answering(http_answer(record(world)))) as thief:
        location = {"location": f"{thief.origin}/v1/m2m_tokens/verify"}
        redirect = http_answer(b"", status=307, headers=location)
        async with raw_upstream(answering(redirect)) as upstream:
            verifier = over_sockets(world, upstream.origin)
            assert_not_found_out(await ask(verifier, TOKEN))

        assert (upstream.requests, thief.connections) == (1, 0)


async def test_an_upstream_whose_certificate_nobody_vouches_for_learns_nothing(
    world: World, tmp_path: Path
) -> None:
    async with raw_upstream(
        answering(http_answer(record(world))), tls=self_signed(tmp_path)
    ) as upstream:
        verifier = over_sockets(world, upstream.origin, timeout=2.0)
        assert_not_found_out(await ask(verifier, TOKEN))

        assert upstream.requests == 0


def self_signed(directory: Path) -> ssl.SSLContext:
    from datetime import UTC, datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    key = serialization.load_pem_private_key(SIGNING_KEY.encode(), None)
    assert isinstance(key, RSAPrivateKey)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = directory / "server.pem"
    pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM) + SIGNING_KEY.encode())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context


# An upstream that takes its time, over real sockets: `timeout` is 0.3 s in these tests


async def hang(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await reader.read()


def dripping(content: bytes, *, at_once: int) -> Handler:
    """Send the first bytes at once and the others one by one, each well within a read timeout."""

    async def handle(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(content[:at_once])
        for byte in content[at_once:]:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0.1)

    return handle


SLOW_ANSWER = http_answer({"slow": "x" * 100})
SLOW = {
    "hang": hang,
    "drips its headers": dripping(SLOW_ANSWER, at_once=0),
    "drips its body": dripping(SLOW_ANSWER, at_once=SLOW_ANSWER.index(b"\r\n\r\n") + 4),
}


@pytest.mark.parametrize("handle", SLOW.values(), ids=SLOW.keys())
async def test_a_slow_upstream_is_503_in_time_and_its_connections_are_given_back(
    world: World, handle: Handler
) -> None:
    current: list[Handler] = [handle]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await current[0](reader, writer)

    async with raw_upstream(serve) as upstream:
        verifier = over_sockets(world, upstream.origin, max_inflight=2)
        for number in range(3):
            begun = time.monotonic()
            assert_not_found_out(await ask(verifier, f"{TOKEN}{number}"))
            assert 0.2 < time.monotonic() - begun < 1.0
        current[0] = answering(http_answer(record(world)))
        assert (await ask(verifier, TOKEN)).status_code == 200
        await eventually(lambda: upstream.open == 1)


async def test_a_slow_handshake_is_503_in_time(world: World) -> None:
    ended = asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        ended.set()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        verifier = over_sockets(world, f"https://127.0.0.1:{port}")
        begun = time.monotonic()
        assert_not_found_out(await ask(verifier, TOKEN))
        assert 0.2 < time.monotonic() - begun < 1.0
        async with asyncio.timeout(2.0):
            await ended.wait()


async def test_verdict_and_graph_share_one_deadline(world: World) -> None:
    async def each_takes_a_while(_request: httpx.Request) -> None:
        await asyncio.sleep(0.2)

    world.upstream.intercept = each_takes_a_while
    verifier = world.verifier(world.live_settings(timeout=0.3))
    begun = time.monotonic()

    assert_not_found_out(await ask(verifier, world.token()))
    assert time.monotonic() - begun < 1.0
