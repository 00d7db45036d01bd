"""`MachineAuthMiddleware`: verifies the credential of each request, or refuses the request."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable
from types import MethodType
from typing import Any, TypeAlias

from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from clerk_m2m.asgi.current import MACHINE
from clerk_m2m.asgi.disconnect import ClientGoneError
from clerk_m2m.asgi.excluded import ExcludedPath, ExcludedPaths
from clerk_m2m.asgi.lifespan import fail_start, run_lifespan
from clerk_m2m.asgi.openapi import Protection, describe
from clerk_m2m.asgi.refusals import EXCHANGE, Exchange, answer
from clerk_m2m.asgi.routes import read_routes
from clerk_m2m.asgi.starting import misspelt, refuse_mix_ups, warnings
from clerk_m2m.clock import Clock
from clerk_m2m.credentials import extract, usual_bearer
from clerk_m2m.errors import (
    ConfigurationError,
    MiddlewareMissingError,
    RefusalError,
    TokenInvalidError,
    TokenMissingError,
    TokenTypeNotAcceptedError,
    VerifierMisconfiguredError,
)
from clerk_m2m.identity import Identity, TokenClass
from clerk_m2m.observe.counters import Stats
from clerk_m2m.observe.events import OnEvent
from clerk_m2m.observe.reporter import Reporter, Request
from clerk_m2m.settings import Settings
from clerk_m2m.verification.outcome import CredentialVerifier
from clerk_m2m.verification.verifier import VERIFY, Verifier

logger = logging.getLogger("clerk_m2m")

OnError: TypeAlias = Callable[[HTTPConnection, RefusalError], Response | None]
"""The type of `on_error`: called for each refusal; a response that it returns is sent instead."""

_NOT_OURS = frozenset({TokenClass.SESSION_JWT, TokenClass.UNKNOWN})
_SHARED_STATE = (
    "request.state.machine was set before MachineAuthMiddleware saw the connection. From now on "
    "each connection gets a copy of the state, and middleware outside of MachineAuthMiddleware "
    "does not see request.state.machine. If the server gives several requests one state "
    "(hypercorn before 0.18), upgrade it; if other code sets request.state.machine, rename that."
)
_NO_DENIAL = (
    "This server cannot refuse a WebSocket with an HTTP response (it lacks the ASGI extension "
    "websocket.http.response). A refused WebSocket is closed with code 1008 instead, and its "
    "caller sees a 403 without a body. uvicorn, hypercorn and granian have the extension."
)


class MachineAuthMiddleware:
    """Puts the caller's identity into `request.state.machine`, or refuses the request.

    `settings` None reads the environment; give a `verifier` instead to share one. `required=True`
    refuses a request without a machine credential, except on the paths in `exclude`: `"/healthz"`
    (this path only), `"/static/*"` (all paths below), `("GET", "/healthz")` (one method; GET
    includes HEAD). Without a method, every method and WebSockets are exempt. Entries are compared
    with the path that the app routes by, without `root_path`. With `required=False` such a request
    passes with `request.state.machine = None`, and guards decide. An invalid machine credential is
    refused in both cases. `on_error(connection, refusal)` is called for every refusal. It may
    return another response; None keeps the standard one. `on_event` is called with each `Event`;
    if it is None, the `verifier`'s is. With `report_only=True` every request passes: a refusal is
    only reported, and `request.state.machine` is None. Refusals that guards and handlers raise are
    answered too, unless the app's own exception handler does it. A refusal from a
    `Verifier.verify` that the app calls itself is the app's error, and is not answered here.

    Servers hide errors raised while middleware is made. So invalid settings or arguments do not
    raise here: the start of the service fails with the `ConfigurationError`. It also fails if the
    lifespan state has an entry `machine`. If the server runs no lifespan, every request is answered
    with 503 `verifier_misconfigured`.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings | None = None,
        *,
        verifier: CredentialVerifier | None = None,
        required: bool = True,
        exclude: Iterable[ExcludedPath] = (),
        on_error: OnError | None = None,
        on_event: OnEvent | None = None,
        report_only: bool = False,
    ) -> None:
        self.app = app
        self._required = required
        self._report_only = report_only
        self._on_error: OnError | None = None
        self._stats = Stats()
        self._reporter = Reporter(Clock())
        self._started = False
        self._state_shared = False
        self._said: set[str] = set()
        # The error in the settings or arguments, as text: an exception would keep frames alive.
        self._fault: str | None = None
        try:
            refuse_mix_ups(settings, verifier)
            self._exclude = ExcludedPaths(exclude)
            self._verify_by(verifier or Verifier(settings, on_event=on_event))
            if verifier is not None and on_event is not None:
                self._reporter = Reporter(Clock(), on_event=on_event)
            self._on_error = _synchronous(on_error)
        except ConfigurationError as exc:
            self._fault = f"{exc}{misspelt() if not (settings or verifier) else ''}"

    def _verify_by(self, verifier: CredentialVerifier) -> None:
        self.verifier = verifier
        self._stats = getattr(verifier, "stats", None) or self._stats
        self._reporter = getattr(verifier, "reporter", None) or self._reporter
        header = verifier.settings.api_key_header
        self._api_key_header = header.encode("ascii") if header else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the connection on with an identity, or answer it with a refusal."""
        if not self._started and self._fault is None:
            # Only `scope["app"]` tells which app this belongs to, unless it wraps the app itself.
            self._started = True
            self._start(scope)
        if self._fault is not None:
            await self._refuse_all(self._fault, scope, receive, send)
            return
        if scope["type"] == "lifespan":
            await run_lifespan(
                self.app, scope, receive, send, warm_up=self._warm_up, close=self._close
            )
            return
        exchange = Exchange(scope, receive, send, self.verifier)
        current = None
        admitted = False
        try:
            identity = self._recall(scope) or await self._identify(scope, exchange)
            exchange.admit(identity, copy_state=self._state_shared)
            admitted = True
            current = MACHINE.set(exchange.identity)
            if exchange.has_own_state:
                self._note_shared_state()
            await self.app(scope, exchange.receive, exchange.send)
        except RefusalError as refusal:
            if admitted and refusal.from_verifier:
                # The app called a verifier itself, with a credential that is not its caller's.
                raise
            if not admitted:
                # `on_error` and outer middleware see None as the caller.
                exchange.admit(None, copy_state=self._state_shared)
            await self._refuse(refusal, scope, exchange)
        except ClientGoneError:
            pass  # the connection is closed: no response
        else:
            if exchange.refusal is not None and exchange.status >= 400:
                # The app's own exception handler answered a guard's refusal.
                self._report(exchange.refusal, scope, exchange.status, exchange.identity)
        finally:
            if current is not None:
                MACHINE.reset(current)
            exchange.close()
            if exchange.held:
                await exchange.release()

    def _described_app(self, scope: Scope) -> tuple[Any, Protection | None]:
        """Return the app whose OpenAPI document to extend, and what is protected there.

        If this middleware wraps a mounted app, `scope["app"]` is the outer app, not that one.
        """
        layer = getattr(scope.get("app"), "middleware_stack", None)
        while layer is not None and layer is not self:
            layer = getattr(layer, "app", None)
        app = scope["app"] if layer is self else self.app
        if not hasattr(app, "openapi"):
            return scope.get("app"), None
        settings = self.verifier.settings
        return app, Protection(
            accepts=settings.accepts,
            api_key_header=settings.api_key_header,
            protects=self._protects,
        )

    def _protects(self, method: str, path: str) -> bool:
        request = {"method": method, "path": path, "raw_path": path.encode()}
        return self._required and not self._report_only and not self._exclude.exempt(request)

    async def _identify(self, scope: Scope, exchange: Exchange) -> Identity | None:
        if not self._exclude.is_empty and self._exclude.exempt(scope):
            return None
        try:
            token = extract(scope["headers"], api_key_header=self._api_key_header)
            if token is not None:
                return await self.verifier.verify(token, while_waiting=exchange)
            if self._required:
                raise TokenMissingError(api_key_header=self.verifier.settings.api_key_header)
        except RefusalError as refusal:
            if not self._required and _is_not_ours(refusal):
                return None
            if not self._report_only:
                raise
            self._would_refuse(refusal, scope, exchange)
        return None

    def _recall(self, scope: Scope) -> Identity | None:
        """Return the caller in the usual case: a plain header, a cached verdict; else None."""
        if not self._exclude.is_empty and self._exclude.exempt(scope):
            return None
        verifier = self.verifier
        # A subclass, a tracer or a test may have replaced `verify` by one that refuses more. A
        # wrapper of wrapt passes on the attributes of what it wraps, so its type is compared too.
        asked = verifier.verify
        ours = type(asked) is MethodType and asked.__func__ is VERIFY and asked.__self__ is verifier
        if not (ours and isinstance(verifier, Verifier)):
            return None
        token = usual_bearer(scope["headers"], api_key_header=self._api_key_header)
        return None if token is None else verifier.recall(token)

    async def _refuse(self, refusal: RefusalError, scope: Scope, exchange: Exchange) -> None:
        if exchange.begun and scope["type"] == "http":
            raise refusal  # the response has begun: the server aborts it
        response = self._report(refusal, scope, refusal.status, exchange.identity) or answer(
            refusal
        )
        send = exchange.instead()
        denial = "websocket.http.response" in scope.get("extensions", {}) and not exchange.begun
        if scope["type"] == "websocket" and not denial:
            if not exchange.begun:
                self._say_once(logging.WARNING, _NO_DENIAL)
            await send({"type": "websocket.close", "code": 1008})
        else:
            await response(scope, exchange.receive, send)

    def _would_refuse(self, refusal: RefusalError, scope: Scope, exchange: Exchange) -> None:
        """Report a refusal that `report_only` does not send; the request has no identity."""
        self._stats.would_refuse[refusal.code] += 1
        self._reporter.refused(refusal, _request(scope), status=refusal.status, only_reported=True)
        refusal.from_verifier = False  # a guard may raise it again as its own refusal
        exchange.reported = refusal

    def _report(
        self, refusal: RefusalError, scope: Scope, status: int, identity: Identity | None
    ) -> Response | None:
        self._stats.refusals[refusal.code] += 1
        self._reporter.refused(refusal, _request(scope), status=status, identity=identity)
        if self._on_error is None:
            return None
        given: object = self._on_error(HTTPConnection(scope), refusal)
        if given is None or isinstance(given, Response):
            return given
        if inspect.iscoroutine(given):
            given.close()
        self._say_once(
            logging.ERROR,
            f"on_error returned {type(given).__name__}, which is not used. It must be a plain "
            "function that returns a Starlette Response, or None to keep the standard response.",
        )
        return None

    def _start(self, scope: Scope) -> None:
        describe(*self._described_app(scope))
        app = scope.get("app", self.app)
        routes, self._fault = read_routes(app)
        if self._fault is None:
            settings, graph = self.verifier.settings, getattr(self.verifier, "graph", None)
            for text in warnings(routes, settings, graph, report_only=self._report_only):
                logger.warning("%s", text)

    async def _refuse_all(self, fault: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Fail the start, or refuse every request if the server runs no lifespan."""
        if scope["type"] == "lifespan":
            await fail_start(fault, receive, send)
        self._say_once(
            logging.ERROR,
            f"Every request is refused with 503 verifier_misconfigured until this is corrected: "
            f"{fault}",
        )
        exchange = Exchange(scope, receive, send)
        try:
            await self._refuse(VerifierMisconfiguredError(), scope, exchange)
        finally:
            exchange.close()

    def _say_once(self, level: int, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            logger.log(level, "%s", text)

    def _note_shared_state(self) -> None:
        self._state_shared = True
        self._say_once(logging.WARNING, _SHARED_STATE)

    async def _warm_up(self) -> None:
        if isinstance(self.verifier, Verifier):
            await self.verifier.warm_up()

    async def _close(self) -> None:
        await self.verifier.aclose()
        self._reporter.flush()


def _is_not_ours(refusal: RefusalError) -> bool:
    kinds = TokenInvalidError | TokenTypeNotAcceptedError
    return isinstance(refusal, kinds) and refusal.token_class in _NOT_OURS


def _synchronous(on_error: OnError | None) -> OnError | None:
    if inspect.iscoroutinefunction(on_error):
        raise ConfigurationError("on_error must be a plain function, not a coroutine function.")
    return on_error


def _request(scope: Scope) -> Request:
    """Return the request's data for a report; the reporter cleans what the client chose."""
    agents = [value for name, value in scope["headers"] if name == b"user-agent"]
    client = scope.get("client")
    return Request(
        method=scope.get("method", "WEBSOCKET"),
        path=scope["path"],
        client=None if not client else str(client[0]),
        user_agent=agents[0].decode("latin-1") if agents else None,
    )


def verifier_of(place: Any) -> CredentialVerifier:
    """Return the verifier of a request's innermost `MachineAuthMiddleware`, or of an app's.

    `place` is a connection that is being handled, the middleware itself, or an app after its first
    event (for example in its lifespan). Raises `MiddlewareMissingError` if there is no middleware,
    and `ConfigurationError` if its settings cannot work.
    """
    if isinstance(place, HTTPConnection):
        exchange: Exchange | None = place.scope.get(EXCHANGE)
        if exchange is not None and exchange.verifier is not None:
            found: CredentialVerifier = exchange.verifier
            return found
        place = place.scope.get("app")
    while place is not None:
        if isinstance(place, MachineAuthMiddleware):
            if place._fault is not None:
                raise ConfigurationError(place._fault)
            return place.verifier
        place = getattr(place, "middleware_stack", None) or getattr(place, "app", None)
    raise MiddlewareMissingError(
        "No MachineAuthMiddleware was found. Starlette makes it at the app's first event: call "
        "verifier_of in the lifespan or in a request."
    )
