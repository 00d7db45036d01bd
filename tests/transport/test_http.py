"""The one HTTP client: retries and deadlines, what is sent, and Clerk's clock."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import replace

import httpx
import pytest
from http_clients import CHANGE, QUESTION, Script, http_client

from clerk_m2m.backend_api.calls import document_of
from clerk_m2m.backend_api.document import Document
from clerk_m2m.clock import ServerClock
from clerk_m2m.errors import (
    BackendAPIError,
    BackendUnavailableError,
    InvalidRequestError,
    NotFoundError,
    RateLimitedError,
)
from clerk_m2m.secret import Secret
from clerk_m2m.transport.attempts import backoff
from clerk_m2m.transport.call import Call
from clerk_m2m.transport.http import HTTPClient
from harness import API_URL, FakeTime

# The server's clock


DATE = "Fri, 15 Jan 2027 08:00:00 GMT"  # Unix 1,800,000,000


class Clocks:
    """A host's clocks, and Clerk's clock as the client reads it from answers with these headers."""

    def __init__(self) -> None:
        self.time = FakeTime()
        self.time.wall = 1_700_000_000.0
        self.server_clock = ServerClock(self.time.clock)

    async def answer(self, date: str, *, status: int = 200, url: str = "/v1/x") -> None:
        """Send one call and answer it with this `Date`."""
        answer = httpx.Response(status, json={}, headers={"Date": date})
        call = replace(QUESTION, url=url)
        async with http_client(lambda _: answer, server_clock=self.server_clock) as client:
            with suppress(BackendAPIError):
                await client.call(call, document_of)


async def test_clerks_time_is_its_last_date_plus_the_time_since_then() -> None:
    clocks = Clocks()
    assert clocks.server_clock.latest() == 1_700_000_000.0

    await clocks.answer(DATE)
    clocks.time.monotonic += 30

    assert clocks.server_clock.latest() == 1_800_000_030.0
    clocks.time.wall = 1_900_000_000.0
    assert clocks.server_clock.latest() == 1_900_000_000.0


@pytest.mark.parametrize("date", ["", "yesterday", "1800000000", "Fri, 99 Jan 2027 08:00:00 GMT"])
async def test_an_invalid_date_is_ignored(date: str) -> None:
    clocks = Clocks()

    await clocks.answer(date)

    assert clocks.server_clock.latest() == 1_700_000_000.0


async def test_only_good_answers_from_api_url_set_clerks_time() -> None:
    clocks = Clocks()

    await clocks.answer(DATE, status=500)
    await clocks.answer(DATE, url="https://keys.test/jwks")

    assert clocks.server_clock.latest() == 1_700_000_000.0


# Retries


@pytest.mark.parametrize(
    "first",
    [
        502,
        503,
        504,
        httpx.ConnectError(""),
        httpx.ConnectTimeout(""),
        httpx.ReadError(""),
        httpx.WriteError(""),
        httpx.RemoteProtocolError(""),
    ],
    ids=repr,
)
async def test_a_repeatable_call_is_retried_once_after_a_pause(
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
        httpx.ReadTimeout(""),
    ],
    ids=repr,
)
async def test_other_errors_are_not_retried(first: int | Exception) -> None:
    script = Script(first, 200)
    async with http_client(script) as client:
        with pytest.raises(BackendAPIError):
            await client.call(QUESTION, document_of)

    assert len(script.requests) == 1


@pytest.mark.parametrize(
    "first", [502, 503, 504, httpx.ReadError(""), httpx.RemoteProtocolError("")], ids=repr
)
async def test_a_write_is_not_retried_after_it_was_sent(first: int | Exception) -> None:
    script = Script(first, 200)
    async with http_client(script) as client:
        with pytest.raises(BackendUnavailableError):
            await client.call(CHANGE, document_of)

    assert len(script.requests) == 1


@pytest.mark.parametrize(
    "first",
    [
        httpx.ConnectError(""),
        httpx.ProxyError("502 Bad Gateway"),
        httpx.Response(429, headers={"Retry-After": "0"}),
    ],
    ids=repr,
)
async def test_a_write_is_retried_if_it_was_not_carried_out(
    first: Exception | httpx.Response,
) -> None:
    script = Script(first, 200)
    async with http_client(script) as client:
        assert await client.call(CHANGE, document_of) == Document({})


async def test_the_pause_before_a_retry_is_random() -> None:
    pauses = set()
    for _ in range(5):
        script = Script(503, 200)
        async with http_client(script) as client:
            await client.call(QUESTION, document_of)
        pauses.add(round(script.times[1] - script.times[0], 4))

    assert len(pauses) > 1
    assert max(pauses) < 0.5


def test_pauses_double_with_each_retry_up_to_five_seconds() -> None:
    longest = [max(backoff(retry) for _ in range(300)) for retry in (0, 1, 2, 3, 10, 5000)]

    assert longest == pytest.approx([0.1, 0.2, 0.4, 0.8, 5.0, 5.0], rel=0.1)


async def test_there_is_no_retry_after_the_deadline() -> None:
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


async def test_a_client_without_breakers_waits_for_the_retry_after_of_a_429() -> None:
    script = Script(httpx.Response(429, headers={"Retry-After": "0"}), 200)
    async with http_client(script) as client:
        assert await client.call(QUESTION, document_of) == Document({})

    assert len(script.requests) == 2


async def test_a_client_does_not_wait_for_a_retry_after_beyond_its_deadline() -> None:
    script = Script(httpx.Response(429, headers={"Retry-After": "5"}))
    async with http_client(script) as client:
        with pytest.raises(RateLimitedError) as refused:
            await client.call(QUESTION, document_of)

    assert refused.value.retry_after == 5


# Answers


async def test_an_error_status_raises_its_exception_with_clerks_message() -> None:
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


async def test_an_error_message_that_repeats_a_secret_is_withheld() -> None:
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


async def test_every_call_sends_the_api_version_and_accepts_no_compression() -> None:
    script = Script(200)
    async with http_client(script) as client:
        await client.call(QUESTION, document_of)

    headers = script.requests[0].headers
    assert headers["clerk-api-version"] == "2026-05-12"
    assert headers["accept-encoding"] == "identity"
    assert "authorization" not in headers
