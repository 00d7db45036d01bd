"""Guards: what a route asks of the identity that the middleware has established.

A guard is a value, made once. As a FastAPI dependency it is awaited, on HTTP and WebSocket routes
alike; on any Starlette connection call `guard.check(connection)`, or await the guard. It reads what
the innermost `MachineAuthMiddleware` found out, trusts nothing in `connection.state`, and does no
I/O. (It can be awaited because FastAPI runs a synchronous dependency in a worker thread, which
costs more than all the rest of the request here.)

`Depends(require_api_key)`, without parentheses, would make a guard on each request and ask nothing.
FastAPI takes the parameters of such a function for fields of the request and asks pydantic for
their schema when it reads the route; `_NotADependency` in their annotations refuses there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final, Generic, TypeVar

from starlette.requests import HTTPConnection

from clerk_m2m.asgi.refusals import EXCHANGE, Exchange
from clerk_m2m.credentials import extract
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

if TYPE_CHECKING:
    from fastapi.security import SecurityScopes

    _SecurityScheme = object
else:
    try:
        from fastapi.security import SecurityScopes

        # FastAPI shows a dependency in OpenAPI as a security scheme only if it is one of its own.
        from fastapi.security.base import SecurityBase as _SecurityScheme
    except ImportError:  # the extra `fastapi` is not installed: there is no OpenAPI to show it in

        class _SecurityScheme:
            pass

        class SecurityScopes:
            scopes = ()


__all__ = ["Guard", "require_any", "require_api_key", "require_machine", "require_oauth"]

T_co = TypeVar("T_co", covariant=True)

_NO_SCOPES: Final = SecurityScopes()


class Guard(_SecurityScheme, Generic[T_co]):
    """Asks something of the caller; made by the `require_…` functions.

    `await guard(connection)` and `guard.check(connection)` give the identity or raise a
    `RefusalError` that the middleware answers; `MiddlewareMissingError` where there is none.
    With FastAPI's `Security(guard, scopes=[…])`, those scopes are required too: `rule` is called
    with the identity and with the scopes that the route wants besides the guard's own.
    """

    def __init__(
        self,
        scheme_name: str,
        description: str,
        rule: Callable[[Identity, Sequence[str]], T_co],
        *,
        takes_scopes: bool,
    ) -> None:
        # The two names that FastAPI reads of a security scheme.
        self.scheme_name = scheme_name
        self.model: dict[str, Any] = {
            "type": "http",
            "scheme": "bearer",
            "description": description,
        }
        self._takes_scopes = takes_scopes
        self._rule = rule

    async def __call__(
        self, connection: HTTPConnection, security_scopes: SecurityScopes = _NO_SCOPES
    ) -> T_co:
        """Give the caller's identity, or refuse.

        FastAPI gives the scopes of `Security(…)` around this guard; they are required too. Raises
        `ConfigurationError`, whoever calls, if the guard is for a credential without permissions.
        """
        if security_scopes.scopes and not self._takes_scopes:
            raise ConfigurationError(
                f"Security(…, scopes={security_scopes.scopes!r}) around a guard that lets in only "
                "machines: an M2M token has no permissions. Use Depends, and name the machines: "
                "require_machine(*machine_ids)."
            )
        return self._check(connection, security_scopes.scopes)

    def check(self, connection: HTTPConnection) -> T_co:
        """Give the caller's identity, or refuse; the same as the call, without `await`."""
        return self._check(connection, ())

    def accept(self, identity: Identity) -> T_co:
        """Apply the rule to an identity at hand."""
        return self._rule(identity, ())

    def _check(self, connection: HTTPConnection, more_scopes: Sequence[str]) -> T_co:
        exchange = _exchange(connection)
        try:
            return self._rule(_identity(exchange, connection), more_scopes)
        except RefusalError as refusal:
            exchange.refusal = refusal
            raise


class _NotADependency:
    """Refuses `Depends(require_…)` without parentheses, when FastAPI reads the route."""

    def __init__(self, written: str) -> None:
        self._written = written

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        name = self._written.partition("(")[0]
        raise ConfigurationError(
            f"Depends({name}) without parentheses makes a guard and never asks it. "
            f"Write Depends({self._written}); the same with Security."
        )


def require_machine(
    *machine_ids: Annotated[str, _NotADependency("require_machine()")],
) -> Guard[MachineIdentity]:
    """Require a machine with an M2M token; one of `machine_ids`, where any are given.

    With none given (mind `*[]`), any machine that may call this service will do.
    Refuses another credential type with 401 `token_type_not_accepted` and another machine with 403
    `permission_denied`. Raises `ConfigurationError` for what is not a machine id.
    """
    for machine_id in machine_ids:
        if not MACHINE_ID.fullmatch(machine_id):
            raise ConfigurationError(f"require_machine({machine_id!r}): not a machine id.")
    allowed = frozenset(machine_ids)

    def rule(identity: Identity, more_scopes: Sequence[str]) -> MachineIdentity:
        if not isinstance(identity, MachineIdentity):
            raise _other_type(TokenType.M2M_TOKEN)
        if allowed and identity.machine_id not in allowed:
            raise PermissionDeniedError(f"{identity.machine_id} is not among this route's callers.")
        return identity

    return Guard(
        "ClerkM2MToken", "An M2M token of Clerk's, opaque or JWT.", rule, takes_scopes=False
    )


def require_api_key(
    *, scopes: Annotated[Iterable[str], _NotADependency("require_api_key()")] = ()
) -> Guard[ApiKeyIdentity]:
    """Require an API key that has all of `scopes`; refuses with 403 `permission_denied`."""
    required = _scopes(scopes)

    def rule(identity: Identity, more_scopes: Sequence[str]) -> ApiKeyIdentity:
        if not isinstance(identity, ApiKeyIdentity):
            raise _other_type(TokenType.API_KEY)
        _require_scopes(identity, (*required, *more_scopes))
        return identity

    return Guard("ClerkApiKey", "An API key of Clerk's.", rule, takes_scopes=True)


def require_oauth(
    *, scopes: Annotated[Iterable[str], _NotADependency("require_oauth()")] = ()
) -> Guard[OAuthIdentity]:
    """Require an OAuth access token that has all of `scopes`; refuses with 403."""
    required = _scopes(scopes)

    def rule(identity: Identity, more_scopes: Sequence[str]) -> OAuthIdentity:
        if not isinstance(identity, OAuthIdentity):
            raise _other_type(TokenType.OAUTH_TOKEN)
        _require_scopes(identity, (*required, *more_scopes))
        return identity

    return Guard("ClerkOAuthToken", "An OAuth access token of Clerk's.", rule, takes_scopes=True)


def require_any(
    first: Annotated[Guard[T_co], _NotADependency("require_any(…)")], *others: Guard[T_co]
) -> Guard[T_co]:
    """Require what at least one of the guards requires; without `others`, the same as `first`.

    Where all refuse, the refusal that came closest is raised: a missing permission before a wrong
    type of credential. With `Security(require_any(…), scopes=[…])`, only guards of credentials that
    can have permissions let anybody in.
    """
    guards = (first, *others)

    def rule(identity: Identity, more_scopes: Sequence[str]) -> T_co:
        closest: RefusalError | None = None
        for guard in guards:
            if more_scopes and not guard._takes_scopes:
                continue
            try:
                return guard._rule(identity, more_scopes)
            except RefusalError as refusal:
                if closest is None or refusal.status > closest.status:
                    closest = refusal
        assert closest is not None  # noqa: S101  at least one guard was asked
        raise closest

    return Guard(
        "ClerkCredential",
        "A machine credential of Clerk's.",
        rule,
        takes_scopes=any(guard._takes_scopes for guard in guards),
    )


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
        if exchange.reported is not None:
            raise exchange.reported
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
        # `Security(…)` may name a scope of the guard's own again.
        raise PermissionDeniedError(
            f"The credential lacks: {' '.join(dict.fromkeys(missing))}.",
            required_scopes=tuple(dict.fromkeys(required)),
        )
