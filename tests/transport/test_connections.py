"""Slots and connections: how many calls are in progress, and cancelled requests."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx
import pytest
from dropping import drop_requests
from http_clients import QUESTION
from upstreams import (
    Handler,
    answering,
    eventually,
    http_answer,
    over_sockets,
    quiet,
    raw_upstream,
    record,
)

from clerk_m2m import ClerkClient, VerificationUnavailableError
from clerk_m2m.backend_api.calls import document_of
from clerk_m2m.backend_api.document import Document
from clerk_m2m.errors import BackendUnavailableError, RateLimitedError
from clerk_m2m.transport.breaker import Breakers
from clerk_m2m.transport.call import Budget
from clerk_m2m.transport.http import HTTPClient
from harness import API_URL, World

# Slots


class Gate:
    """Holds every call until it is opened, and counts the calls in progress."""

    def __init__(self) -> None:
        self.calls = self.out = self.most = 0
        self.opened = asyncio.Event()

    async def __call__(self, _request: httpx.Request) -> httpx.Response:
        self.calls += 1
        self.out += 1
        self.most = max(self.most, self.out)
        try:
            await self.opened.wait()
        finally:
            self.out -= 1
        return httpx.Response(200, json={})


def gated(gate: Gate, **given: Any) -> HTTPClient:
    transport = httpx.MockTransport(gate)
    settings: dict[str, Any] = {"timeout": 1.0, "max_inflight": 20} | given
    return HTTPClient(api_url=API_URL, transport=transport, **settings)


async def test_at_most_max_inflight_calls_are_in_progress() -> None:
    gate = Gate()
    client = gated(gate)
    calls = [asyncio.create_task(client.call(QUESTION, document_of)) for _ in range(100)]
    await eventually(lambda: gate.out == 20)
    gate.opened.set()
    await asyncio.gather(*calls)

    assert gate.most == 20
    await client.aclose()


async def test_a_call_without_a_slot_before_its_timeout_is_never_sent() -> None:
    gate, known = Gate(), asyncio.all_tasks()
    client = gated(gate, timeout=0.1, max_inflight=2)
    answers = await asyncio.gather(
        *(client.call(QUESTION, document_of) for _ in range(10)), return_exceptions=True
    )
    assert all(isinstance(answer, BackendUnavailableError) for answer in answers)
    assert [str(answer) for answer in answers[2:]] == [
        "verifyM2MToken: not sent, because 2 other calls (max_inflight) were in progress during "
        "the whole timeout of 0.1 s."
    ] * 8
    gate.opened.set()
    await quiet(known)

    assert gate.calls == 2
    assert await client.call(QUESTION, document_of) == Document({})
    await client.aclose()


async def test_an_open_breaker_refuses_a_call_before_it_queues() -> None:
    gate, breakers = Gate(), Breakers(time.monotonic)
    client = gated(gate, timeout=5.0, max_inflight=1, breakers=breakers)
    held = asyncio.create_task(client.call(QUESTION, document_of))
    await eventually(lambda: gate.out == 1)
    breakers.others.back_off(RateLimitedError("429", retry_after=5.0))

    async with asyncio.timeout(1.0):
        with pytest.raises(RateLimitedError):
            await client.call(QUESTION, document_of)
    gate.opened.set()
    assert await held == Document({})
    await client.aclose()


async def test_a_user_transport_that_hangs_is_cancelled_and_its_slot_freed() -> None:
    gate, known = Gate(), asyncio.all_tasks()
    client = gated(gate, timeout=0.1, max_inflight=2)
    for _ in range(3):
        with pytest.raises(BackendUnavailableError):
            await client.call(QUESTION, document_of)
        await quiet(known, within=1.0)
        assert gate.out == 0
    await client.aclose()


async def test_a_call_that_is_cancelled_in_the_step_that_gives_it_a_slot_is_not_sent() -> None:
    gate = Gate()
    calls: list[asyncio.Task[Document]] = []

    def cancel_next(*_: object) -> None:
        calls[1].cancel()  # in this step, the first call's slot goes to the second

    client = gated(gate, max_inflight=1, on_ended=cancel_next)
    calls += [asyncio.create_task(client.call(QUESTION, document_of)) for _ in range(2)]
    await eventually(lambda: client.measure().waiting["recent"] == 1)
    gate.opened.set()
    await calls[0]
    with pytest.raises(asyncio.CancelledError):
        await calls[1]
    await eventually(lambda: client.measure().out == 0)

    assert gate.calls == 1
    await client.aclose()


async def test_closing_waits_for_calls_in_progress() -> None:
    gate = Gate()
    client = gated(gate, timeout=10.0)
    call = asyncio.create_task(client.call(QUESTION, document_of))
    await eventually(lambda: gate.out == 1)
    closing = asyncio.create_task(client.aclose())
    await asyncio.sleep(0)
    gate.opened.set()
    await closing

    assert await call == Document({})


async def test_closing_cancels_calls_after_their_timeout_and_their_waiters_get_an_error() -> None:
    gate, known = Gate(), asyncio.all_tasks()
    client = gated(gate, timeout=0.1)
    call = asyncio.create_task(client.call(QUESTION, document_of))
    await eventually(lambda: gate.out == 1)
    await client.aclose()

    with pytest.raises(BackendUnavailableError, match=r"within the timeout of 0\.1 s"):
        await call
    await quiet(known)
    gate.opened.set()
    assert await client.call(QUESTION, document_of) == Document({})  # it opens again by itself
    await client.aclose()


async def test_a_call_with_a_longer_timeout_than_its_client_fails_when_the_client_is_closed() -> (
    None
):
    gate = Gate()
    client = gated(gate, timeout=0.01)
    budget = Budget.from_now(30.0)
    call = asyncio.create_task(client.call(QUESTION, document_of, budget=budget))
    await eventually(lambda: gate.out == 1)
    await client.aclose()

    with pytest.raises(BackendUnavailableError, match="the client was closed before the answer"):
        await call


async def test_a_call_that_has_not_begun_when_the_client_is_closed_is_not_sent() -> None:
    gate = Gate()
    client = gated(gate)
    gate.opened.set()
    await client.call(QUESTION, document_of)
    call = asyncio.create_task(client.call(QUESTION, document_of))
    await asyncio.sleep(0)  # its own task exists and has not run
    await client.aclose()

    with pytest.raises(BackendUnavailableError, match="not sent, because the client was closed"):
        await call
    assert gate.calls == 1


async def test_closing_refuses_calls_that_wait_for_a_slot() -> None:
    gate = Gate()
    client = gated(gate, timeout=1.0, max_inflight=1)
    calls = [asyncio.create_task(client.call(QUESTION, document_of)) for _ in range(2)]
    await eventually(lambda: gate.out == 1)
    closing = asyncio.create_task(client.aclose())

    with pytest.raises(BackendUnavailableError, match="not sent, because the client was closed"):
        await calls[1]
    gate.opened.set()
    await closing
    assert await calls[0] == Document({})
    assert gate.calls == 1


# Connections


async def test_connections_are_reused() -> None:
    async with raw_upstream(answering(http_answer({}))) as upstream:
        client = HTTPClient(api_url=upstream.origin, timeout=1.0, max_inflight=5)
        for _ in range(10):
            await client.call(QUESTION, document_of)
        await client.aclose()

        assert (upstream.requests, upstream.connections) == (10, 1)


async def test_a_connection_closed_by_the_upstream_is_not_reused() -> None:
    async def once(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(http_answer({}))
        await writer.drain()
        writer.close()

    async with raw_upstream(once) as upstream:
        client = HTTPClient(api_url=upstream.origin, timeout=1.0, max_inflight=5)
        for _ in range(3):
            assert await client.call(QUESTION, document_of) == Document({})
            await eventually(lambda: upstream.open == 0)
        await client.aclose()

        assert upstream.connections == 3


async def test_an_unreachable_upstream_is_tried_twice_and_then_unavailable(
    world: World,
) -> None:
    async with raw_upstream(answering(b"")) as upstream:
        gone = upstream.origin
    verifier = over_sockets(world, gone)

    with pytest.raises(VerificationUnavailableError):
        await verifier.verify(world.token())


# Requests that are cancelled while a call is in progress (encode/httpcore#1093)


async def test_cancelled_requests_leak_no_connection(world: World) -> None:
    await drop_requests(world, rounds=40)


@pytest.mark.parametrize("cancellations", [1, 2])
async def test_cancelling_a_client_call_does_not_cancel_the_http_call(
    world: World, cancellations: int
) -> None:
    answered = asyncio.Event()

    async def late(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.02)
        writer.write(http_answer(record(world)))
        await writer.drain()
        answered.set()

    handler: Handler = late
    async with raw_upstream(handler) as upstream:
        known = asyncio.all_tasks()
        client = ClerkClient(
            machine_secret_key=world.callee.secret_key, api_url=upstream.origin, max_inflight=2
        )
        for _ in range(5):
            answered.clear()
            call = asyncio.create_task(client.m2m_tokens.verify("mt_" + "x" * 40))
            await asyncio.sleep(0)
            for _ in range(cancellations):
                call.cancel()
                await asyncio.sleep(0)
            async with asyncio.timeout(1.0):
                await answered.wait()
            assert call.cancelled()
        await client.m2m_tokens.verify("mt_" + "x" * 40)
        assert upstream.connections <= 2
        await client.aclose()
    await quiet(known)
