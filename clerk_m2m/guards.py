"""Guards: what a route asks of the identity that the middleware has established.

A guard is a value, made once. As a FastAPI dependency it is awaited, on HTTP and WebSocket routes
alike; on any Starlette connection call `guard.check(connection)`, or await the guard. It reads what
the innermost `MachineAuthMiddleware` found out, trusts nothing in `connection.state`, and does no
I/O. (It can be awaited because FastAPI runs a synchronous dependency in a worker thread, which
costs more than all the rest of the request here.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from starlette.requests import HTTPConnection

from clerk_m2m._answers import EXCHANGE, Exchange
from clerk_m2m.errors import (
    SCOPE,
    ConfigurationError,
    MiddlewareMissingError,
    PermissionDeniedError,
    RefusalError,
    TokenMissingError,
    TokenTypeNotAcceptedError,
)
from clerk_m2m.identity import (
    MACHINE_ID,
    ApiKeyIdentity,
    Identity,
    MachineIdentity,
    OAuthIdentity,
    TokenType,
)
from clerk_m2m.tokens import extract

if TYPE_CHECKING:
    _SecurityScheme = object
else:
    try:
        # FastAPI shows a dependency in OpenAPI as a security scheme only if it is one of its own.
        from fastapi.security.base import SecurityBase as _SecurityScheme
    except ImportError:  # the extra `fastapi` is not installed: there is no OpenAPI to show it in

        class _SecurityScheme:
            pass


__all__ = ["Guard", "require_any", "require_api_key", "require_machine", "require_oauth"]

T_co = TypeVar("T_co", covariant=True)


class Guard(_SecurityScheme, Generic[T_co]):
    """Asks something of the caller; made by the `require_…` functions.

    `await guard(connection)` and `guard.check(connection)` give the identity or raise a
    `RefusalError` that the middleware answers; `MiddlewareMissingError` where there is none.
    """

    def __init__(
        self, scheme_name: str, description: str, rule: Callable[[Identity], T_co]
    ) -> None:
        # The two names that FastAPI reads of a security scheme.
        self.scheme_name = scheme_name
        self.model: dict[str, Any] = {
            "type": "http",
            "scheme": "bearer",
            "description": description,
        }
        self._rule = rule

    async def __call__(self, connection: HTTPConnection) -> T_co:
        """Give the caller's identity, or refuse."""
        return self.check(connection)

    def check(self, connection: HTTPConnection) -> T_co:
        """Give the caller's identity, or refuse; the same as the call, without `await`."""
        exchange = _exchange(connection)
        try:
            return self.accept(_identity(exchange, connection))
        except RefusalError as refusal:
            exchange.refusal = refusal
            raise

    def accept(self, identity: Identity) -> T_co:
        """Apply the rule to an identity at hand."""
        return self._rule(identity)


def require_machine(*machine_ids: str) -> Guard[MachineIdentity]:
    """Require a machine with an M2M token; one of `machine_ids`, where any are given.

    With none given (mind `*[]`), any machine that may call this service will do.
    Refuses another credential type with 401 `token_type_not_accepted` and another machine with 403
    `permission_denied`. Raises `ConfigurationError` for what is not a machine id.
    """
    for machine_id in machine_ids:
        if not MACHINE_ID.fullmatch(machine_id):
            raise ConfigurationError(f"require_machine({machine_id!r}): not a machine id.")
    allowed = frozenset(machine_ids)

    def rule(identity: Identity) -> MachineIdentity:
        if not isinstance(identity, MachineIdentity):
            raise _other_type(TokenType.M2M_TOKEN)
        if allowed and identity.machine_id not in allowed:
            raise PermissionDeniedError(f"{identity.machine_id} is not among this route's callers.")
        return identity

    return Guard("ClerkM2MToken", "An M2M token of Clerk's, opaque or JWT.", rule)


def require_api_key(*, scopes: Iterable[str] = ()) -> Guard[ApiKeyIdentity]:
    """Require an API key that has all of `scopes`; refuses with 403 `permission_denied`."""
    required = _scopes(scopes)

    def rule(identity: Identity) -> ApiKeyIdentity:
        if not isinstance(identity, ApiKeyIdentity):
            raise _other_type(TokenType.API_KEY)
        _require_scopes(identity, required)
        return identity

    return Guard("ClerkApiKey", "An API key of Clerk's.", rule)


def require_oauth(*, scopes: Iterable[str] = ()) -> Guard[OAuthIdentity]:
    """Require an OAuth access token that has all of `scopes`; refuses with 403."""
    required = _scopes(scopes)

    def rule(identity: Identity) -> OAuthIdentity:
        if not isinstance(identity, OAuthIdentity):
            raise _other_type(TokenType.OAUTH_TOKEN)
        _require_scopes(identity, required)
        return identity

    return Guard("ClerkOAuthToken", "An OAuth access token of Clerk's.", rule)


def require_any(first: Guard[T_co], *others: Guard[T_co]) -> Guard[T_co]:
    """Require what at least one of the guards requires; without `others`, the same as `first`.

    Where all refuse, the refusal that came closest is raised: a missing permission before a wrong
    type of credential.
    """

    def rule(identity: Identity) -> T_co:
        closest: RefusalError | None = None
        for guard in (first, *others):
            try:
                return guard.accept(identity)
            except RefusalError as refusal:
                if closest is None or refusal.status > closest.status:
                    closest = refusal
        assert closest is not None  # noqa: S101  there is at least one guard
        raise closest

    return Guard("ClerkCredential", "A machine credential of Clerk's.", rule)


def _exchange(connection: HTTPConnection) -> Exchange:
    exchange: Exchange | None = connection.scope.get(EXCHANGE)
    if exchange is None:
        raise MiddlewareMissingError(
            "This guard needs MachineAuthMiddleware in front of the app, and a request that is "
            "still being handled: app.add_middleware(MachineAuthMiddleware)."
        )
    return exchange


def _identity(exchange: Exchange, connection: HTTPConnection) -> Identity:
    if exchange.identity is None:
        raise _none_of_ours(connection)
    return exchange.identity


def _none_of_ours(connection: HTTPConnection) -> RefusalError:
    """Tell a credential that is not a machine's from none at all."""
    if extract(connection.scope["headers"]) is None:
        return TokenMissingError()
    return TokenTypeNotAcceptedError("This route takes a machine credential.")


def _other_type(wanted: TokenType) -> TokenTypeNotAcceptedError:
    return TokenTypeNotAcceptedError(f"This route takes a credential of the type {wanted}.")


def _scopes(scopes: Iterable[str]) -> tuple[str, ...]:
    if isinstance(scopes, str):
        raise ConfigurationError("scopes must be a list of scopes, not one string.")
    required = tuple(scopes)
    for scope in required:
        if not SCOPE.fullmatch(scope):
            raise ConfigurationError(f"{scope!r} is not a scope (RFC 6749 section 3.3).")
    return required


def _require_scopes(identity: ApiKeyIdentity | OAuthIdentity, required: tuple[str, ...]) -> None:
    missing = [scope for scope in required if scope not in identity.scopes]
    if missing:
        raise PermissionDeniedError(
            f"The credential lacks: {' '.join(missing)}.", required_scopes=required
        )
