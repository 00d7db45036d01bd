"""`MachineAuthMiddleware`: ASGI in, identity or refusal out."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clerk_m2m.asgi.current import MACHINE
from clerk_m2m.asgi.disconnect import ClientGoneError
from clerk_m2m.asgi.openapi import describe_refusals
from clerk_m2m.asgi.refusals import EXCHANGE, Exchange, answer
from clerk_m2m.asgi.report_only import warning
from clerk_m2m.clock import Clock
from clerk_m2m.credentials import extract
from clerk_m2m.errors import (
    ConfigurationError,
    MiddlewareMissingError,
    RefusalError,
    TokenInvalidError,
    TokenMissingError,
    TokenTypeNotAcceptedError,
)
from clerk_m2m.identity import Identity, TokenClass
from clerk_m2m.observe.counters import Stats
from clerk_m2m.observe.events import OnEvent
from clerk_m2m.observe.reporter import Reporter, Request
from clerk_m2m.settings import Settings
from clerk_m2m.verification.outcome import CredentialVerifier
from clerk_m2m.verification.verifier import Verifier

logger = logging.getLogger("clerk_m2m")

OnError: TypeAlias = Callable[[HTTPConnection, RefusalError], Response | None]

_NOT_OURS = frozenset({TokenClass.SESSION_JWT, TokenClass.UNKNOWN})
_SHARED_STATE = (
    "request.state.machine was set before MachineAuthMiddleware saw the connection. From now on "
    "each connection gets a copy of the state, and middleware outside of MachineAuthMiddleware "
    "does not see request.state.machine. If the server gives several requests one state "
    "(hypercorn before 0.18), upgrade it; if other code sets request.state.machine, rename that."
)
_LIFESPAN_STATE = (
    "The lifespan state has an entry `machine`, which is where MachineAuthMiddleware puts the "
    "caller's identity. Rename the entry."
)


class MachineAuthMiddleware:
    """Puts the caller's identity into `request.state.machine`, or refuses the request.

    `settings` None reads the environment; give a `verifier` instead to share one. `required=True`
    refuses a request with no machine credential, save on the `exclude`d paths, which are compared
    with the request's whole path exactly. `required=False` lets it pass with
    `request.state.machine = None`, for guards to decide; a machine credential that is invalid is
    refused either way. `on_error(connection, refusal)` is told of every refusal and may give
    another answer; None keeps the standard one. `on_event` is called
    with each `Event`; where it is None, the `verifier`'s is.
    With `report_only=True` every request
    passes this middleware; what it would refuse is reported, and `request.state.machine` is
    None. What an exception handler of the app answers to a
    guard's refusal is kept. Refusals of guards and those that a handler raises by hand are answered
    too; one from a `Verifier.verify` that the app calls is the app's own error. Raises
    `ConfigurationError`, when the app starts also for a lifespan state with a `machine`.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings | None = None,
        *,
        verifier: CredentialVerifier | None = None,
        required: bool = True,
        exclude: Iterable[str] = (),
        on_error: OnError | None = None,
        on_event: OnEvent | None = None,
        report_only: bool = False,
    ) -> None:
        if settings is not None and verifier is not None:
            raise ConfigurationError("Give MachineAuthMiddleware settings or a verifier, not both.")
        self.app = app
        self.verifier: CredentialVerifier = verifier or _verifier(settings, on_event)
        self._required = required
        self._exclude = _paths(exclude)
        self._on_error = _synchronous(on_error)
        self._report_only = report_only
        self._stats: Stats = getattr(self.verifier, "stats", None) or Stats()
        shared = getattr(self.verifier, "reporter", None)
        self._reporter: Reporter = (
            Reporter(Clock(), on_event=on_event)
            if shared is None or (verifier is not None and on_event is not None)
            else shared
        )
        header = self.verifier.settings.api_key_header
        self._api_key_header = header.encode("ascii") if header else None
        self._described = False
        self._state_shared = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the connection on with an identity, or answer it with a refusal."""
        if not self._described:
            # Here, not at construction: only a scope knows which application this stands in, unless
            # it stands around one.
            self._described = True
            describe_refusals(scope.get("app", self.app))
            if self._report_only:
                logger.warning("%s", warning(scope.get("app", self.app)))
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
            return
        exchange = Exchange(scope, receive, send, self.verifier)
        current = None
        admitted = False
        try:
            exchange.admit(await self._identify(scope, exchange), copy_state=self._state_shared)
            admitted = True
            current = MACHINE.set(exchange.identity)
            if exchange.has_own_state:
                self._note_shared_state()
            await self.app(scope, exchange.receive, exchange)
        except RefusalError as refusal:
            if admitted and refusal.from_verifier:
                # The app asked a verifier itself, about another credential than its caller's.
                raise
            if not admitted:
                exchange.admit(
                    None, copy_state=self._state_shared
                )  # `on_error` and outer middleware see nobody
            await self._refuse(refusal, scope, exchange)
        except ClientGoneError:
            pass  # there is nobody to answer
        else:
            if exchange.refusal is not None and exchange.status >= 400:
                # The app answered a guard's refusal itself, by an exception handler of its own.
                self._report(exchange.refusal, scope, exchange.status, exchange.identity)
        finally:
            if current is not None:
                MACHINE.reset(current)
            exchange.close()
            if exchange.held:
                await exchange.release()

    async def _identify(self, scope: Scope, exchange: Exchange) -> Identity | None:
        if scope["path"] in self._exclude:
            return None
        try:
            token = extract(scope["headers"], api_key_header=self._api_key_header)
            if token is not None:
                return await self.verifier.verify(token, while_waiting=exchange)
            if self._required:
                raise TokenMissingError
        except RefusalError as refusal:
            if not self._required and _is_not_ours(refusal):
                return None
            if not self._report_only:
                raise
            self._would_refuse(refusal, scope, exchange)
        return None

    async def _refuse(self, refusal: RefusalError, scope: Scope, exchange: Exchange) -> None:
        if exchange.begun and scope["type"] == "http":
            raise refusal  # too late to answer: the server ends the response
        response = self._report(refusal, scope, refusal.status, exchange.identity) or answer(
            refusal
        )
        send = exchange.instead()
        denial = "websocket.http.response" in scope.get("extensions", {}) and not exchange.begun
        if scope["type"] == "websocket" and not denial:
            await send({"type": "websocket.close", "code": 1008})
        else:
            await response(scope, exchange.receive, send)

    def _would_refuse(self, refusal: RefusalError, scope: Scope, exchange: Exchange) -> None:
        """Report what `report_only` lets pass, as nobody."""
        self._stats.would_refuse[refusal.code] += 1
        self._reporter.refused(refusal, _request(scope), status=refusal.status, only_reported=True)
        refusal.from_verifier = False  # a guard may raise it again, as its own
        exchange.reported = refusal

    def _report(
        self, refusal: RefusalError, scope: Scope, status: int, identity: Identity | None
    ) -> Response | None:
        self._stats.refusals[refusal.code] += 1
        self._reporter.refused(refusal, _request(scope), status=status, identity=identity)
        return self._on_error(HTTPConnection(scope), refusal) if self._on_error else None

    def _note_shared_state(self) -> None:
        if not self._state_shared:
            self._state_shared = True
            logger.warning(_SHARED_STATE)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        state: dict[str, Any] = scope.get("state", {})
        refused = False

        async def watching_send(message: Message) -> None:
            nonlocal refused
            kind = message["type"]
            if kind == "lifespan.startup.complete" and "machine" in state:
                refused = True
                await send({"type": "lifespan.startup.failed", "message": _LIFESPAN_STATE})
                raise ConfigurationError(_LIFESPAN_STATE)
            if refused:
                return  # the app reports the error just raised, and the server has been told
            # Before the server hears that shutdown is complete: after that its loop may stop.
            if kind in ("lifespan.shutdown.complete", "lifespan.shutdown.failed"):
                await self.verifier.aclose()
                self._reporter.flush()
            await send(message)

        await self.app(scope, receive, watching_send)


def _verifier(settings: Settings | None, on_event: OnEvent | None) -> Verifier:
    try:
        return Verifier(settings, on_event=on_event)
    except ConfigurationError as exc:
        # Starlette builds middleware when the server starts, where uvicorn may hide what is raised.
        logger.critical("This service cannot start: %s", exc)
        raise


def _is_not_ours(refusal: RefusalError) -> bool:
    kinds = TokenInvalidError | TokenTypeNotAcceptedError
    return isinstance(refusal, kinds) and refusal.token_class in _NOT_OURS


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


def _request(scope: Scope) -> Request:
    """Give what is told of a request; the reporter cleans what its sender wrote."""
    agents = [value for name, value in scope["headers"] if name == b"user-agent"]
    client = scope.get("client")
    return Request(
        method=scope.get("method", "WEBSOCKET"),
        path=scope["path"],
        client=None if not client else str(client[0]),
        user_agent=agents[0].decode("latin-1") if agents else None,
    )


def verifier_of(place: Any) -> CredentialVerifier:
    """Give the verifier of a request's innermost `MachineAuthMiddleware`, or of an app's.

    `place` is a connection that is being handled, the middleware itself, or an app after its first
    event (a lifespan will do). Raises `MiddlewareMissingError` where there is none.
    """
    if isinstance(place, HTTPConnection):
        exchange: Exchange | None = place.scope.get(EXCHANGE)
        if exchange is not None and exchange.verifier is not None:
            found: CredentialVerifier = exchange.verifier
            return found
        place = place.scope.get("app")
    while place is not None:
        if isinstance(place, MachineAuthMiddleware):
            return place.verifier
        place = getattr(place, "middleware_stack", None) or getattr(place, "app", None)
    raise MiddlewareMissingError(
        "No MachineAuthMiddleware is found here. Starlette makes it at the app's first event: ask "
        "in the lifespan or in a request."
    )
