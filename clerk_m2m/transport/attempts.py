"""Sends one call, and retries it if that is safe.

Rules of this file:

- A call that changes something is retried only if it was not carried out: nothing was sent, or
  Clerk answered 429. A call that only reads is also retried after a dropped connection and after
  502, 503 or 504.
- The pauses grow with each retry and are random. A `Retry-After` is waited for.
- There is no retry after the deadline. A call keeps its slot during a pause.
- A call without waiters is not sent and not retried.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from math import inf
from typing import Final

import httpx

from clerk_m2m.errors import BackendUnavailableError, ConfigurationError
from clerk_m2m.observe.call_times import CallResult, result_of
from clerk_m2m.observe.events import cleaned
from clerk_m2m.observe.reporter import Reporter
from clerk_m2m.transport.body import read_body
from clerk_m2m.transport.breaker import Breaker
from clerk_m2m.transport.call import Call, Received, retry_after
from clerk_m2m.transport.faults import never_sent, reason_of, result_of_failure, was_dropped
from clerk_m2m.transport.gate import CallDemand, Gate
from clerk_m2m.transport.sockets import set_deadline

RETRIED_STATUS: Final = frozenset({502, 503, 504})
# The longest pause before the first retry, in seconds. It doubles with each further retry.
FIRST_PAUSE: Final = 0.1
MAX_PAUSE: Final = 5.0
GRACE: Final = 0.25


class Attempts:
    """Sends the calls of one event loop; they wait in `gate` before a retry.

    A user's transport has no support for the deadline: with `cut_off`, a call is cancelled `GRACE`
    seconds after it. `on_sent`, `on_ended` and `reporter` are called for each attempt.
    """

    def __init__(
        self,
        client: httpx.AsyncClient,
        gate: Gate,
        *,
        cut_off: bool,
        on_sent: Callable[[Call], None] | None,
        on_ended: Callable[[Call, CallResult, float], None] | None,
        reporter: Reporter | None,
    ) -> None:
        self._client = client
        self._gate = gate
        self._cut_off = cut_off
        self._on_sent = on_sent
        self._on_ended = on_ended
        self._reporter = reporter

    async def send(
        self,
        call: Call,
        demand: CallDemand,
        *,
        deadline: float,
        retries: int,
        breaker: Breaker | None,
    ) -> Received:
        """Send a call, with retries; raises `BackendUnavailableError` if no answer came.

        With a `breaker`, a call does not wait for a `Retry-After`.
        """
        for retry in range(retries):
            try:
                received = await self._send(call, deadline)
            except BackendUnavailableError as exc:
                pause = _pause_after_failure(call, exc, retry)
                if not await self._may_repeat(pause, demand, deadline, breaker):
                    raise
            else:
                if received.status < 400:
                    return received
                pause = _pause_after_answer(call, received, retry, waits=breaker is None)
                if not await self._may_repeat(pause, demand, deadline, breaker):
                    return received
        return await self._send(call, deadline)

    async def _may_repeat(
        self, pause: float, demand: CallDemand, deadline: float, breaker: Breaker | None
    ) -> bool:
        """Wait for `pause` seconds and return True, or return False if there must be no retry."""
        # No retry while the breaker's last call failed: the probe of an open breaker is one call.
        if _now() + pause >= deadline or (breaker and breaker.last_call_failed):
            return False
        return await self._gate.pause(demand, pause)

    # One attempt

    async def _send(self, call: Call, deadline: float) -> Received:
        if self._on_sent is not None:
            self._on_sent(call)
        began_at = _now()
        try:
            received = await self._exchange(call, deadline)
        except BackendUnavailableError as exc:
            self._tell(call, result_of_failure(exc), began_at, failure=exc)
            raise
        except asyncio.CancelledError:
            if self._on_ended is not None:
                self._on_ended(call, CallResult.CANCELLED, _now() - began_at)
            raise
        self._tell(call, result_of(received.status), began_at, status=received.status)
        return received

    async def _exchange(self, call: Call, deadline: float) -> Received:
        set_deadline(deadline)
        # Our own transport keeps the deadline itself and is never cancelled.
        end = deadline + GRACE if self._cut_off else None
        try:
            async with asyncio.timeout_at(end):
                return await _send_and_read(self._client, call, deadline)
        except TimeoutError as exc:
            raise BackendUnavailableError(
                f"{call.operation}: the transport did not return by the deadline."
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


async def _send_and_read(client: httpx.AsyncClient, call: Call, deadline: float) -> Received:
    try:
        request = client.build_request(
            call.method,
            call.url,
            json=call.content(),
            params=call.query,
            headers={"Authorization": f"Bearer {call.key.reveal()}"} if call.key else None,
            timeout=max(0.0, deadline - _now()),
        )
        response = await client.send(request, stream=True)
        try:
            return await read_body(response, call, deadline)
        finally:
            await response.aclose()
    except httpx.InvalidURL as exc:
        raise ConfigurationError(f"{call.operation}: the address cannot be used ({exc}).") from exc
    except (httpx.HTTPError, OSError) as exc:
        reason = reason_of(exc)
        if _now() >= deadline:
            reason += ", at the deadline of the call"
        raise BackendUnavailableError(
            f"{call.operation}: Clerk did not answer at {_address(client, call)} ({reason})."
        ) from exc


def _address(client: httpx.AsyncClient, call: Call) -> str:
    """Return the address that a call is sent to: the Backend API, or the URL of a key set."""
    return str(client.base_url).rstrip("/") if call.url.startswith("/") else call.url


# Pauses: seconds to wait before a retry, infinite for no retry


def _pause_after_failure(call: Call, exc: BackendUnavailableError, retry: int) -> float:
    may_repeat = never_sent(exc.__cause__) or (call.repeatable and was_dropped(exc.__cause__))
    return backoff(retry) if may_repeat else inf


def _pause_after_answer(call: Call, received: Received, retry: int, *, waits: bool) -> float:
    asks_for_a_pause = received.status == 429 or (
        received.status == 503 and "retry-after" in received.headers
    )
    # If Clerk answers 429, it has not carried out the call, so a retry is safe for every call.
    if not (call.repeatable or received.status == 429):
        return inf
    if asks_for_a_pause:
        return retry_after(received.headers) + backoff(retry) if waits else inf
    return backoff(retry) if received.status in RETRIED_STATUS else inf


def backoff(retry: int) -> float:
    """Return a random pause before a retry, in seconds; `retry` counts from 0."""
    longest = min(MAX_PAUSE, FIRST_PAUSE * 2.0 ** min(retry, 10))
    return longest * random.random()  # noqa: S311  not a secret: it spreads load


def _now() -> float:
    return asyncio.get_running_loop().time()
