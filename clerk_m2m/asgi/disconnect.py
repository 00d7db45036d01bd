"""Notices that a client has gone while its credential is verified.

Servers do not cancel the app when a client goes; they only tell it at its next `receive`. A request
that nobody waits for any longer would keep its place in the queue to Clerk.

Rules of this file:

- Nothing is read in the first 50 ms, and nothing where the request may have a body or an `Expect`:
  reading would ask a caller that nobody has verified to send it (`100 Continue`).
- What was read is for the app. Its `receive` gives the messages in their order, and joins a read
  that is under way.
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
    """The client has closed its connection: there is nobody to answer."""


class Watch:
    """Watches one connection while its request waits, and is the app's `receive` afterwards."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._scope = scope
        self._receive = receive
        self._read: deque[Message] = deque()
        self._reading: asyncio.Task[Message] | None = None
        self._waiter: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._gone = False

    def start(self) -> None:
        """Watch from 50 ms from now on; the current task is cancelled when the client goes."""
        task = asyncio.current_task()
        if task is not None and self._scope["type"] == "http":
            self._waiter = task
            self._cancelling = task.cancelling()
            self._timer = asyncio.get_running_loop().call_later(PATIENCE, self._begin)

    def stop(self, exc: BaseException | None) -> None:
        """The request waits no longer; raises `ClientGoneError` where the client has gone."""
        waiter, self._waiter = self._waiter, None
        if waiter is None:
            return
        self._timer.cancel()
        if not self._gone:
            return
        # Like `asyncio.timeout`: only the cancellation that was asked for here is taken back.
        if waiter.uncancel() <= self._cancelling and isinstance(exc, asyncio.CancelledError):
            raise ClientGoneError from exc

    def close(self) -> None:
        """The app has returned: end a read that is still under way."""
        if self._reading is not None:
            self._reading.cancel()

    async def receive(self) -> Message:
        """Give the app its next message."""
        if self._read:
            return self._read.popleft()
        if self._reading is None:
            return await self._receive()
        if not self._reading.done():
            # A wait, not an await: the app may cancel its own receive and call it again.
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
        # Not every server's `receive` is a coroutine function, and a task wants a coroutine.
        return await self._receive()

    def _received(self, reading: asyncio.Task[Message]) -> None:
        if self._waiter is None or reading.cancelled() or reading.exception() is not None:
            return  # it is the app's now
        message = reading.result()
        self._reading = None
        self._read.append(message)
        if message["type"] == "http.disconnect":
            self._gone = True
            self._waiter.cancel()
        elif not message.get("more_body", False):
            self._read_next()
