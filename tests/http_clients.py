"""The HTTP client on scripted answers."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx

from clerk_m2m.transport.call import Call
from clerk_m2m.transport.http import HTTPClient
from harness import API_URL

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
    """Sends the given answers in order; keeps the requests and their times."""

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
