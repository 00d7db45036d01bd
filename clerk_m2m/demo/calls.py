"""Real calls over HTTP and WebSocket to the services' ports."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import httpx
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus, WebSocketException

from clerk_m2m.demo.report import ServiceAnswer

POLL_EVERY: Final = 0.05
NO_ANSWER: Final = 0


class Calls:
    """Makes the calls and counts them in `sent`."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http
        self.sent = 0

    async def get(self, url: str, *credentials: str) -> ServiceAnswer:
        """Call a service with these credentials, each in its own `Authorization` header."""
        self.sent += 1
        headers = [("Authorization", f"Bearer {credential}") for credential in credentials]
        try:
            response = await self._http.get(url, headers=headers)
        except httpx.HTTPError as exc:
            return ServiceAnswer(status=NO_ANSWER, code=type(exc).__name__, detail=str(exc))
        return _answer(response.status_code, response.content)

    async def connect(self, origin: str, credential: str) -> ServiceAnswer:
        """Open a WebSocket to a service and read its first message; status 101 if it opens."""
        self.sent += 1
        url = f"{origin.replace('http', 'ws', 1)}/events"
        headers = {"Authorization": f"Bearer {credential}"}
        try:
            async with connect(url, additional_headers=headers, proxy=None) as socket:
                return _answer(101, await socket.recv())
        except InvalidStatus as exc:
            return _answer(exc.response.status_code, bytes(exc.response.body))
        except (WebSocketException, OSError) as exc:
            return ServiceAnswer(status=NO_ANSWER, code=type(exc).__name__, detail=str(exc))

    async def at_once(
        self, count: int, make_call: Callable[[], Awaitable[ServiceAnswer]]
    ) -> ServiceAnswer:
        """Make the same call `count` times concurrently; return the worst answer."""
        answers = await asyncio.gather(*(make_call() for _ in range(count)))
        return max(answers, key=lambda answer: (answer.status == NO_ANSWER, answer.status))

    async def until(
        self, status: int, make_call: Callable[[], Awaitable[ServiceAnswer]], *, timeout: float
    ) -> ServiceAnswer:
        """Repeat the same call until the answer has `status`, for at most `timeout` seconds."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while True:
            answer = await make_call()
            if answer.status == status or loop.time() >= deadline:
                return answer
            await asyncio.sleep(POLL_EVERY)


@asynccontextmanager
async def open_calls() -> AsyncIterator[Calls]:
    """Open the shared HTTP client of the calls."""
    async with httpx.AsyncClient(timeout=10) as http:
        yield Calls(http)


def _answer(status: int, body: bytes | str | None) -> ServiceAnswer:
    content = _parsed(body)
    if "caller" in content:
        return ServiceAnswer(
            status=status, detail=f"Accepted as {content['caller']}.{_next_hop(content)}"
        )
    return ServiceAnswer(status=status, code=content.get("code"), detail=content.get("detail", ""))


def _next_hop(content: dict[str, Any]) -> str:
    """Return a text about the answer of the service that was called next in the chain."""
    if "stock" not in content:
        return ""
    caller, claims = content["stock"]["caller"], content["stock"]["claims"]
    said = ", ".join(f"{name}: {value}" for name, value in claims.items())
    return f" stock accepted {caller}, " + (
        f"with the claims {said}." if said else "without claims."
    )


def _parsed(body: bytes | str | None) -> dict[str, Any]:
    try:
        content = json.loads(body or "")
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
