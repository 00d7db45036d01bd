"""Guards: the checks of a route on the identity that the middleware has verified.

A guard is an object that is made once. FastAPI awaits it as a dependency, on HTTP and WebSocket
routes alike. On any Starlette connection, call `guard.check(connection)` or await the guard. It
reads the identity that the innermost `MachineAuthMiddleware` verified. It trusts nothing in
`connection.state`, and does no I/O. (It is a coroutine because FastAPI runs a synchronous
dependency in a worker thread, which costs more than our whole part of the request.)

`Depends(require_api_key)`, without parentheses, would make a guard on each request and check
nothing. FastAPI takes the parameters of such a function for fields of the request, and asks
pydantic for their schema when it reads the route. `_NotADependency` in their annotations raises an
error there. A guard that a user's own dependency *returns* (`Depends(lambda: require_api_key())`)
is never called, and FastAPI cannot tell it from any other value: the handler runs and receives the
guard. `Guard.__getattr__` raises when the handler then reads the caller's identity from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final, Generic, TypeVar, overload

from starlette.requests import HTTPConnection

from clerk_m2m.asgi.openapi import Alternative, scheme_of
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

        # FastAPI documents a dependency as a security scheme only if it is a `SecurityBase`.
        from fastapi.security.base import SecurityBase as _SecurityScheme
    except ImportError:  # the extra `fastapi` is not installed, so there is no OpenAPI document

        class _SecurityScheme:
            pass

        class SecurityScopes:
            scopes = ()


__all__ = ["Guard", "require_any", "require_api_key", "require_machine", "require_oauth"]

T_co = TypeVar("T_co", covariant=True)
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")

_NO_SCOPES: Final = SecurityScopes()


class Guard(_SecurityScheme, Generic[T_co]):
    """A check on the caller's identity; made by the `require_…` functions.

    `await guard(connection)` and `guard.check(connection)` return the identity or raise a
    `RefusalError`, which the middleware answers. They raise `MiddlewareMissingError` without a
    middleware. With FastAPI's `Security(guard, scopes=[…])`, those scopes are required too: `rule`
    is called with the identity and with the scopes that the route requires besides the guard's.
    """

    def __init__(
        self, alternatives: Sequence[Alternative], rule: Callable[[Identity, Sequence[str]], T_co]
    ) -> None:
        # FastAPI reads these two attributes of a security scheme.
        self.scheme_name, self.model = scheme_of(alternatives)
        self._alternatives = alternatives
        self._rule = rule

    @property
    def token_types(self) -> frozenset[TokenType]:
        """The types of credential that the guard accepts."""
        return frozenset(token_type for token_type, _ in self._alternatives)

    @property
    def takes_scopes(self) -> bool:
        """Whether the guard accepts a type of credential that can have permissions."""
        return self.token_types != {TokenType.M2M_TOKEN}

    async def __call__(
        self, connection: HTTPConnection, security_scopes: SecurityScopes = _NO_SCOPES
    ) -> T_co:
        """Return the caller's identity, or raise a `RefusalError`.

        FastAPI passes the scopes of `Security(…)` around this guard; they are required too. If
        there are such scopes and the guard accepts only credentials without permissions, raises
        `ConfigurationError` for every caller.
        """
        if security_scopes.scopes and not self.takes_scopes:
            raise ConfigurationError(self.no_permissions(security_scopes.scopes))
        return self._check(connection, security_scopes.scopes)

    @staticmethod
    def no_permissions(scopes: Sequence[str]) -> str:
        """Return the error text for scopes that this guard cannot require; see `takes_scopes`."""
        return (
            f"Security(…, scopes={scopes!r}) is used with a guard that accepts only machines, and "
            "an M2M token has no permissions. Use Depends, and name the machines: "
            "require_machine(*machine_ids)."
        )

    def check(self, connection: Mapping[str, Any]) -> T_co:
        """Return the caller's identity, or raise a `RefusalError`; the same without `await`.

        `connection` is a Starlette request or WebSocket; in another framework, pass the ASGI scope.
        """
        return self._check(connection, ())

    def accept(self, identity: Identity) -> T_co:
        """Apply the guard's rule to an identity that you have already."""
        return self._rule(identity, ())

    if not TYPE_CHECKING:  # with it, a type checker would accept any attribute name

        def __getattr__(self, name: str) -> Any:
            raise AttributeError(
                f"This is a guard and not an identity: it has no {name!r}, and it was not called. "
                "If a handler received it from Depends(…), give Depends the guard itself, not a "
                "function that returns one. Elsewhere, use what guard.check(request) returns.",
                name=name,
                obj=self,
            )

    def _check(self, connection: Mapping[str, Any], more_scopes: Sequence[str]) -> T_co:
        exchange = _exchange(connection)
        try:
            return self._rule(_identity(exchange, connection), more_scopes)
        except RefusalError as refusal:
            exchange.refusal = refusal
            raise


class _NotADependency:
    """Rejects `Depends(require_…)` without parentheses, when FastAPI reads the route."""

    def __init__(self, written: str) -> None:
        self._written = written

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        name = self._written.partition("(")[0]
        raise ConfigurationError(
            f"Depends({name}) without parentheses makes a guard and never calls it. "
            f"Write Depends({self._written}); the same with Security."
        )


def require_machine(
    *machine_ids: Annotated[str, _NotADependency("require_machine()")],
) -> Guard[MachineIdentity]:
    """Require a machine with an M2M token; one of `machine_ids`, if any are given.

    Without ids, any machine that may call this service is accepted. (Beware of an empty list:
    `*[]` means the same.) Another credential type is refused with 401 `token_type_not_accepted`,
    another machine with 403 `permission_denied`. Raises `ConfigurationError` for an invalid machine
    id.
    """
    for machine_id in machine_ids:
        if not MACHINE_ID.fullmatch(machine_id):
            raise ConfigurationError(
                f"require_machine({machine_id!r}): not a machine id. A name is not enough, since "
                "several machines may have it: give the id, mch_ and 27 more characters."
            )
    allowed = frozenset(machine_ids)

    def rule(identity: Identity, more_scopes: Sequence[str]) -> MachineIdentity:
        if not isinstance(identity, MachineIdentity):
            raise _other_type(TokenType.M2M_TOKEN)
        if allowed and identity.machine_id not in allowed:
            raise PermissionDeniedError(f"{identity.machine_id} is not among this route's callers.")
        return identity

    return Guard(((TokenType.M2M_TOKEN, ()),), rule)


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

    return Guard(((TokenType.API_KEY, required),), rule)


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

    return Guard(((TokenType.OAUTH_TOKEN, required),), rule)


@overload
def require_any(first: Guard[A], second: Guard[B], /) -> Guard[A | B]: ...
@overload
def require_any(first: Guard[A], second: Guard[B], third: Guard[C], /) -> Guard[A | B | C]: ...
@overload
def require_any(first: Guard[A], *others: Guard[A]) -> Guard[A]: ...
def require_any(
    first: Annotated[Guard[Any], _NotADependency("require_any(…)")], *others: Guard[Any]
) -> Guard[Any]:
    """Accept the caller if at least one of the guards does; without `others`, the same as `first`.

    If all refuse, the most specific refusal is raised: a missing permission (403) takes precedence
    over a wrong type of credential (401). With `Security(require_any(…), scopes=[…])`, the guards
    of credentials that cannot have permissions accept nobody.
    """
    guards = (first, *others)

    def rule(identity: Identity, more_scopes: Sequence[str]) -> Any:
        closest: RefusalError | None = None
        for guard in guards:
            if more_scopes and not guard.takes_scopes:
                continue
            try:
                return guard._rule(identity, more_scopes)
            except RefusalError as refusal:
                if closest is None or refusal.status > closest.status:
                    closest = refusal
        assert closest is not None  # noqa: S101  at least one guard was tried
        raise closest

    alternatives = dict.fromkeys(each for guard in guards for each in guard._alternatives)
    return Guard(tuple(alternatives), rule)


def _exchange(connection: Mapping[str, Any]) -> Exchange:
    exchange: Exchange | None = connection.get(EXCHANGE)
    if exchange is None:
        raise MiddlewareMissingError(
            "This guard needs MachineAuthMiddleware in front of the app, and a request that is "
            "still being handled: app.add_middleware(MachineAuthMiddleware)."
        )
    return exchange


def _identity(exchange: Exchange, connection: Mapping[str, Any]) -> Identity:
    if exchange.identity is None:
        if exchange.reported is not None:
            raise exchange.reported
        verifier = exchange.verifier
        raise _none_of_ours(connection, verifier.settings.api_key_header if verifier else None)
    return exchange.identity


def _none_of_ours(connection: Mapping[str, Any], api_key_header: str | None) -> RefusalError:
    """Return the refusal for a credential that is not a machine's, or for no credential."""
    header = api_key_header.encode("ascii") if api_key_header else None
    if extract(connection["headers"], api_key_header=header) is None:
        return TokenMissingError(api_key_header=api_key_header)
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
        # `Security(…)` may repeat a scope that the guard requires itself.
        raise PermissionDeniedError(
            f"The credential lacks: {' '.join(dict.fromkeys(missing))}.",
            required_scopes=tuple(dict.fromkeys(required)),
        )
