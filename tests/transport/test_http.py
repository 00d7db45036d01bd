"""The one HTTP client: retries, deadlines, slots, and requests dropped while a call is out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import httpx
import pytest
from dropping import drop_requests
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
from clerk_m2m.backend_api.parsing import Document
from clerk_m2m.clock import ServerClock
from clerk_m2m.errors import (
    BackendAPIError,
    BackendUnavailableError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    RateLimitedError,
)
from clerk_m2m.secret import Secret
from clerk_m2m.transport.breaker import Breakers
from clerk_m2m.transport.call import Call
from clerk_m2m.transport.http import HTTPClient
from harness import API_URL, FakeTime, World

QUESTION = Call(operation="verifyM2MToken", method="POST", url="/v1/x", body={}, repeatable=True)
CHANGE = Call(operation="createM2MToken", method="POST", url="/v1/x", body={})


Answering = Callable[[httpx.Request], httpx.Response]


@asynccontextmanager
async def http_client(answer: Answering, **given: Any) -> AsyncIterator[HTTPClient]:
    transport = httpx.MockTransport(answer)
    settings: dict[str, Any] = {"timeout": 1.0, "max_inflight": 5} | given
    client = HTTPClient(api_url=API_URL, transport=transport, **settings)
    try:
        yield client
    finally:
        await client.aclose()


class Script:
    """Answers with what it is given, in order; keeps the requests and when they came."""

    def __init__(self, *answers: int | Exception | httpx.Response) -> None:
        self._answers = list(answers)
        self.requests: list[httpx.Request] = []
        self.times: list[float] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        self.times.append(time.monotonic())
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, httpx.Response):
            return answer
        return httpx.Response(answer, json={"errors": []} if answer >= 400 else {})


# The server's clock

DATE = "Fri, 15 Jan 2027 08:00:00 GMT"  # Unix 1,800,000,000


class Clocks:
    """A host's clocks, and what the client learns of Clerk's from answers with these headers."""

    def __init__(self) -> None:
        self.time = FakeTime()
        self.time.wall = 1_700_000_000.0
        self.server_clock = ServerClock(self.time.clock)

    async def answer(self, date: str, *, status: int = 200, url: str = "/v1/x") -> None:
        """Let one call be answered with this `Date`."""
        answer = httpx.Response(status, json={}, headers={"Date": date})
        call = replace(QUESTION, url=url)
        async with http_client(lambda _: answer, server_clock=self.server_clock) as client:
            with suppress(BackendAPIError):
                await client.call(call, document_of)


async def test_clerks_clock_is_its_last_date_and_what_has_passed_since() -> None:
    clocks = Clocks()
    assert clocks.server_clock.latest() == 1_700_000_000.0

    await clocks.answer(DATE)
    clocks.time.monotonic += 30

    assert clocks.server_clock.latest() == 1_800_000_030.0
    clocks.time.wall = 1_900_000_000.0
    assert clocks.server_clock.latest() == 1_900_000_000.0


@pytest.mark.parametrize("date", ["", "yesterday", "1800000000", "Fri, 99 Jan 2027 08:00:00 GMT"])
async def test_a_date_that_is_none_is_passed_over(date: str) -> None:
    clocks = Clocks()

    await clocks.answer(date)

    assert clocks.server_clock.latest() == 1_700_000_000.0


async def test_only_a_good_answer_from_the_api_tells_clerks_time() -> None:
    clocks = Clocks()

    await clocks.answer(DATE, status=500)
    await clocks.answer(DATE, url="https://keys.test/jwks")

    assert clocks.server_clock.latest() == 1_700_000_000.0


# Retries


@pytest.mark.parametrize("first", [502, 503, 504, httpx.ConnectError(""), httpx.ConnectTimeout("")])
async def test_a_call_that_may_be_repeated_is_repeated_once_after_a_pause(
    first: int | Exception,
) -> None:
    script = Script(first, 200)
    async with http_client(script) as client:
        assert await client.call(QUESTION, document_of) == Document({})

    assert len(script.requests) == 2
    assert script.times[1] - script.times[0] < 0.5


@pytest.mark.parametrize("status", [502, 503, 504])
async def test_there_is_no_second_retry(status: int) -> None:
    script = Script(status, status, 200)
    async with http_client(script) as client:
        with pytest.raises(BackendUnavailableError) as refused:
            await client.call(QUESTION, document_of)

    assert (refused.value.status, len(script.requests)) == (status, 2)


@pytest.mark.parametrize(
    "first",
    [
        500,
        501,
        429,
        401,
        404,
        302,
        httpx.ReadError(""),
        httpx.ReadTimeout(""),
        httpx.WriteError(""),
    ],
    ids=repr,
)
async def test_nothing_else_is_repeated(first: int | Exception) -> None:
    script = Script(first, 200)
    async with http_client(script) as client:
        with pytest.raises(BackendAPIError):
            await client.call(QUESTION, document_of)

    assert len(script.requests) == 1


@pytest.mark.parametrize("status", [502, 503, 504])
async def test_what_changes_something_is_never_sent_twice(status: int) -> None:
    script = Script(status, 200)
    async with http_client(script) as client:
        with pytest.raises(BackendUnavailableError):
            await client.call(CHANGE, document_of)

    assert len(script.requests) == 1


async def test_what_changes_something_is_sent_again_where_it_was_never_sent() -> None:
    script = Script(httpx.ConnectError(""), 200)
    async with http_client(script) as client:
        assert await client.call(CHANGE, document_of) == Document({})


async def test_the_pause_before_a_retry_differs_from_call_to_call() -> None:
    pauses = set()
    for _ in range(5):
        script = Script(503, 200)
        async with http_client(script) as client:
            await client.call(QUESTION, document_of)
        pauses.add(round(script.times[1] - script.times[0], 4))

    assert len(pauses) > 1
    assert max(pauses) < 0.5


async def test_a_retry_happens_within_the_deadline_or_not_at_all() -> None:
    async def slowly(_request: httpx.Request) -> httpx.Response:
        requests.append(_request)
        await asyncio.sleep(0.15)
        return httpx.Response(503)

    requests: list[httpx.Request] = []
    begun = time.monotonic()
    client = HTTPClient(
        api_url=API_URL, timeout=0.2, max_inflight=5, transport=httpx.MockTransport(slowly)
    )
    with pytest.raises(BackendUnavailableError):
        await client.call(QUESTION, document_of)
    await client.aclose()

    assert time.monotonic() - begun < 1.0
    assert len(requests) <= 2


async def test_a_client_that_may_wait_waits_for_the_rate_limit_to_end() -> None:
    script = Script(httpx.Response(429, headers={"Retry-After": "0"}), 200)
    async with http_client(script) as client:
        assert await client.call(QUESTION, document_of) == Document({})

    assert len(script.requests) == 2


async def test_a_client_does_not_wait_for_a_rate_limit_that_outlasts_its_deadline() -> None:
    script = Script(httpx.Response(429, headers={"Retry-After": "5"}))
    async with http_client(script) as client:
        with pytest.raises(RateLimitedError) as refused:
            await client.call(QUESTION, document_of)

    assert refused.value.retry_after == 5


# Answers


async def test_a_status_of_clerks_becomes_its_error_with_what_clerk_said() -> None:
    said = {
        "errors": [{"code": "c", "message": "m", "meta": {"param_name": "token"}}],
        "clerk_trace_id": "trace",
    }
    script = Script(httpx.Response(404, json=said), httpx.Response(400, json=said))
    async with http_client(script) as client:
        with pytest.raises(NotFoundError) as refused:
            await client.call(QUESTION, document_of)
        with pytest.raises(InvalidRequestError):
            await client.call(QUESTION, document_of)

    assert refused.value.clerk_trace_id == "trace"
    assert (refused.value.errors[0].code, refused.value.errors[0].field) == ("c", "token")


async def test_an_error_that_repeats_what_was_sent_is_withheld() -> None:
    secret, token = "ak_secret_of_ours", "mt_presented_token"
    echo = {"errors": [{"code": token, "message": f"{secret} is wrong"}]}
    call = Call(
        operation="o", method="POST", url="/v1/x", key=Secret(secret), body={"token": token}
    )
    async with http_client(Script(httpx.Response(404, json=echo))) as client:
        with pytest.raises(NotFoundError) as refused:
            await client.call(call, document_of)

    for text in (str(refused.value), repr(refused.value.errors), repr(call)):
        assert secret not in text
    assert token not in str(refused.value) + repr(refused.value.errors)


async def test_every_call_names_its_version_and_asks_for_no_compression() -> None:
    script = Script(200)
    async with http_client(script) as client:
        await client.call(QUESTION, document_of)

    headers = script.requests[0].headers
    assert headers["clerk-api-version"] == "2026-05-12"
    assert headers["accept-encoding"] == "identity"
    assert "authorization" not in headers


# Slots


class Gate:
    """Holds every call until it is opened, and counts how many are out at once."""

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


async def test_at_most_so_many_calls_are_out_at_once() -> None:
    gate = Gate()
    client = gated(gate)
    calls = [asyncio.create_task(client.call(QUESTION, document_of)) for _ in range(100)]
    await eventually(lambda: gate.out == 20)
    gate.opened.set()
    await asyncio.gather(*calls)

    assert gate.most == 20
    await client.aclose()


async def test_a_call_that_found_no_slot_in_time_is_never_sent() -> None:
    gate, known = Gate(), asyncio.all_tasks()
    client = gated(gate, timeout=0.1, max_inflight=2)
    answers = await asyncio.gather(
        *(client.call(QUESTION, document_of) for _ in range(10)), return_exceptions=True
    )
    assert all(isinstance(answer, BackendUnavailableError) for answer in answers)
    gate.opened.set()
    await quiet(known)

    assert gate.calls == 2
    assert await client.call(QUESTION, document_of) == Document({})
    await client.aclose()


async def test_a_call_that_may_not_go_out_does_not_queue_for_a_slot_to_be_told_so() -> None:
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


async def test_an_injected_transport_that_never_ends_is_cut_off_and_its_slot_is_free() -> None:
    gate, known = Gate(), asyncio.all_tasks()
    client = gated(gate, timeout=0.1, max_inflight=2)
    for _ in range(3):
        with pytest.raises(BackendUnavailableError):
            await client.call(QUESTION, document_of)
        await quiet(known, within=1.0)
        assert gate.out == 0
    await client.aclose()


async def test_closing_waits_for_what_is_out() -> None:
    gate = Gate()
    client = gated(gate, timeout=10.0)
    call = asyncio.create_task(client.call(QUESTION, document_of))
    await eventually(lambda: gate.out == 1)
    closing = asyncio.create_task(client.aclose())
    await asyncio.sleep(0)
    gate.opened.set()
    await closing

    assert await call == Document({})


async def test_closing_ends_what_outlives_its_time_and_whoever_waits_is_told() -> None:
    gate, known = Gate(), asyncio.all_tasks()
    client = gated(gate, timeout=0.1)
    call = asyncio.create_task(client.call(QUESTION, document_of))
    await eventually(lambda: gate.out == 1)
    await client.aclose()

    with pytest.raises(BackendUnavailableError) as failed:
        await call
    assert failed.value.code == "backend_unavailable"
    await quiet(known)
    gate.opened.set()
    assert await client.call(QUESTION, document_of) == Document({})  # it opens again by itself
    await client.aclose()


async def test_closing_refuses_what_waits_for_its_turn() -> None:
    gate = Gate()
    client = gated(gate, timeout=0.1, max_inflight=1)
    calls = [asyncio.create_task(client.call(QUESTION, document_of)) for _ in range(2)]
    await eventually(lambda: gate.out == 1)
    closing = asyncio.create_task(client.aclose())

    with pytest.raises(OverloadedError) as refused:
        await calls[1]
    assert refused.value.code == "overloaded"
    gate.opened.set()
    await closing
    assert await calls[0] == Document({})
    assert gate.calls == 1


# Connections


async def test_connections_are_used_again() -> None:
    async with raw_upstream(answering(http_answer({}))) as upstream:
        client = HTTPClient(api_url=upstream.origin, timeout=1.0, max_inflight=5)
        for _ in range(10):
            await client.call(QUESTION, document_of)
        await client.aclose()

        assert (upstream.requests, upstream.connections) == (10, 1)


async def test_a_connection_that_the_upstream_has_closed_is_not_used_again() -> None:
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


async def test_an_upstream_that_is_not_there_is_tried_twice_and_told_as_unavailable(
    world: World,
) -> None:
    async with raw_upstream(answering(b"")) as upstream:
        gone = upstream.origin
    verifier = over_sockets(world, gone)

    with pytest.raises(VerificationUnavailableError):
        await verifier.verify(world.token())


# Requests that are dropped while a call is out (encode/httpcore#1093)


async def test_requests_dropped_in_flight_cost_no_connection(world: World) -> None:
    await drop_requests(world, rounds=400)


@pytest.mark.parametrize("cancellations", [1, 2])
async def test_a_dropped_call_of_a_client_goes_on_to_its_end(
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
