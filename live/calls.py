"""The connection to the instance: every call of a run goes through one transport.

It keeps to the rate limit of a development instance and waits for `Retry-After`. It counts billed
calls and notes the headers of the answers. `Calls.raw` returns an answer unchanged; the package's
own client and verifier use the same transport.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any, Final, TypeAlias

import httpx

from clerk_m2m import ClerkClient, Secret
from clerk_m2m.backend_api.problems import read_problem
from clerk_m2m.environment import is_loopback
from clerk_m2m.secret import without_credentials
from clerk_m2m.transport.call import retry_after
from clerk_m2m.transport.client import API_VERSION

Sleep: TypeAlias = Callable[[float], Awaitable[object]]

# Seconds; long, because a call may have to wait for the rate limit and for a `Retry-After`.
TIMEOUT: Final = 40.0
MAX_WAIT: Final = 15.0

# A code in any other form is not shown, because it might repeat a secret from the request.
_CODE: Final = re.compile(r"[a-z_]{1,60}")


class Pace:
    """A token bucket: `burst` calls at once, then `rate` a second.

    90 calls in any 10 s by default, of the 100 that a development instance allows.
    """

    def __init__(
        self, sleep: Sleep, *, now: Callable[[], float], burst: int = 10, rate: float = 8.0
    ) -> None:
        self._sleep, self._now = sleep, now
        self._gap, self._credit = 1 / rate, (burst - 1) / rate
        self._next_at = 0.0  # earliest time of the next call; in the past while a burst is possible

    async def turn(self) -> None:
        """Wait until one more call may be sent."""
        now = self._now()
        at = max(self._next_at, now - self._credit)
        self._next_at = at + self._gap
        if at > now:
            await self._sleep(at - now)


@dataclass(slots=True)
class Counts:
    """Counts of calls and of answers. `skews` are seconds: `Date` minus this host's clock."""

    calls: int = 0
    verifications: int = 0
    minted: int = 0
    api_keys: int = 0
    limited: int = 0
    answers: int = 0
    aged: int = 0
    skews: list[float] = field(default_factory=list)
    compressed: int = 0


class Connection(httpx.AsyncBaseTransport):
    """Sends calls through `inner` at the pace of the rate limit, and counts them."""

    def __init__(
        self, inner: httpx.AsyncBaseTransport, host: str, pace: Pace | None, sleep: Sleep
    ) -> None:
        self._inner, self._host, self._pace, self._sleep = inner, host, pace, sleep
        self.counts = Counts()
        self.last_status = 0
        self._under_way = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a call. After a 429, wait as Clerk asks and send it once more."""
        self._under_way += 1
        self._idle.clear()
        try:
            return await self._in_turn(request)
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._idle.set()

    async def idle(self, timeout: float) -> None:
        """Wait until no call is in progress, for `timeout` seconds at most.

        In the package's client, a call goes on after its waiter was cancelled.
        """
        try:
            await asyncio.wait_for(self._idle.wait(), timeout)
        except TimeoutError:
            pass  # the call ends at its own deadline

    async def _in_turn(self, request: httpx.Request) -> httpx.Response:
        if self._pace is None:
            return await self._send(request)
        await self._pace.turn()
        response = await self._send(request)
        if response.status_code != 429:
            return response
        await response.aclose()
        await self._sleep(min(retry_after(response.headers), MAX_WAIT))
        return await self._send(request)

    @contextmanager
    def unpaced(self) -> Iterator[None]:
        """Within the block, send without waiting, and return a 429 without a retry."""
        pace, self._pace = self._pace, None
        try:
            yield
        finally:
            self._pace = pace

    async def close(self) -> None:
        """Close the sockets. (`aclose` does not: several clients share this transport.)"""
        await self._inner.aclose()

    async def _send(self, request: httpx.Request) -> httpx.Response:
        counts, path = self.counts, request.url.path
        counts.calls += 1
        counts.verifications += path.endswith("/verify")
        self.last_status = 0
        response = await self._inner.handle_async_request(request)
        self.last_status = response.status_code
        if request.method == "POST" and response.is_success:
            counts.minted += path.endswith("/m2m_tokens")
            counts.api_keys += path.endswith("/api_keys")
        if request.url.host == self._host:  # the public key set is on another host
            self._note(request, response)
        return response

    def _note(self, request: httpx.Request, response: httpx.Response) -> None:
        counts, headers = self.counts, response.headers
        counts.answers += 1
        counts.limited += response.status_code == 429
        counts.aged += "age" in headers
        asked = request.headers.get("accept-encoding", "identity")
        counts.compressed += asked == "identity" and "content-encoding" in headers
        try:
            date = parsedate_to_datetime(headers.get("date", "")).timestamp()
        except (ValueError, OverflowError):
            return
        counts.skews.append(date - time.time())


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer; `body` is its JSON, or None if it is not JSON. `str` contains no secret."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: Any = field(repr=False)
    size: int

    def get(self, name: str) -> Any:
        """Return a member of the JSON object; None if the body is no object or lacks it."""
        return self.body.get(name) if isinstance(self.body, dict) else None

    @property
    def codes(self) -> str | None:
        """The codes of an error in Clerk's format; None for an answer in another format."""
        problem = read_problem(self.body)
        if problem is None:
            return None
        codes = [e.code if _CODE.fullmatch(e.code) else "(no code)" for e in problem.errors]
        return ", ".join(codes) or "(no entry)"

    def is_error(self, *statuses: int) -> bool:
        """Return whether this is an error in Clerk's format, with one of these statuses."""
        return self.status in statuses and self.codes is not None

    def __str__(self) -> str:
        if 200 <= self.status < 300:
            return str(self.status)
        return f"{self.status} {self.codes or 'not in Clerk’s error format'}"


class Calls:
    """Calls to one instance: `raw` returns answers unchanged, `clerk` is the package's client."""

    def __init__(self, connection: Connection, api_url: str, secret_key: Secret) -> None:
        self.connection = connection
        self.api_url = api_url
        self.secret_key = secret_key
        self.clerk = ClerkClient(
            secret_key=secret_key, api_url=api_url, timeout=TIMEOUT, transport=connection
        )
        self._raw = httpx.AsyncClient(
            base_url=api_url,
            transport=connection,
            timeout=TIMEOUT,
            headers={
                "Accept": "application/json",
                "Accept-Encoding": "identity",
                "Clerk-API-Version": API_VERSION,
                "User-Agent": "clerk-m2m live checks",
            },
        )

    async def raw(
        self,
        method: str,
        url: str,
        *,
        key: Secret | None,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send a call with `key` (None: no key). Raises `httpx.HTTPError` if no answer comes."""
        given = dict(headers or {})
        if key is not None:
            given["Authorization"] = f"Bearer {key.reveal()}"
        response = await self._raw.request(
            method, url, json=_plain(body), params=query, headers=given
        )
        return Answer(
            status=response.status_code,
            headers=response.headers,
            body=_parsed(response),
            size=len(response.content),
        )

    async def get(self, url: str, **query: str) -> Answer:
        """Send a GET with the instance's key."""
        return await self.raw("GET", url, key=self.secret_key, query=query or None)

    async def post(self, url: str, body: Mapping[str, Any], *, key: Secret | None = None) -> Answer:
        """Send a POST with `key`, by default the instance's key."""
        return await self.raw("POST", url, key=key or self.secret_key, body=body)

    async def aclose(self) -> None:
        """Close both clients, and the connection."""
        await self.clerk.aclose()
        await self._raw.aclose()
        await self.connection.close()


def open_calls(
    api_url: str,
    secret_key: Secret,
    *,
    transport: httpx.AsyncBaseTransport | None = None,
    sleep: Sleep = asyncio.sleep,
) -> Calls:
    """Connect to an instance. An emulator on loopback has no rate limit, so calls do not wait."""
    host = httpx.URL(api_url).host
    limited = not is_loopback(host) and transport is None
    pace = Pace(sleep, now=time.monotonic) if limited else None
    inner = transport or httpx.AsyncHTTPTransport()
    return Calls(Connection(inner, host, pace, sleep), api_url, secret_key)


def presentable(text: str) -> str:
    """Return the text without keys, tokens and control characters, for printing."""
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in without_credentials(text))


def _plain(body: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if body is None:
        return None
    return {k: v.reveal() if isinstance(v, Secret) else v for k, v in body.items()}


def _parsed(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        return None
