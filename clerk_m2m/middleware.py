"""`MachineAuthMiddleware`: ASGI in, identity or refusal out."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeAlias

from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clerk_m2m._answers import answer
from clerk_m2m.config import Settings
from clerk_m2m.errors import (
    ConfigurationError,
    RefusalError,
    TokenInvalidError,
    TokenMissingError,
    TokenTypeNotAcceptedError,
    VerificationUnavailableError,
)
from clerk_m2m.identity import Identity
from clerk_m2m.openapi import describe_refusals
from clerk_m2m.tokens import TokenClass, classify, extract
from clerk_m2m.verifier import Verifier

logger = logging.getLogger("clerk_m2m")

OnError: TypeAlias = Callable[[HTTPConnection, RefusalError], Response | None]

_NOT_OURS = frozenset({TokenClass.SESSION_JWT, TokenClass.UNKNOWN})
_BEGINNINGS = frozenset(
    {"http.response.start", "websocket.accept", "websocket.http.response.start"}
)


class MachineAuthMiddleware:
    """Puts the caller's identity into `request.state.machine`, or refuses the request.

    `settings` None reads the environment; give a `verifier` instead to share one. `required=True`
    refuses a request with no machine credential, save on the `exclude`d paths, which are compared
    with the request's whole path exactly. `required=False` lets it pass with
    `request.state.machine = None`, for guards to decide; a machine credential that is invalid is
    refused either way. `on_error(connection, refusal)` is told of every refusal and may give
    another answer; None keeps the standard one. Raises `ConfigurationError`.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings | None = None,
        *,
        verifier: Verifier | None = None,
        required: bool = True,
        exclude: Iterable[str] = (),
        on_error: OnError | None = None,
    ) -> None:
        if settings is not None and verifier is not None:
            raise ConfigurationError("Give MachineAuthMiddleware settings or a verifier, not both.")
        self.app = app
        self.verifier = verifier or _verifier(settings)
        self._required = required
        self._exclude = _paths(exclude)
        self._on_error = _synchronous(on_error)
        header = self.verifier.settings.api_key_header
        self._api_key_header = header.encode("ascii") if header else None
        self._described = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the connection on with an identity, or answer it with a refusal."""
        if not self._described:
            # Here, not at construction: only a scope knows which application this stands in, unless
            # it stands around one.
            self._described = True
            describe_refusals(scope.get("app", self.app))
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
            return
        replying = _Reply(send)
        try:
            machine = await self._identify(scope)
            # A dict of its own: a server that shares one between the requests of a connection (as
            # hypercorn did before 0.18) would hand one caller's identity to another's handler.
            scope["state"] = {**scope.get("state", {}), "machine": machine}
            # A guard in the app refuses by raising too, and is answered like any other refusal.
            await self.app(scope, receive, replying)
        except RefusalError as refusal:
            await self._refuse(refusal, scope, receive, replying)
        finally:
            if replying.held:
                await replying.release()

    async def _identify(self, scope: Scope) -> Identity | None:
        if scope["path"] in self._exclude:
            return None
        token = extract(scope["headers"], api_key_header=self._api_key_header)
        if token is None:
            if self._required:
                raise TokenMissingError
            return None
        try:
            return await self.verifier.verify(token)
        except (TokenInvalidError, TokenTypeNotAcceptedError):
            if self._required or classify(token) not in _NOT_OURS:
                raise
            return None

    async def _refuse(
        self, refusal: RefusalError, scope: Scope, receive: Receive, replying: _Reply
    ) -> None:
        if replying.begun and scope["type"] == "http":
            raise refusal  # too late to answer: the server ends the response
        _log(refusal, scope)
        given = self._on_error(HTTPConnection(scope), refusal) if self._on_error else None
        response = given or answer(refusal)
        send = replying.instead()
        denial = "websocket.http.response" in scope.get("extensions", {}) and not replying.begun
        if scope["type"] == "websocket" and not denial:
            await send({"type": "websocket.close", "code": 1008})
        else:
            await response(scope, receive, send)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def closing_send(message: Message) -> None:
            # Before the server hears that shutdown is complete: after that its loop may stop.
            if message["type"] in ("lifespan.shutdown.complete", "lifespan.shutdown.failed"):
                await self.verifier.aclose()
            await send(message)

        await self.app(scope, receive, closing_send)


class _Reply:
    """The `send` of one connection: knows whether the app's reply has begun, and holds back a 500.

    An application that stands inside (mounted, or wrapped) answers an exception with 500 before it
    lets it out, a guard's refusal too. Held back, that answer gives way to the refusal's own.
    """

    __slots__ = ("_send", "begun", "held")

    def __init__(self, send: Send) -> None:
        self._send = send
        self.begun = False
        self.held: list[Message] = []

    def __call__(self, message: Message) -> Awaitable[None]:
        if self.held or message.get("status") == 500:
            return self._hold(message)
        self.begun = self.begun or message["type"] in _BEGINNINGS
        return self._send(message)

    async def _hold(self, message: Message) -> None:
        self.held.append(message)
        if message.get("more_body"):
            await self.release()

    async def release(self) -> None:
        """Send what was held back after all."""
        held, self.held = self.held, []
        for message in held:
            self.begun = True
            await self._send(message)

    def instead(self) -> Send:
        """Give the way to answer in place of what was held back."""
        self.held = []
        return self._send


def _verifier(settings: Settings | None) -> Verifier:
    try:
        return Verifier(settings)
    except ConfigurationError as exc:
        # Starlette builds middleware when the server starts, where uvicorn may hide what is raised.
        logger.critical("This service cannot start: %s", exc)
        raise


def _synchronous(on_error: OnError | None) -> OnError | None:
    if inspect.iscoroutinefunction(on_error):
        raise ConfigurationError("on_error must be a plain function, not a coroutine function.")
    return on_error


def _paths(exclude: Iterable[str]) -> frozenset[str]:
    if isinstance(exclude, str):
        raise ConfigurationError("exclude must be a list of paths, not one string.")
    paths = frozenset(exclude)
    for path in paths:
        if not path.startswith("/"):
            raise ConfigurationError(f"exclude: the path {path!r} must begin with a slash.")
    return paths


def _log(refusal: RefusalError, scope: Scope) -> None:
    """One line per refusal; the path is quoted, since its caller wrote it."""
    level = logging.WARNING if isinstance(refusal, VerificationUnavailableError) else logging.INFO
    cause = f" ({refusal.__cause__})" if refusal.__cause__ else ""
    logger.log(
        level,
        "Refused %s %r with %d %s: %s%s",
        scope.get("method", "WEBSOCKET"),
        scope["path"],
        refusal.status,
        refusal.code,
        refusal.detail,
        cause,
    )
