"""The ASGI side: check a request, dispatch it, and send a response or a scripted fault."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections import Counter
from dataclasses import replace
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

from clerk_m2m.emulator import (
    api_key_operations,
    m2m_token_operations,
    machine_operations,
    oauth_token_operations,
)
from clerk_m2m.emulator.checks import MAX_BODY_BYTES, read_path
from clerk_m2m.emulator.faults import ConnectionDroppedError, Fault, FaultBook, spoilt_answer
from clerk_m2m.emulator.hosts import refuse_web_pages
from clerk_m2m.emulator.instance import CheckedRequest, Instance, KeyHolder
from clerk_m2m.emulator.machines import machine_id_of_secret
from clerk_m2m.emulator.operations import KeyRule, Operation, Routes
from clerk_m2m.emulator.request import Request, read_request
from clerk_m2m.emulator.responses import (
    InvalidField,
    Refusal,
    Response,
    error_response,
    invalid_field_response,
    refusal_response,
)
from clerk_m2m.emulator.store import is_busy

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.types import Receive, Scope, Send


OPERATIONS = (
    *machine_operations.OPERATIONS,
    *m2m_token_operations.OPERATIONS,
    *api_key_operations.OPERATIONS,
    *oauth_token_operations.OPERATIONS,
)

# How long a request waits while another process holds the database, and how often it tries again.
# Seconds. Other requests are served while it waits.
LOCKED_SECONDS = 1.0
RETRY_SECONDS = 0.01

# RFC 9110 section 15: these have no content, whatever a scripted fault says.
_WITHOUT_CONTENT = (204, 304)


class Application:
    """Answers the operations of the contract, with and without `/v1` before the path."""

    def __init__(
        self,
        instance: Instance,
        faults: FaultBook,
        scripting: Callable[[Request], Response],
        *,
        allowed_hosts: frozenset[str],
    ) -> None:
        self.calls: Counter[str] = Counter()
        self._instance = instance
        self._faults = faults
        self._scripting = scripting
        self._allowed_hosts = allowed_hosts
        self._routes = Routes(OPERATIONS)
        self._counting = threading.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] == "lifespan":
            await _serve_lifespan(receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1000})
        else:
            request = await read_request(scope, receive)
            await self._serve(request, scope.get("server"), receive, send)

    async def _serve(self, request: Request, server: Any, receive: Receive, send: Send) -> None:
        if request.path == "/_emulator" or request.path.startswith("/_emulator/"):
            await self._send(send, await self._script(request, server))
            return
        try:
            operation, given = self._routes.find(request.method, _bare(request.path))
        except Refusal as refusal:
            await self._send(send, refusal_response(refusal))
            return
        with self._counting:
            self.calls[operation.id] += 1

        async def perform() -> Response:
            return await self._answer(lambda: self._perform(operation, given, request))

        fault = self._faults.take(operation.id)
        if fault is None:
            await self._send(send, await perform())
        else:
            await self._strike(fault, perform, receive, send)

    async def _script(self, request: Request, server: Any) -> Response:
        try:
            refuse_web_pages(request, server, self._allowed_hosts)
        except Refusal as refusal:
            return refusal_response(refusal)
        return await self._answer(lambda: self._scripting(request))

    async def _answer(self, attempt: Callable[[], Response]) -> Response:
        """The response of `attempt`, retried while another process holds the database; then 503."""
        deadline = time.monotonic() + LOCKED_SECONDS
        while True:
            try:
                with self._instance.store.without_waiting():
                    return attempt()
            except sqlite3.Error as exc:
                if not is_busy(exc) or time.monotonic() >= deadline:
                    message = f"The emulator cannot use its database: {exc}"
                    return error_response(503, "database_unavailable", message)
            await asyncio.sleep(RETRY_SECONDS)

    async def _strike(
        self,
        fault: Fault,
        perform: Callable[[], Awaitable[Response]],
        receive: Receive,
        send: Send,
    ) -> None:
        epoch = self._faults.epoch
        await asyncio.sleep(fault.delay)
        response = await spoilt_answer(fault, perform)
        if fault.kind == "hang":
            while self._faults.epoch == epoch and not await _is_gone(receive, 0.05):
                pass
            await _drop(receive, send)
        elif fault.kind == "drop":
            await _drop(receive, send)
        elif fault.kind == "drip":
            await self._drip(response, fault.pace, receive, send)
        else:
            await self._send(send, response)

    async def _send(self, send: Send, response: Response) -> None:
        if response.status in _WITHOUT_CONTENT:
            response = replace(response, content=b"")
        await send(self._start(response))
        await send({"type": "http.response.body", "body": response.content})

    async def _drip(self, response: Response, pace: float, receive: Receive, send: Send) -> None:
        """Send one byte per `pace` seconds, until all is sent or the client has disconnected."""
        await send(self._start(response))
        for byte in response.content:
            await send({"type": "http.response.body", "body": bytes([byte]), "more_body": True})
            if await _is_gone(receive, pace):
                return
        await send({"type": "http.response.body"})

    def _start(self, response: Response) -> dict[str, Any]:
        # The server would send its own clock's Date, but the emulator's clock may have been moved.
        date = formatdate(self._instance.now_ms() / 1000, usegmt=True)
        headers = {
            "date": date,
            "content-type": response.media_type,
            "content-length": str(len(response.content)),
        }
        if response.status in _WITHOUT_CONTENT:
            del headers["content-length"]
        # A scripted fault's own headers come last and win.
        headers |= {name.lower(): value for name, value in response.headers}
        encoded = [
            (name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()
        ]
        return {"type": "http.response.start", "status": response.status, "headers": encoded}

    def _perform(self, operation: Operation, given: dict[str, str], request: Request) -> Response:
        store = self._instance.store
        try:
            with store.writing() if operation.writes else store.reading() as db:
                response = operation.run(self._checked(operation, given, request, db))
        except InvalidField as invalid:
            return invalid_field_response(invalid, operation.invalid_status)
        except Refusal as refusal:
            return refusal_response(refusal)
        store.write_last_uses()
        return response

    def _checked(
        self, operation: Operation, given: dict[str, str], request: Request, db: sqlite3.Connection
    ) -> CheckedRequest:
        now = self._instance.now_ms()
        holder = _holder(self._instance, db, request.authorization, operation.key, now)
        if request.content is None:
            message = f"Request body is larger than {MAX_BODY_BYTES} bytes"
            raise Refusal(400, "request_body_too_large", message)
        read_path(operation.path_rules, given)
        query = operation.query.read(request.query_string)
        body: dict[str, Any] = {}
        if operation.body is not None:
            body = operation.body.read(request.content, request.media_type)
        return CheckedRequest(
            self._instance, db, now, holder, request.api_version, given, query, body
        )


def _bare(path: str) -> str:
    return path.removeprefix("/v1") if path.startswith("/v1/") else path


def _holder(
    instance: Instance,
    db: sqlite3.Connection,
    authorization: tuple[str, ...],
    rule: KeyRule,
    now: int,
) -> KeyHolder:
    """Return the holder of the request's key; 401 if the operation does not accept that key."""
    if rule == "none":
        return KeyHolder(None)
    key = _bearer(authorization)
    if key == instance.secret_key:
        if rule == "machine":
            message = "A machine secret key is required to create M2M tokens"
            raise Refusal(401, "machine_secret_key_invalid", message)
        return KeyHolder(None)
    machine_id = machine_id_of_secret(db, key, now) if rule != "instance" else None
    if machine_id is None:
        code = "clerk_key_invalid" if rule == "instance" else "machine_secret_key_invalid"
        raise Refusal(401, code, "The secret key is not valid here")
    return KeyHolder(machine_id)


def _bearer(authorization: tuple[str, ...]) -> str:
    scheme, _, key = authorization[0].partition(" ") if authorization else ("", "", "")
    if len(authorization) != 1 or scheme.lower() != "bearer" or not key.strip():
        message = "Authorization must be given once, as Bearer and a secret key"
        raise Refusal(401, "authorization_header_format_invalid", message)
    return key.strip()


async def _is_gone(receive: Receive, seconds: float) -> bool:
    """Wait at most this long for the client to disconnect; return whether it did."""
    try:
        message = await asyncio.wait_for(receive(), seconds)
    except TimeoutError:
        return False
    return bool(message["type"] == "http.disconnect")


async def _drop(receive: Receive, send: Send) -> None:
    """End the connection without an answer.

    ASGI has no message for that, and uvicorn answers 500 for an application that raises; so the
    socket is closed through the object that owns uvicorn's `send`. Anywhere else this raises.
    """
    transport = getattr(getattr(send, "__self__", None), "transport", None)
    if transport is None:
        raise ConnectionDroppedError("the emulator was told to drop this connection")
    transport.abort()
    while (await receive())["type"] != "http.disconnect":
        pass


async def _serve_lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
