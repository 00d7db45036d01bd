"""The state of one connection (`Exchange`), and the response to a refusal.

A refusal becomes an RFC 9457 body and an RFC 6750 challenge. Neither ever contains a secret.
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

# The key of a connection's `Exchange` in its ASGI scope, and in the dict behind `request.state`. In
# that dict it shows whether the server gives the same dict to other connections too.
EXCHANGE: Final = "clerk_m2m.exchange"

_BEGINNINGS = frozenset(
    {"http.response.start", "websocket.accept", "websocket.http.response.start"}
)


class Exchange:
    """The state of one connection: the caller's identity, a guard's refusal, and the app's `send`.

    Guards take the identity from here, never from `request.state`, and record what they refuse in
    `refusal`. A mounted or wrapped Starlette app has its own ServerErrorMiddleware, which sends a
    500 and then raises again. After a guard has refused, a 500 is therefore held back until the app
    has returned. The refusal can then be sent instead. `status` is the status of the app's own
    response after a guard has refused, 0 if there is none.
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
        # Another MachineAuthMiddleware may be further out on the same connection.
        self._outer: Exchange | None = scope.get(EXCHANGE)
        scope[EXCHANGE] = self
        self.begun = False
        self.held: Sequence[Message] = ()
        self.identity: Identity | None = None
        self.refusal: RefusalError | None = None
        self.status = 0
        # The refusal that `report_only` did not send.
        self.reported: RefusalError | None = None
        self.verifier = verifier
        self.has_own_state = False
        self._state: dict[str, Any] | None = None
        self._state_shared = False

    def send(self, message: Message) -> Awaitable[None]:
        """Pass on a message of the app's response; after a guard's refusal, a 500 is held back."""
        if self.refusal is not None:
            return self._send_after_refusal(message)
        if not self.begun:
            self.begun = message["type"] in _BEGINNINGS
        return self._send(message)

    def admit(self, identity: Identity | None, *, copy_state: bool = False) -> None:
        """Publish the caller's identity to guards and handlers; None without a machine credential.

        With `copy_state`, the identity is written to a copy of the dict of `request.state`, because
        the server was seen to share that dict between connections.
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
        """Watch for a disconnect of the client while the verification waits."""
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
        """Remove this exchange from the scope and the state, after the app has returned.

        Otherwise the exchange, the scope and the server's `send` would form a reference cycle.
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
        """Send the messages that were held back."""
        held, self.held = self.held, ()
        for message in held:
            self.begun = True
            await self._send(message)

    def instead(self) -> Send:
        """Discard the 500 that was held back, and return the server's `send`."""
        self.held = ()
        return self._send

    async def _send_after_refusal(self, message: Message) -> None:
        if message["type"] == "websocket.close" and not self.begun:
            self.status = 403  # servers answer a close before accept with 403 (ASGI, WebSocket)
        self.status = message.get("status", self.status)
        if self.held or message.get("status") == 500:
            self.held = (*self.held, message)
            if message.get("more_body") and not _has_length(self.held[0]):
                await self.release()
        else:
            self.begun = self.begun or message["type"] in _BEGINNINGS
            await self._send(message)

    def _copied(self, state: dict[str, Any]) -> dict[str, Any]:
        """Use a copy of the dict behind `request.state`, because others may use the same dict.

        hypercorn before 0.18 gives one dict to all requests of a connection, also to concurrent
        ones. The first request's identity must not be read by others. It is removed from the dict
        when the first app returns, or here if that app has returned already.
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
    # A response with a known length is not a stream, even if BaseHTTPMiddleware splits its body.
    return any(name.lower() == b"content-length" for name, _ in start.get("headers", ()))


def answer(refusal: RefusalError) -> Response:
    """Return the response to a refused request as a Starlette `Response`."""
    status, headers, body = refusal_answer(refusal)
    return Response(body, status, headers)


def refusal_answer(refusal: RefusalError) -> tuple[int, dict[str, str], bytes]:
    """Return the status, headers and body of the middleware's response to a refused request.

    For frameworks other than Starlette. The body is `application/problem+json` in UTF-8 (RFC 9457)
    and contains no secret. Clients should branch on its extension member `code`. It has no `type`,
    so RFC 9457 section 4.2.1 requires the status phrase as the title.
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
    """Return the value of `WWW-Authenticate` (RFC 6750 section 3)."""
    parts = [f'error="{refusal.bearer_error}"'] if refusal.bearer_error else []
    if isinstance(refusal, PermissionDeniedError):
        # An app may raise this error itself, with scopes that are not valid in the header.
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
