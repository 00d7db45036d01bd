"""Reads the body of an answer, with limits for size and time, and keeps it out of tracebacks."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from clerk_m2m.errors import AnswerTooLargeError, BackendUnavailableError
from clerk_m2m.transport.call import Call, Received

if TYPE_CHECKING:
    import httpx


class _Body(bytearray):
    """The part of an answer read so far; its repr hides it, because it may hold a key."""

    def __repr__(self) -> str:
        return f"<{len(self)} bytes of an answer>"


async def read_body(response: httpx.Response, call: Call, deadline: float) -> Received:
    """Read an answer by `deadline` (on the loop's clock); raises `BackendUnavailableError`."""
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
        if asyncio.get_running_loop().time() >= deadline:
            raise BackendUnavailableError(
                f"{call.operation}: Clerk's answer took longer than the deadline."
            )
    return Received(status=response.status_code, headers=response.headers, body=bytes(body))
