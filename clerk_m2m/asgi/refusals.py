"""How a connection is answered: one `Exchange` for each, and the answer to a refusal.

A refusal becomes an RFC 9457 body and an RFC 6750 challenge, never with a secret in them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Awaitable, Sequence
from http import HTTPStatus
from types import TracebackType
from typing import Any, Final

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from clerk_m2m.asgi.disconnect import Watch
from clerk_m2m.errors import (
    SCOPE,
    PermissionDeniedError,
    RefusalError,
    VerificationUnavailableError,
)
from clerk_m2m.identity import Identity

# Where a connection's `Exchange` is found: in its ASGI scope, and in the dict behind
# `request.state`, there to tell whether the server gives that dict to other connections too.
EXCHANGE: Final = "clerk_m2m.exchange"

_BEGINNINGS = frozenset(
    {"http.response.start", "websocket.accept", "websocket.http.response.start"}
)


class Exchange:
    """One connection: the `send` that the app gets, and what guards read and note.

    Guards take the identity from here, never from `request.state`, and note what they refuse in
    `refusal`. A mounted or wrapped Starlette app has its own ServerErrorMiddleware, which sends a
    500 and then raises again. After a guard has refused, a 500 is therefore held back until the app
    has returned, so that the refusal can be sent instead. `status` is that of the app's own answer
    after a guard has refused, 0 if there is none.
    """

    __slots__ = (
        "_outer",
        "_scope",
        "_send",
        "_state",
        "_state_shared",
        "_watch",
        "begun",
        "has_own_state",
        "held",
        "identity",
        "receive",
        "refusal",
        "reported",
        "status",
        "verifier",
    )

    def __init__(self, scope: Scope, receive: Receive, send: Send, verifier: Any = None) -> None:
        self._scope = scope
        self.receive = receive
        self._watch: Watch | None = None
        self._send = send
        # Another MachineAuthMiddleware may stand further out on the same connection.
        self._outer: Exchange | None = scope.get(EXCHANGE)
        scope[EXCHANGE] = self
        self.begun = False
        self.held: Sequence[Message] = ()
        self.identity: Identity | None = None
        self.refusal: RefusalError | None = None
        self.status = 0
        # What `report_only` has let pass, and whose decision it was.
        self.reported: RefusalError | None = None
        self.verifier = verifier
        self.has_own_state = False
        self._state: dict[str, Any] | None = None
        self._state_shared = False

    def send(self, message: Message) -> Awaitable[None]:
        """Pass on what the app answers, unless a guard has refused."""
        if self.refusal is not None:
            return self._send_after_refusal(message)
        if not self.begun:
            self.begun = message["type"] in _BEGINNINGS
        return self._send(message)

    def admit(self, identity: Identity | None, *, copy_state: bool = False) -> None:
        """Show guards and handlers who is calling; None is nobody with a machine credential.

        `copy_state`: leave the dict of `request.state` alone and write to a copy, because the
        server has been seen to share it between connections.
        """
        self.identity = identity
        try:
            state: dict[str, Any] = self._scope["state"]
        except KeyError:
            state = self._scope["state"] = {}
        if self._outer is None:
            if copy_state or "machine" in state or state.get(EXCHANGE) is not None:
                state = self._copied(state)
            else:
                state[EXCHANGE] = self
        state["machine"] = identity
        self._state = state

    async def __aenter__(self) -> None:
        """While the verification waits, notice that the client has gone."""
        self._watch = Watch(self._scope, self.receive)
        self.receive = self._watch.receive
        self._watch.start()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._watch is not None:
            self._watch.stop(exc)

    def close(self) -> None:
        """Take this exchange out of the scope and the state again, when the app has returned.

        Left there, it would tie the scope and the server's `send` into a reference cycle.
        """
        self._scope[EXCHANGE] = self._outer
        if self._watch is not None:
            self._watch.close()
        if self._state is None:
            return
        if self._outer is not None:
            self._state["machine"] = self._outer.identity
        elif not self.has_own_state:
            self._state[EXCHANGE] = None
            if self._state_shared:
                self._state.pop("machine", None)

    async def release(self) -> None:
        """Send what was held back after all."""
        held, self.held = self.held, ()
        for message in held:
            self.begun = True
            await self._send(message)

    def instead(self) -> Send:
        """Discard the 500 that was held back, and give the `send` for another answer."""
        self.held = ()
        return self._send

    async def _send_after_refusal(self, message: Message) -> None:
        if message["type"] == "websocket.close" and not self.begun:
            self.status = 403  # what a server answers to a close before accept (ASGI, WebSocket)
        self.status = message.get("status", self.status)
        if self.held or message.get("status") == 500:
            self.held = (*self.held, message)
            if message.get("more_body") and not _has_length(self.held[0]):
                await self.release()
        else:
            self.begun = self.begun or message["type"] in _BEGINNINGS
            await self._send(message)

    def _copied(self, state: dict[str, Any]) -> dict[str, Any]:
        """Leave the dict behind `request.state` to the connection that has it, and give a copy.

        hypercorn before 0.18 gives one dict to all requests of a connection, also to those that
        run at the same time. The value of the first is removed when its app returns, or now if it
        has returned, so that nobody else reads it there.
        """
        self.has_own_state = True
        own = self._scope["state"] = {name: state[name] for name in state if name != EXCHANGE}
        first: Exchange | None = state.get(EXCHANGE)
        if first is not None:
            first._state_shared = True
        elif EXCHANGE in state:  # set by a connection whose app has returned
            state.pop("machine", None)
        return own


def _has_length(start: Message) -> bool:
    # An answer of known length is no stream, even where BaseHTTPMiddleware sends it in pieces.
    return any(name.lower() == b"content-length" for name, _ in start.get("headers", ()))


def answer(refusal: RefusalError) -> Response:
    """Give the answer to a refused request as a response of Starlette's."""
    status, headers, body = refusal_answer(refusal)
    return Response(body, status, headers)


def refusal_answer(refusal: RefusalError) -> tuple[int, dict[str, str], bytes]:
    """Give the status, the headers and the body that answer a refused request, as the middleware
    does; for other frameworks than Starlette's.

    The body is `application/problem+json` in UTF-8 (RFC 9457) without a secret in it. Its `code` is
    the extension member to branch on; without `type`, RFC 9457 section 4.2.1 wants the status
    phrase as the title.
    """
    problem = {
        "title": HTTPStatus(refusal.status).phrase,
        "status": refusal.status,
        "detail": refusal.detail,
        "code": refusal.code,
    }
    body = json.dumps(problem, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return refusal.status, _headers(refusal), body.encode("utf-8")


def challenge(refusal: RefusalError) -> str:
    """Give the value of `WWW-Authenticate` (RFC 6750 section 3)."""
    parts = [f'error="{refusal.bearer_error}"'] if refusal.bearer_error else []
    if isinstance(refusal, PermissionDeniedError):
        # An app may raise one itself, with anything in it.
        scopes = [scope for scope in refusal.required_scopes if SCOPE.fullmatch(scope)]
        parts += [f'scope="{" ".join(scopes)}"'] if scopes else []
    return " ".join(["Bearer", ", ".join(parts)]).rstrip()


def _headers(refusal: RefusalError) -> dict[str, str]:
    headers = {"Content-Type": "application/problem+json", "Cache-Control": "no-store"}
    if refusal.challenged:
        headers["WWW-Authenticate"] = challenge(refusal)
    if isinstance(refusal, VerificationUnavailableError):
        headers["Retry-After"] = str(max(1, math.ceil(refusal.retry_after)))
    return headers
