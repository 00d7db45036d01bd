"""One pooled HTTP client to the Backend API: deadlines, retries, slots.

Rules of this file:

- A call is a task of its own that nobody cancels: httpx loses pool slots for good when a request
  in flight is cancelled (encode/httpcore#1093). Whoever waits may leave; a call that is out goes
  on to its deadline, and one that waits for its turn is not sent.
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
import ssl
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from math import inf
from typing import Any, Final, TypeVar

import httpx

from clerk_m2m.clock import ServerClock
from clerk_m2m.errors import BackendAPIError, BackendUnavailableError
from clerk_m2m.observe.call_times import CallResult, result_of
from clerk_m2m.observe.events import cleaned
from clerk_m2m.observe.measurements import Upstream
from clerk_m2m.observe.reporter import Reporter
from clerk_m2m.observe.spans import with_span
from clerk_m2m.tasks import PerLoop, current_task, detached
from clerk_m2m.transport.admission import FIRST_SERVICE_TIME, Admission, UnknownRate
from clerk_m2m.transport.body import read_body
from clerk_m2m.transport.breaker import Breaker, Breakers
from clerk_m2m.transport.call import Call, Received, retry_after
from clerk_m2m.transport.client import DeadlineTransport, open_client
from clerk_m2m.transport.faults import never_sent, reason_of, result_of_failure
from clerk_m2m.transport.gate import Alone, CallDemand, Gate
from clerk_m2m.transport.sockets import set_deadline

T = TypeVar("T")

RETRIED_STATUS: Final = frozenset({502, 503, 504})
MAX_PAUSE: Final = 0.1
GRACE: Final = 0.25
# The part of `timeout` that a call may wait for its turn; the other part is for the call itself.
WAITING_SHARE: Final = 0.25


@dataclass(slots=True)
class _LoopState:
    """What belongs to one event loop."""

    client: httpx.AsyncClient
    gate: Gate
    out: set[asyncio.Task[Any]] = field(default_factory=set)


class HTTPClient:
    """Sends calls to `api_url`, at most `max_inflight` at once in each event loop.

    Without `breakers`, `timeout` is the total deadline of a call, in seconds: a call waits for its
    turn, and a repeatable one for a `Retry-After`, as long as its deadline allows. With them, a
    call has three quarters of `timeout` from the moment that it goes out, and only as many calls
    wait for their turn as go out within the other quarter: whoever starts a call sees its end.
    `unknown_rate` bounds the calls about unknown credentials. `server_clock` is told the `Date` of
    each good answer from `api_url`, `on_sent` of each call that goes out, `on_ended` and `reporter`
    of what came of it. Headers that were put on a request by others (tracing) are not sent.
    """

    def __init__(
        self,
        *,
        api_url: str,
        timeout: float,
        max_inflight: int,
        breakers: Breakers | None = None,
        unknown_rate: UnknownRate | None = None,
        server_clock: ServerClock | None = None,
        on_sent: Callable[[Call], None] | None = None,
        reporter: Reporter | None = None,
        on_ended: Callable[[Call, CallResult, float], None] | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._api_url = api_url
        self._timeout = timeout
        self._max_inflight = max_inflight
        self._breakers = breakers
        self._unknown_rate = unknown_rate
        self._server_clock = server_clock
        self._on_sent = on_sent
        self._reporter = reporter
        self._on_ended = on_ended
        self._refused: Counter[str] = Counter(rate=0, room=0)
        self._transport = transport
        self._loops: PerLoop[_LoopState] = PerLoop(self._open)

    async def call(
        self, call: Call, read: Callable[[Call, Received], T], *, demand: CallDemand | None = None
    ) -> T:
        """Send a call and give what `read` makes of the answer.

        `read` raises the `BackendAPIError` that an answer means; no answer raises one here. With a
        `demand`, the caller of this method is a task that nobody cancels.
        """
        state = self._loops.get()
        deadline = asyncio.get_running_loop().time() + self._timeout
        if demand is not None:
            return await self._run(state, call, read, demand, deadline)
        caller = Alone()
        task: asyncio.Task[T] = detached(with_span(self._run(state, call, read, caller, deadline)))
        try:
            await asyncio.wait({task}, timeout=self._timeout)
        finally:
            waits = caller.on_change is not None  # in the queue for its turn
            caller.leave()
        if not task.done() or task.cancelled():
            what = "it was not its turn" if waits else "no answer came"
            raise BackendUnavailableError(
                f"{call.operation}: {what} within the deadline of {self._timeout:g} s."
            )
        return task.result()

    @property
    def last_known_call_failed(self) -> bool:
        """Whether the last call about what is known that ended got no answer, or a 429."""
        return self._breakers is not None and self._breakers.known.last_call_failed

    def measure(self) -> Upstream:
        """Tell how the calls of all event loops stand now; for any thread."""
        gates = [state.gate.admission for state in self._loops.values()]
        rate, breakers, waiting = self._unknown_rate, self._breakers, Counter[str]()
        for gate in gates:
            waiting.update(gate.queued())
        return Upstream(
            waiting=waiting,
            out=sum(gate.out for gate in gates),
            refused=dict(self._refused),
            service_time=max((gate.service_time for gate in gates), default=FIRST_SERVICE_TIME),
            unknown_rate=None if rate is None else rate.rate(time.monotonic()),
            breakers={} if breakers is None else breakers.states(),
        )

    async def aclose(self) -> None:
        """Close the client of this event loop; the next call opens another.

        Calls that wait for their turn are refused. Those that are out have `timeout` to end: they
        may be billed, and may change something.
        """
        state = self._loops.pop()
        if state is None:
            return
        state.gate.refuse_waiting()
        if state.out:
            _, unfinished = await asyncio.wait(state.out, timeout=self._timeout)
            for task in unfinished:
                task.cancel()
            await asyncio.gather(*unfinished, return_exceptions=True)
        await state.client.aclose()

    def _open(self) -> _LoopState:
        transport = self._transport or DeadlineTransport(self._ssl_context, self._max_inflight)
        client = open_client(self._api_url, transport, timeout=self._timeout)
        admission = Admission(
            slots=self._max_inflight,
            patience=inf if self._breakers is None else self._timeout * WAITING_SHARE,
            unknown_rate=self._unknown_rate,
            refused=self._refused,
        )
        return _LoopState(client, Gate(admission))

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
        demand: CallDemand,
        deadline: float,
    ) -> T:
        breakers = self._breakers
        if breakers is not None:
            breakers.of(demand.priority).check()  # at once, not after a wait for a turn
        ticket = await state.gate.enter(call.operation, demand)
        now, service_time = asyncio.get_running_loop().time, None
        began_at = now()
        state.out.add(task := current_task())
        # The priority may have changed while the call waited.
        breaker = None if breakers is None else breakers.of(ticket.priority)
        try:
            if breaker is not None:
                breaker.enter()
                deadline = began_at + self._timeout * (1 - WAITING_SHARE)
            try:
                received = await self._attempts(state.client, call, deadline, breaker)
                if received.status == 429 and self._unknown_rate is not None:
                    self._unknown_rate.slow_down(now())
                elif received.status < 500:
                    service_time = now() - began_at
                value = read(call, received)
            except BackendAPIError as exc:
                if breaker is not None:
                    breaker.ended(exc)
                raise
            if breaker is not None:
                breaker.ended(None)
            # The address of a public key set is absolute: another host's clock is not Clerk's.
            if self._server_clock is not None and call.url.startswith("/"):
                headers = received.headers
                self._server_clock.note(headers.get("date", ""), headers.get("age", ""))
            return value
        finally:
            state.out.discard(task)
            state.gate.done(ticket, service_time=service_time)

    async def _attempts(
        self, client: httpx.AsyncClient, call: Call, deadline: float, breaker: Breaker | None
    ) -> Received:
        try:
            received = await self._send(client, call, deadline)
        except BackendUnavailableError as exc:
            # Nothing was sent, so nothing can happen twice.
            unsent = isinstance(exc.__cause__, httpx.ConnectError | httpx.ConnectTimeout)
            pause = _jitter() if unsent else inf
            if not _may_repeat(pause, deadline, breaker):
                raise
        else:
            if received.status < 400:
                return received
            pause = self._pause(call, received)
            if not _may_repeat(pause, deadline, breaker):
                return received
        await asyncio.sleep(pause)
        return await self._send(client, call, deadline)

    async def _send(self, client: httpx.AsyncClient, call: Call, deadline: float) -> Received:
        if self._on_sent is not None:
            self._on_sent(call)
        began_at = _now()
        try:
            received = await self._exchange(client, call, deadline)
        except BackendUnavailableError as exc:
            self._tell(call, result_of_failure(exc), began_at, failure=exc)
            raise
        except asyncio.CancelledError:
            if self._on_ended is not None:
                self._on_ended(call, CallResult.CANCELLED, _now() - began_at)
            raise
        self._tell(call, result_of(received.status), began_at, status=received.status)
        return received

    async def _exchange(self, client: httpx.AsyncClient, call: Call, deadline: float) -> Received:
        set_deadline(deadline)
        # A transport that is not ours knows no deadline. Ours is never cut off.
        end = None if self._transport is None else deadline + GRACE
        try:
            async with asyncio.timeout_at(end):
                return await _send_and_read(client, call, deadline)
        except TimeoutError as exc:
            raise BackendUnavailableError(
                f"{call.operation}: the transport outlived the deadline."
            ) from exc

    def _tell(
        self,
        call: Call,
        result: CallResult,
        began_at: float,
        *,
        status: int | None = None,
        failure: BackendUnavailableError | None = None,
    ) -> None:
        seconds = _now() - began_at
        if self._on_ended is not None:
            self._on_ended(call, result, seconds)
        if self._reporter is not None:
            self._reporter.called(
                call.operation,
                seconds=seconds,
                status=status,
                error=None if failure is None else cleaned(failure),
                sent=failure is None or not never_sent(failure.__cause__),
            )

    def _pause(self, call: Call, received: Received) -> float:
        """Seconds to wait before the one retry; infinite where there is none."""
        if not call.repeatable:
            return inf
        if received.status == 429 or (received.status == 503 and "retry-after" in received.headers):
            return inf if self._breakers else retry_after(received.headers) + _jitter()
        return _jitter() if received.status in RETRIED_STATUS else inf


def _may_repeat(pause: float, deadline: float, breaker: Breaker | None) -> bool:
    """Tell whether a call may be sent again after `pause` seconds."""
    # While the breaker is open a probe is one call.
    return _now() + pause < deadline and not (breaker and breaker.last_call_failed)


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
            return await read_body(response, call, deadline)
        finally:
            await response.aclose()
    except (httpx.HTTPError, OSError) as exc:
        reason = reason_of(exc)
        if _now() >= deadline:
            reason += ", at the deadline of the call"
        raise BackendUnavailableError(
            f"{call.operation}: Clerk did not answer ({reason})."
        ) from exc


def _now() -> float:
    return asyncio.get_running_loop().time()


def _jitter() -> float:
    return MAX_PAUSE * random.random()  # noqa: S311  not a secret: it spreads load
