"""Detects that a client disconnects while its credential is verified.

A server does not cancel the app when the client disconnects. The app learns it from its next
`receive` only. Without this check, an abandoned request would keep its place in the queue of calls
to Clerk.

Rules of this file:

- Nothing is read in the first 50 ms. Nothing is read if the request may have a body or an
  `Expect` header: reading would invite an unverified caller to send the body (`100 Continue`).
- The messages that were read belong to the app. Its `receive` returns them in their order, and
  waits for a read that is in progress.
- A read is cancelled only after the app has returned: servers do not expect it earlier.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from starlette.types import Message, Receive, Scope

PATIENCE: Final = 0.05
_BODY_HEADERS: Final = frozenset({b"content-length", b"transfer-encoding", b"expect"})


class ClientGoneError(Exception):
    """The client has closed its connection, so no response is sent."""


class Watch:
    """Watches one connection during the verification; its `receive` is then used by the app."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._scope = scope
        self._receive = receive
        self._read: deque[Message] = deque()
        self._reading: asyncio.Task[Message] | None = None
        self._waiter: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._gone = False

    def start(self) -> None:
        """Start to watch after 50 ms; cancel the current task if the client disconnects."""
        task = asyncio.current_task()
        if task is not None and self._scope["type"] == "http":
            self._waiter = task
            self._cancelling = task.cancelling()
            self._timer = asyncio.get_running_loop().call_later(PATIENCE, self._begin)

    def stop(self, exc: BaseException | None) -> None:
        """Stop watching; raises `ClientGoneError` if the client has disconnected."""
        waiter, self._waiter = self._waiter, None
        if waiter is None:
            return
        self._timer.cancel()
        if not self._gone:
            return
        # As in `asyncio.timeout`: undo only the cancellation that this object requested.
        if waiter.uncancel() <= self._cancelling and isinstance(exc, asyncio.CancelledError):
            raise ClientGoneError from exc

    def close(self) -> None:
        """Cancel a read that is still in progress; called after the app has returned."""
        if self._reading is not None:
            self._reading.cancel()

    async def receive(self) -> Message:
        """Return the app's next message."""
        if self._read:
            return self._read.popleft()
        if self._reading is None:
            return await self._receive()
        if not self._reading.done():
            # `asyncio.wait` leaves the read running if the app cancels its own `receive`; the app
            # may then call `receive` again.
            await asyncio.wait({self._reading})
        reading, self._reading = self._reading, None
        return reading.result()

    def _begin(self) -> None:
        headers = self._scope["headers"]
        if not any(name in _BODY_HEADERS and value != b"0" for name, value in headers):
            self._read_next()

    def _read_next(self) -> None:
        self._reading = asyncio.ensure_future(self._one_message())
        self._reading.add_done_callback(self._received)

    async def _one_message(self) -> Message:
        # `ensure_future` gets a coroutine in every case: some servers' `receive` returns another
        # awaitable.
        return await self._receive()

    def _received(self, reading: asyncio.Task[Message]) -> None:
        if self._waiter is None or reading.cancelled() or reading.exception() is not None:
            return  # the verification is over: the app's `receive` takes this result
        message = reading.result()
        self._reading = None
        self._read.append(message)
        if message["type"] == "http.disconnect":
            self._gone = True
            self._waiter.cancel()
        elif not message.get("more_body", False):
            self._read_next()
