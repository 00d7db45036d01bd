"""Checks of what a client sees of a refusal."""

from __future__ import annotations

import math
from typing import Any

import httpx
from starlette.types import ASGIApp

from clerk_m2m import Verifier
from harness import bearer, protected


async def get(app: ASGIApp, token: str | None, path: str = "/") -> httpx.Response:
    """Call an app as a server does, which does not stop when the app raises."""
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://service.test") as client:
        return await client.get(path, headers=bearer(token))


async def code_of(app: ASGIApp, token: str | None, path: str = "/") -> str | None:
    code: str | None = (await get(app, token, path)).json().get("code")
    return code


def check_answer(
    answer: httpx.Response,
    status: int,
    code: str,
    challenge: str | None,
    retry_after: float | None = None,
) -> None:
    """Check an answer in every part that a client can see."""
    title = {400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 503: "Service Unavailable"}
    body = answer.json()
    assert (answer.status_code, body["code"]) == (status, code)
    assert answer.headers.get("www-authenticate") == challenge
    assert_retry_after(answer, retry_after)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    assert body == {
        "title": title[status],
        "status": status,
        "code": code,
        "detail": body["detail"],
    }
    assert body["detail"].endswith(".")


def assert_retry_after(answer: httpx.Response, seconds: float | None) -> None:
    """Check a `Retry-After`. Jitter makes it longer, so that not all callers return at once."""
    said = answer.headers.get("retry-after")
    if seconds is None:
        assert said is None
    else:
        assert seconds <= int(said) <= math.ceil(seconds * 1.25 + 1)


INVALID = 'Bearer error="invalid_token"'


TOKEN = "mt_" + "t" * 40


async def ask(verifier: Verifier, token: str, **given: Any) -> httpx.Response:
    """Call a service behind this verifier; `given` are options of its middleware."""
    return await get(protected(verifier, **given), token)


def assert_refused(answer: httpx.Response) -> None:
    assert (answer.status_code, answer.json()["code"]) == (401, "token_invalid")
    assert answer.headers["cache-control"] == "no-store"


def assert_not_found_out(
    answer: httpx.Response, code: str = "verification_unavailable", *, retry_after: int = 1
) -> None:
    assert (answer.status_code, answer.json()["code"]) == (503, code)
    assert_retry_after(answer, retry_after)
    assert answer.headers["cache-control"] == "no-store"
    assert "www-authenticate" not in answer.headers
