"""Upstreams that break HTTP or are slow, over real sockets: 503 within the timeout."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
from pathlib import Path

import httpx
import pytest
from answers import TOKEN, ask, assert_not_found_out
from certificates import certificates
from upstreams import (
    Handler,
    answering,
    eventually,
    http_answer,
    over_sockets,
    raw_upstream,
    record,
)

from harness import World

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
BROKEN: dict[str, Handler] = {
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


# These end the connection or break the protocol at once: the first call is retried.
REPEATED = {
    "reset",
    "closed early",
    "endless headers",
    "TLS to a plain port",
    "status of five digits",
    "negative length",
}


@pytest.mark.parametrize("broken", BROKEN)
async def test_an_upstream_that_breaks_http_is_503_and_its_connections_are_closed(
    world: World, broken: str
) -> None:
    async with raw_upstream(BROKEN[broken]) as upstream:
        # One of the two slots is reserved for refreshes: the second call needs the first one's.
        # A call that fails at once needs time for its retry, on a busy machine too.
        given = {"timeout": 2.0} if broken in REPEATED else {}
        verifier = over_sockets(world, upstream.origin, max_inflight=2, **given)
        for number in range(2):
            assert_not_found_out(await ask(verifier, f"{TOKEN}{number}"))
        assert upstream.requests == (3 if broken in REPEATED else 2)
        await eventually(lambda: upstream.open == 0)


async def test_a_compressed_answer_is_503_and_not_decompressed(world: World) -> None:
    body = gzip.compress(json.dumps(record(world)).encode())
    answer = http_answer(body, headers={"content-encoding": "gzip"})
    async with raw_upstream(answering(answer)) as upstream:
        assert_not_found_out(await ask(over_sockets(world, upstream.origin), TOKEN))


async def test_a_redirect_is_not_followed_so_its_target_never_gets_the_key(world: World) -> None:
    async with raw_upstream(answering(http_answer(record(world)))) as thief:
        location = {"location": f"{thief.origin}/v1/m2m_tokens/verify"}
        redirect = http_answer(b"", status=307, headers=location)
        async with raw_upstream(answering(redirect)) as upstream:
            verifier = over_sockets(world, upstream.origin, timeout=2.0)
            assert_not_found_out(await ask(verifier, TOKEN))

        assert (upstream.requests, thief.connections) == (1, 0)


async def test_an_upstream_with_an_untrusted_certificate_receives_no_request(
    world: World, tmp_path: Path
) -> None:
    tls = certificates(tmp_path, host="localhost").server_context()
    async with raw_upstream(answering(http_answer(record(world))), tls=tls) as upstream:
        verifier = over_sockets(world, upstream.origin, timeout=2.0)
        assert_not_found_out(await ask(verifier, TOKEN))

        assert upstream.requests == 0


# Slow upstreams, over real sockets: `timeout` is 0.3 s in these tests


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
async def test_a_slow_upstream_is_503_within_the_timeout_and_its_connections_are_closed(
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


async def test_a_slow_handshake_is_503_within_the_timeout(world: World) -> None:
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
