"""One pooled HTTP client to the Backend API: deadlines, slots, event loops.

Rules of this file:

- A call runs in its own task, which is not cancelled: if a request in progress is cancelled, httpx
  loses its pool slot for good (encode/httpcore#1093). Cancelling a waiter does not cancel a call
  that was sent; it runs until its deadline. A call that still waits for a slot or for a retry, and
  has no waiters left, is dropped.
- The deadline covers the whole call. Each socket operation gets the remaining time as its timeout,
  so a server that sends one byte per second cannot keep a connection open. A user's transport has
  no such support: it is cancelled 0.25 s after the deadline.
- Redirects are not followed, compressed answers are rejected, sizes are limited.
- One client per event loop, opened at its first call.
- A traceback may show the locals of our frames: they hold no key, no credential and no part of an
  answer. (The locals of httpx's own frames are out of our control.)

Sole owner of `httpx` (with `outbound`).
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from math import inf
from typing import TYPE_CHECKING, Any, Final, TypeVar

from clerk_m2m.clock import ServerClock
from clerk_m2m.errors import BackendAPIError, BackendUnavailableError
from clerk_m2m.observe.call_times import CallResult
from clerk_m2m.observe.measurements import Upstream
from clerk_m2m.observe.reporter import Reporter
from clerk_m2m.observe.spans import with_span
from clerk_m2m.tasks import PerLoop, current_task, detached
from clerk_m2m.transport.admission import FIRST_SERVICE_TIME, Admission, UnknownRate
from clerk_m2m.transport.attempts import Attempts
from clerk_m2m.transport.breaker import Breakers
from clerk_m2m.transport.call import Budget, Call, Received
from clerk_m2m.transport.client import (
    DeadlineTransport,
    LentTransport,
    open_client,
    trusted_certificates,
)
from clerk_m2m.transport.gate import Alone, CallDemand, Gate, client_closed, nobody_waits
from clerk_m2m.transport.proxies import environment_proxies

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")

# The part of `timeout` that a call may wait for a slot; the other part is for the call itself.
WAITING_SHARE: Final = 0.25


@dataclass(slots=True)
class _LoopState:
    """The objects of one event loop."""

    client: httpx.AsyncClient
    gate: Gate
    attempts: Attempts
    closed: bool = False
    out: set[asyncio.Task[Any]] = field(default_factory=set)


class HTTPClient:
    """Sends calls to `api_url`, at most `max_inflight` at once in each event loop.

    Without `breakers`, the timeout of a call is its total deadline, in seconds. The call may wait
    that long for a slot and for a `Retry-After`. With `breakers`, a call has three quarters of
    `timeout` from the moment it gets a slot, and only as many calls may wait as get a slot within
    the other quarter. So the request that starts a call is still there when the call ends.

    `unknown_rate` limits the calls about unknown credentials. `server_clock` receives the `Date` of
    each good answer from `api_url`. `on_sent` is called for each call that is sent, `on_ended` and
    `reporter` with its result. Headers that others (tracing) add to a request are not sent.

    Proxies and certificates come from the environment (`transport.proxies`), unless the user's
    `transport` replaces the network; the user closes it. Raises `ConfigurationError` for a proxy
    that cannot be used.
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
        self._transport = None if transport is None else LentTransport(transport)
        self._proxies = environment_proxies(api_url) if transport is None else {}
        self._loops: PerLoop[_LoopState] = PerLoop(self._open)

    async def call(
        self,
        call: Call,
        read: Callable[[Call, Received], T],
        *,
        demand: CallDemand | None = None,
        budget: Budget | None = None,
    ) -> T:
        """Send a call and return the result of `read` for its answer.

        `read` raises a `BackendAPIError` for an error answer; if no answer comes, this method
        raises one. With a `demand`, this method must run in a task that is not cancelled. Without a
        `budget`, the call has the timeout of this client.
        """
        state = self._loops.get()
        budget = budget or Budget.from_now(self._timeout)
        if demand is not None:
            return await self._run(state, call, read, demand, budget)
        if budget.left() <= 0:
            raise BackendUnavailableError(
                f"{call.operation}: not sent, because the timeout of {budget.timeout:g} s had "
                "already passed."
            )
        caller = Alone()
        task: asyncio.Task[T] = detached(with_span(self._run(state, call, read, caller, budget)))
        try:
            await asyncio.wait({task}, timeout=budget.left())
        finally:
            caller.leave()
        if task.done() and not task.cancelled():
            return task.result()
        reason = self._why_unanswered(state, task, budget)
        raise BackendUnavailableError(f"{call.operation}: {reason}")

    def _why_unanswered(self, state: _LoopState, task: asyncio.Task[Any], budget: Budget) -> str:
        if task.cancelled() and state.closed:
            return (
                "the client was closed before the answer came. "
                "Clerk may have carried out the call, or not."
            )
        if task.cancelled():
            return "the call was cancelled before the answer came, because its event loop stopped."
        if task in state.out:
            return f"no answer came within the timeout of {budget.timeout:g} s."
        return (
            f"not sent, because {self._max_inflight} other calls (max_inflight) were in progress "
            f"during the whole timeout of {budget.timeout:g} s."
        )

    @property
    def last_known_call_failed(self) -> bool:
        """Whether the last finished call about a key with a cached value got no answer or a 429."""
        return self._breakers is not None and self._breakers.known.last_call_failed

    def measure(self) -> Upstream:
        """Return the current state of the calls of all event loops; thread-safe."""
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

        Calls that wait for a slot are refused. Calls that were sent have `timeout` seconds to end,
        because they may be billed or change something.
        """
        state = self._loops.pop()
        if state is None:
            return
        state.closed = True
        state.gate.close()
        if state.out:
            _, unfinished = await asyncio.wait(state.out, timeout=self._timeout)
            for task in unfinished:
                task.cancel()
            await asyncio.gather(*unfinished, return_exceptions=True)
        await state.client.aclose()

    def _open(self) -> _LoopState:
        client = self._open_client()
        admission = Admission(
            slots=self._max_inflight,
            patience=inf if self._breakers is None else self._timeout * WAITING_SHARE,
            unknown_rate=self._unknown_rate,
            refused=self._refused,
        )
        gate = Gate(admission)
        attempts = Attempts(
            client,
            gate,
            cut_off=self._transport is not None,
            on_sent=self._on_sent,
            on_ended=self._on_ended,
            reporter=self._reporter,
        )
        return _LoopState(client, gate, attempts)

    def _open_client(self) -> httpx.AsyncClient:
        if self._transport is not None:
            return open_client(self._api_url, self._transport, {})
        certificates, most = self._certificates, self._max_inflight
        proxies: dict[str, httpx.AsyncBaseTransport | None] = {
            pattern: None if proxy is None else DeadlineTransport(certificates, most, proxy)
            for pattern, proxy in self._proxies.items()
        }
        return open_client(self._api_url, DeadlineTransport(certificates, most), proxies)

    @cached_property
    def _certificates(self) -> ssl.SSLContext:
        # Reading the certificates takes about 30 ms, so it is done once for all event loops.
        return trusted_certificates()

    # One call, in its own task

    async def _run(
        self,
        state: _LoopState,
        call: Call,
        read: Callable[[Call, Received], T],
        demand: CallDemand,
        budget: Budget,
    ) -> T:
        breakers = self._breakers
        if breakers is not None:
            breakers.of(demand.priority).check()  # fail at once, not after waiting for a slot
        ticket = await state.gate.enter(call.operation, demand)
        now, service_time = asyncio.get_running_loop().time, None
        began_at, deadline = now(), budget.ends_at
        state.out.add(task := current_task())
        # The priority may have changed while the call waited.
        breaker = None if breakers is None else breakers.of(ticket.priority)
        try:
            # The task runs some time after it got its slot, so check again.
            if state.closed:
                raise client_closed(call.operation)
            if demand.given_up:
                raise nobody_waits(call.operation)
            if breaker is not None:
                breaker.enter()
                deadline = began_at + budget.timeout * (1 - WAITING_SHARE)
            try:
                received = await state.attempts.send(
                    call, demand, deadline=deadline, retries=budget.retries, breaker=breaker
                )
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
            # Absolute URLs are those of public key sets, and another host's clock is not Clerk's.
            if self._server_clock is not None and call.url.startswith("/"):
                headers = received.headers
                self._server_clock.note(headers.get("date", ""), headers.get("age", ""))
            return value
        finally:
            state.out.discard(task)
            state.gate.done(ticket, service_time=service_time)
