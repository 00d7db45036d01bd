"""Calls that fail: the exceptions, their texts, and the retries."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import httpx
import pytest
from api_clients import UNKNOWN_KEY, UNKNOWN_MACHINE, answering, failing

from clerk_m2m import (
    BackendAPIError,
    BackendUnavailableError,
    ClerkClient,
    ConflictError,
    InvalidRequestError,
    KeyRefusedError,
    NotFoundError,
    RateLimitedError,
)

# Errors


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        (400, InvalidRequestError, "invalid_request"),
        (401, KeyRefusedError, "key_refused"),
        (403, KeyRefusedError, "key_refused"),
        (404, NotFoundError, "not_found"),
        (409, ConflictError, "conflict"),
        (422, InvalidRequestError, "invalid_request"),
        (429, RateLimitedError, "rate_limited"),
        (402, BackendUnavailableError, "backend_unavailable"),
        (418, BackendUnavailableError, "backend_unavailable"),
        (500, BackendUnavailableError, "backend_unavailable"),
    ],
)
async def test_each_error_status_raises_its_exception(
    status: int, kind: type[BackendAPIError], code: str
) -> None:
    clerk, _ = answering(failing(status))
    with pytest.raises(BackendAPIError) as failed:
        await clerk.with_options(retries=0).m2m_tokens.create()

    error = failed.value
    assert type(error) is kind
    assert (error.code, error.status, error.clerk_trace_id) == (code, status, "trace_1")
    assert [each.code for each in error.errors] == ["odd"]
    assert str(error) == f"createM2MToken: Clerk answered {status} (clerk_trace_id trace_1). no"


async def test_an_invalid_request_error_names_the_fields(clerk: ClerkClient) -> None:
    with pytest.raises(InvalidRequestError) as failed:
        await clerk.machines.create("")

    assert failed.value.status == 422
    assert [each.field for each in failed.value.errors] == ["name"]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 422])
async def test_an_error_without_clerks_error_body_is_an_outage(status: int) -> None:
    clerk, asked = answering(httpx.Response(status, text="<html>gateway</html>"))
    with pytest.raises(BackendUnavailableError, match="gateway or proxy sent it") as failed:
        await clerk.m2m_tokens.create()

    assert (failed.value.code, failed.value.status) == ("backend_unavailable", status)
    assert f"status {status} but not Clerk's error format" in str(failed.value)
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("headers", "seconds"), [({}, None), ({"Retry-After": "7"}, 7.0), ({"Retry-After": "0"}, 0.0)]
)
async def test_a_503_has_a_retry_after_only_if_the_answer_has_one(
    headers: dict[str, str], seconds: float | None
) -> None:
    clerk, _ = answering(failing(503, headers=headers))
    with pytest.raises(BackendUnavailableError) as failed:
        await clerk.m2m_tokens.create()

    assert (failed.value.code, failed.value.retry_after) == ("backend_unavailable", seconds)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(httpx.Response(302, headers={"Location": "http://evil.test/"}), id="moved"),
        pytest.param(httpx.Response(301, headers={"Location": "http://["}), id="moved nowhere"),
        pytest.param(httpx.Response(304), id="not modified"),
        pytest.param(httpx.Response(200, text=""), id="empty"),
        pytest.param(httpx.Response(204), id="no content"),
        pytest.param(httpx.Response(200, text="<html>"), id="not JSON"),
        pytest.param(httpx.Response(200, content=b'"\xff"'), id="not UTF-8"),
        pytest.param(httpx.Response(200, text="null"), id="null"),
        pytest.param(httpx.Response(200, text="[" * 50_000), id="endless nesting"),
        pytest.param(httpx.Response(200, text="9" * 5000), id="endless number"),
        pytest.param(httpx.Response(200, json=[]), id="an array"),
        pytest.param(httpx.Response(200, json={}), id="an object of another shape"),
    ],
)
async def test_an_unreadable_answer_is_an_outage(answer: httpx.Response) -> None:
    clerk, asked = answering(answer)
    with pytest.raises(BackendUnavailableError) as failed:
        await clerk.m2m_tokens.create()

    assert failed.value.code == "backend_unavailable"
    assert len(asked) == 1


async def test_a_compressed_answer_is_rejected_unread() -> None:
    answer = httpx.Response(200, headers={"Content-Encoding": "gzip"}, content=b"")
    clerk, _ = answering(answer)
    with pytest.raises(BackendUnavailableError, match="compressed") as failed:
        await clerk.m2m_tokens.create()

    assert failed.value.code == "backend_unavailable"


async def test_the_error_names_the_address_that_does_not_answer() -> None:
    clerk, _ = answering(*[httpx.ConnectError("")] * 9)
    with pytest.raises(BackendUnavailableError) as failed:
        await clerk.machines.list()

    assert str(failed.value) == (
        "ListMachines: Clerk did not answer at https://clerk.test (ConnectError)."
    )


@pytest.mark.parametrize("size", [64 * 1024, 64 * 1024 + 1])
async def test_answers_are_limited_to_64_kib_plus_64_kib_per_list_item(size: int) -> None:
    body = b"[" + b" " * (size - 2) + b"]"
    clerk, _ = answering(httpx.Response(200, content=body), httpx.Response(200, content=body))
    with pytest.raises(BackendUnavailableError) as one:
        await clerk.m2m_tokens.create()
    with pytest.raises(BackendUnavailableError) as several:
        await clerk.machines.list()

    too_large = size > 64 * 1024
    assert one.value.code == ("answer_too_large" if too_large else "backend_unavailable")
    assert several.value.code == "backend_unavailable"


async def test_no_error_text_repeats_a_secret_that_the_upstream_echoes() -> None:
    token = "mt_" + "hidden" * 7
    errors = [
        {"code": token, "message": "in the code"},
        {"code": "a", "message": f"unknown {token}"},
        {"code": "b", "message": "is wrong", "meta": {"param_name": f"x{token}"}},
        {"code": "c", "message": "for Bearer ak_hidden"},
        {"code": "d", "message": "harmless"},
    ]
    clerk, _ = answering(httpx.Response(400, json={"errors": errors}))
    with pytest.raises(InvalidRequestError) as failed:
        await clerk.m2m_tokens.verify(token)

    assert "hidden" not in f"{failed.value} {failed.value!r} {failed.value.errors}"
    assert [each.code for each in failed.value.errors] == [*["withheld"] * 4, "d"]


# Retries


@pytest.mark.parametrize("status", [502, 503, 504])
async def test_a_read_is_retried_after_502_503_and_504(status: int) -> None:
    clerk, asked = answering(failing(status), httpx.Response(200, json={"keys": []}))

    assert await clerk.jwks.get() == {"keys": []}
    assert len(asked) == 2


async def test_a_verification_is_retried_at_most_twice() -> None:
    clerk, asked = answering(failing(503), failing(502), failing(503))
    with pytest.raises(BackendUnavailableError) as failed:
        await clerk.m2m_tokens.verify("mt_1")

    assert failed.value.status == 503
    assert len(asked) == 3


@pytest.mark.parametrize("answer", [failing(500), httpx.ReadTimeout("")])
async def test_a_read_is_not_retried_after_an_error_that_a_retry_would_not_cure(
    answer: httpx.Response | Exception,
) -> None:
    clerk, asked = answering(answer)
    with pytest.raises(BackendUnavailableError) as failed:
        await clerk.jwks.get()

    assert failed.value.code == "backend_unavailable"
    assert len(asked) == 1


Change = Callable[[ClerkClient], Awaitable[object]]


@pytest.mark.parametrize(
    "change",
    [
        lambda clerk: clerk.m2m_tokens.create(),
        lambda clerk: clerk.machines.create("orders"),
        lambda clerk: clerk.machines.delete(UNKNOWN_MACHINE),
        lambda clerk: clerk.machines.rotate_secret_key(UNKNOWN_MACHINE, previous_token_ttl=0),
        lambda clerk: clerk.api_keys.update(UNKNOWN_KEY, scopes=[]),
    ],
)
@pytest.mark.parametrize("answer", [failing(503), httpx.ReadTimeout(""), httpx.ReadError("")])
async def test_a_write_is_not_retried_after_it_was_sent(
    change: Change, answer: httpx.Response | Exception
) -> None:
    clerk, asked = answering(answer)
    with pytest.raises(BackendAPIError):
        await change(clerk)

    assert len(asked) == 1


@pytest.mark.parametrize("error", [httpx.ConnectError(""), httpx.ConnectTimeout("")])
async def test_a_write_is_retried_if_nothing_was_sent(error: Exception) -> None:
    clerk, asked = answering(error, failing(404))
    with pytest.raises(NotFoundError):
        await clerk.machines.delete(UNKNOWN_MACHINE)

    assert len(asked) == 2


@pytest.mark.parametrize("retry_after", ["0", "Wed, 21 Oct 2015 07:28:00 GMT"])
async def test_a_client_waits_for_retry_after_within_its_deadline(
    retry_after: str,
) -> None:
    limited = failing(429, headers={"Retry-After": retry_after})
    clerk, asked = answering(
        limited, httpx.Response(200, json={"keys": []}), limited, limited, failing(404)
    )

    assert await clerk.jwks.get() == {"keys": []}
    with pytest.raises(NotFoundError):
        await clerk.machines.delete(UNKNOWN_MACHINE)
    assert len(asked) == 5


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "6"}, 6.0),
        ({"Retry-After": "999999999"}, 999_999_999.0),
        ({"Retry-After": "-1"}, 1.0),
        ({"Retry-After": "soon"}, 1.0),
        ({"Retry-After": "1" * 5000}, 1.0),
        ({"Retry-After": "Mon, 1 Jan 2024 00:00:00 +" + "9" * 20}, 1.0),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00"}, 0.0),
        ({}, 1.0),
    ],
)
async def test_retry_after_of_a_429_is_read_in_all_forms(
    headers: dict[str, str], seconds: float
) -> None:
    clerk, _ = answering(failing(429, headers=headers))
    with pytest.raises(RateLimitedError) as failed:
        await clerk.with_options(retries=0).m2m_tokens.create()

    assert failed.value.retry_after == seconds


async def test_a_retry_after_beyond_the_deadline_raises_at_once() -> None:
    clerk, asked = answering(failing(429, headers={"Retry-After": "6"}))
    with pytest.raises(RateLimitedError) as failed:
        await clerk.jwks.get()

    assert failed.value.retry_after == 6.0
    assert len(asked) == 1
