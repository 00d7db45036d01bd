"""ASGI scopes and messages as a server sends them, without a server."""

from __future__ import annotations

import json
from typing import Any

from starlette.types import ASGIApp, Message, Scope

from harness import bearer


def headers_of(token: str | None) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode()) for name, value in bearer(token).items()]


def http_scope(path: str = "/", token: str | None = None, **given: Any) -> Scope:
    return {
        "type": "http",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": headers_of(token),
        **given,
    }


def websocket_scope(token: str | None = None, *, denial: bool = False, **given: Any) -> Scope:
    extensions: dict[str, Any] = {"websocket.http.response": {}} if denial else {}
    return {
        "type": "websocket",
        "path": "/ws",
        "query_string": b"",
        "headers": headers_of(token),
        "extensions": extensions,
        **given,
    }


async def play(app: ASGIApp, scope: Scope, *incoming: Message) -> list[Message]:
    """Call an app with these incoming messages; return the messages that it sent."""
    waiting, sent = list(incoming), list[Message]()

    async def receive() -> Message:
        return waiting.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent


async def ask(app: ASGIApp, scope: Scope) -> tuple[int, dict[str, Any]]:
    """Return the status and the JSON body of an app's answer to an HTTP scope."""
    start, *rest = await play(app, scope, {"type": "http.request", "body": b""})
    return start["status"], json.loads(b"".join(message["body"] for message in rest))


# WebSockets


CONNECT: Message = {"type": "websocket.connect"}
CLOSE: Message = {"type": "websocket.close", "code": 1008}


# For apps that must not receive or send anything


async def receive_nothing() -> Message:
    raise AssertionError("nothing is to be received here")


async def send_nowhere(message: Message) -> None:
    raise AssertionError("nothing is to be sent here")
