"""One pooled HTTP client to the Backend API: deadlines, retries, slots.

Rules of this file:

- A call is a task of its own that nobody cancels: httpx loses pool slots for good when a request
  in flight is cancelled (encode/httpcore#1093). Whoever waits may leave; the call goes on to its
  deadline.
- The deadline is total. Every socket operation gets what is left of it, so one byte a second cannot
  hold a connection for longer. (An injected transport knows no deadline: it is cut off soon after.)
- Redirects are not followed, compressed answers are refused, sizes are bounded.
- One client per event loop, opened on its first call.
- A traceback may show the locals of our frames: no key, no credential and no part of an answer is
  in them. (The locals of httpx's own frames are not ours to keep.)

Sole owner of `httpx` (with `outbound`).
"""

from __future__ import annotations

import asyncio
import random
import re
import ssl
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cached_property
from math import inf
from typing import Any, Final, Protocol, TypeVar

import httpx

from clerk_m2m.clock import ServerClock
from clerk_m2m.errors import AnswerTooLargeError, BackendUnavailableError
from clerk_m2m.secret import Secret
from clerk_m2m.tasks import PerLoop, detached
from clerk_m2m.transport.breaker import Breaker
from clerk_m2m.transport.sockets import deadline_pool, set_deadline

T = TypeVar("T")

MAX_ANSWER: Final = 64 * 1024
API_VERSION: Final = "2026-05-12"
RETRIED_STATUS: Final = frozenset({502, 503, 504})
MAX_PAUSE: Final = 0.1
GRACE: Final = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of an operation. `repeatable` marks that doing it twice changes nothing more.

    A credential in `body` is a `Secret` until the request is built.
    """

    operation: str
    method: str
    url: str
    key: Secret | None = None
    body: Mapping[str, Any] | None = field(default=None, repr=False)
    query: Mapping[str, str] | None = None
    repeatable: bool = False
    max_bytes: int = MAX_ANSWER

    def secrets(self) -> Iterable[str]:
        """Give what must not come back in an error: the key, and the credential in the body."""
        if self.key:
            yield self.key.reveal()
        yield from (
            each.reveal() for each in (self.body or {}).values() if isinstance(each, Secret)
        )

    def content(self) -> Mapping[str, Any] | None:
        """Give the body as it is sent, its credential in clear."""
        if self.body is None:
            return None
        return {k: v.reveal() if isinstance(v, Secret) else v for k, v in self.body.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """What was answered to a call. Headers and body are hidden: they may hold a key."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


class CallDemand(Protocol):
    """Who wants a call; it stays up to date while the call is under way.

    `refresh` calls use slots that are reserved for them. A call that has to queue for a slot asks
    `give_up` before it is sent: True means that nobody waits for it any more.
    """

    @property
    def refresh(self) -> bool: ...

    def give_up(self) -> bool: ...


@dataclass(slots=True)
class _LoopState:
    """What belongs to one event loop."""

    client: httpx.AsyncClient
    slots: asyncio.Semaphore
    refresh_slots: asyncio.Semaphore
    tasks: set[asyncio.Task[Any]] = field(default_factory=set)


class HTTPClient:
    """Sends calls to `api_url`. `timeout` is the total deadline of a call, in seconds.

    At most `max_inflight` calls are out at once, a fifth of them reserved for refreshes.
    `waits` lets a repeatable call wait for a `Retry-After` that fits into its deadline.
    `server_clock` is told the `Date` of each good answer from `api_url`.
    """

    def __init__(
        self,
        *,
        api_url: str,
        timeout: float,
        max_inflight: int,
        breaker: Breaker | None = None,
        waits: bool = False,
        server_clock: ServerClock | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._api_url = api_url
        self._timeout = timeout
        self._max_inflight = max_inflight
        self._breaker = breaker
        self._waits = waits
        self._server_clock = server_clock
        self._transport = transport
        self._loops: PerLoop[_LoopState] = PerLoop(self._open)

    async def call(
        self, call: Call, read: Callable[[Call, Received], T], *, demand: CallDemand | None = None
    ) -> T:
        """Send a call and give what `read` makes of the answer.

        `read` raises the `BackendAPIError` that an answer means; no answer raises one here.
        """
        state = self._loops.get()
        deadline = _now() + self._timeout
        task: asyncio.Task[T] = detached(self._run(state, call, read, deadline, demand))
        state.tasks.add(task)
        task.add_done_callback(state.tasks.discard)
        await asyncio.wait({task}, timeout=self._timeout)
        if not task.done() or task.cancelled():
            raise BackendUnavailableError(
                f"{call.operation}: no answer within {self._timeout:g} s."
            )
        return task.result()

    async def aclose(self) -> None:
        """Close the client of this event loop; the next call opens another."""
        state = self._loops.pop()
        if state is None:
            return
        for task in state.tasks:
            task.cancel()
        await asyncio.gather(*state.tasks, return_exceptions=True)
        await state.client.aclose()

    def _open(self) -> _LoopState:
        transport = self._transport or _DeadlineTransport(self._ssl_context, self._max_inflight)
        client = httpx.AsyncClient(
            base_url=self._api_url,
            transport=transport,
            follow_redirects=False,
            timeout=self._timeout,
            headers={
                "Accept": "application/json",
                "Accept-Encoding": "identity",
                "Clerk-API-Version": API_VERSION,
                "User-Agent": "clerk-m2m",
            },
        )
        reserved = max(1, self._max_inflight // 5)
        return _LoopState(
            client,
            asyncio.Semaphore(max(1, self._max_inflight - reserved)),
            asyncio.Semaphore(reserved),
        )

    @cached_property
    def _ssl_context(self) -> ssl.SSLContext:
        # Reading the certificates takes some 30 ms: once per process, not once per event loop.
        return httpx.create_ssl_context()

    # One call, in its own task

    async def _run(
        self,
        state: _LoopState,
        call: Call,
        read: Callable[[Call, Received], T],
        deadline: float,
        demand: CallDemand | None,
    ) -> T:
        set_deadline(deadline)
        if self._breaker is not None:
            self._breaker.check()  # at once, not after a wait for a slot
        slots = state.refresh_slots if demand is not None and demand.refresh else state.slots
        queued = slots.locked()
        async with slots:
            if queued and (_now() >= deadline or (demand is not None and demand.give_up())):
                raise BackendUnavailableError(f"{call.operation}: too many calls are under way.")
            record = self._breaker.record(count_failure=not queued) if self._breaker else None
            with record or nullcontext():
                async with self._cut_off(call, deadline):
                    received = await self._attempts(state.client, call, deadline)
                    value = read(call, received)
                    self._note_date(call, received)
                    return value

    @asynccontextmanager
    async def _cut_off(self, call: Call, deadline: float) -> AsyncIterator[None]:
        """Cancel a transport that is not ours and has outlived the deadline; never our own."""
        end = None if self._transport is None else deadline + GRACE
        try:
            async with asyncio.timeout_at(end):
                yield
        except TimeoutError as exc:
            raise BackendUnavailableError(
                f"{call.operation}: the transport outlived its time."
            ) from exc

    async def _attempts(self, client: httpx.AsyncClient, call: Call, deadline: float) -> Received:
        try:
            received = await _send_and_read(client, call, deadline)
        except BackendUnavailableError as exc:
            # Nothing was sent, so nothing can happen twice.
            unsent = isinstance(exc.__cause__, httpx.ConnectError | httpx.ConnectTimeout)
            pause = _jitter() if unsent else inf
            if _now() + pause >= deadline:
                raise
        else:
            pause = self._pause(call, received)
            if _now() + pause >= deadline:
                return received
        await asyncio.sleep(pause)
        if self._breaker is not None:
            self._breaker.check()  # what others learned meanwhile; and a probe is one call
        return await _send_and_read(client, call, deadline)

    def _note_date(self, call: Call, received: Received) -> None:
        # The address of a public key set is absolute: another host's clock says nothing of Clerk's.
        if self._server_clock is not None and call.url.startswith("/"):
            self._server_clock.note(received.headers.get("date", ""))

    def _pause(self, call: Call, received: Received) -> float:
        """Seconds to wait before the one retry; infinite where there is none."""
        if call.repeatable and received.status in RETRIED_STATUS:
            return _jitter()
        if call.repeatable and self._waits and received.status == 429:
            return retry_after(received.headers) + _jitter()
        return inf


async def _send_and_read(client: httpx.AsyncClient, call: Call, deadline: float) -> Received:
    request = client.build_request(
        call.method,
        call.url,
        json=call.content(),
        params=call.query,
        headers={"Authorization": f"Bearer {call.key.reveal()}"} if call.key else None,
    )
    try:
        response = await client.send(request, stream=True)
        try:
            return await _read(response, call, deadline)
        finally:
            await response.aclose()
    except (httpx.HTTPError, OSError) as exc:
        reason = type(exc).__name__
        raise BackendUnavailableError(
            f"{call.operation}: Clerk did not answer ({reason})."
        ) from exc


def _now() -> float:
    return asyncio.get_running_loop().time()


def _jitter() -> float:
    return MAX_PAUSE * random.random()  # noqa: S311  not a secret: it spreads load


class _Body(bytearray):
    """What has been read of an answer; hidden, since it may hold a key."""

    def __repr__(self) -> str:
        return f"<{len(self)} bytes of an answer>"


async def _read(response: httpx.Response, call: Call, deadline: float) -> Received:
    if response.headers.get("content-encoding", "identity") != "identity":
        raise BackendUnavailableError(f"{call.operation}: Clerk sent a compressed answer.")
    body = _Body()
    async for chunk in response.aiter_bytes():
        body += chunk
        del chunk  # tracebacks may show the locals of this frame
        if len(body) > call.max_bytes:
            raise AnswerTooLargeError(
                f"{call.operation}: Clerk's answer is over {call.max_bytes} bytes."
            )
        if _now() >= deadline:
            raise BackendUnavailableError(f"{call.operation}: Clerk's answer took too long.")
    return Received(status=response.status_code, headers=response.headers, body=bytes(body))


class _DeadlineTransport(httpx.AsyncHTTPTransport):
    """httpx's own transport, over sockets that keep the deadline."""

    def __init__(self, ssl_context: ssl.SSLContext, max_connections: int) -> None:
        super().__init__(verify=ssl_context)
        # httpx has no parameter for the pool; a test over a slow socket watches this.
        self._pool = deadline_pool(ssl_context, max_connections)


def retry_after(headers: Mapping[str, str]) -> float:
    """Read `Retry-After` in seconds (RFC 9110 section 10.2.3); 1 where there is none to read."""
    text = headers.get("retry-after", "")
    if re.fullmatch(r"[0-9]{1,9}", text):
        return float(text)
    try:
        instant = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return 1.0
    if instant.tzinfo is None:
        instant = instant.replace(tzinfo=UTC)
    return max(0.0, (instant - datetime.now(UTC)).total_seconds())
