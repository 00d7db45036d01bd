"""`ClerkClient`: Clerk's machine Backend API, typed in and out.

Every method raises a `BackendAPIError` when Clerk does not do what was asked; see
`clerk_m2m.errors`. Durations are seconds, instants are aware datetimes. Reads and verifications are
retried once where that is safe; what changes something is never sent twice.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from clerk_m2m.backend_api.api_keys import ApiKeys
from clerk_m2m.backend_api.jwks import KeySets
from clerk_m2m.backend_api.m2m_tokens import M2MTokens
from clerk_m2m.backend_api.machines import Machines
from clerk_m2m.backend_api.oauth_tokens import OAuthAccessTokens
from clerk_m2m.backend_api.operations import Revocation, Session
from clerk_m2m.environment import (
    DEFAULT_API_URL,
    bare_origin,
    checked_flag,
    checked_key,
    hidden,
    require_https,
)
from clerk_m2m.secret import Secret
from clerk_m2m.transport.http import HTTPClient

if TYPE_CHECKING:
    import httpx

    from clerk_m2m.clock import ServerClock
    from clerk_m2m.transport.breaker import Breaker

__all__ = ["ClerkClient", "Revocation"]


class ClerkClient:
    """A client of the Backend API: `async with ClerkClient(secret_key="sk_…") as clerk`.

    `secret_key` is the instance's key, `machine_secret_key` a machine's own; M2M tokens are listed,
    revoked and verified with the latter where both are given, and minted with it only. `timeout` is
    the total deadline of each call, in seconds; at most `max_inflight` calls are out at once.
    `api_url` may be plain http on loopback only, unless `allow_http` (for an emulator in a
    container), and never with a live instance's key. `transport` replaces the network, for tests,
    and then any `api_url` will do. (`breaker` and `server_clock` are a verifier's: with the first,
    a call that Clerk asks to wait fails at once; the second is told the `Date` of Clerk's answers.)
    Raises `ConfigurationError`.
    """

    def __init__(
        self,
        *,
        secret_key: str | Secret | None = None,
        machine_secret_key: str | Secret | None = None,
        api_url: str = DEFAULT_API_URL,
        allow_http: bool = False,
        timeout: float = 10.0,
        max_inflight: int = 20,
        transport: httpx.AsyncBaseTransport | None = None,
        breaker: Breaker | None = None,
        server_clock: ServerClock | None = None,
    ) -> None:
        # First of all: tracebacks may show the locals of this frame.
        secret_key, machine_secret_key = hidden(secret_key), hidden(machine_secret_key)
        origin = bare_origin(api_url)
        instance_key = checked_key("secret_key", "sk_", secret_key)
        allow_http = checked_flag("allow_http", allow_http)
        if transport is None:
            require_https("api_url", origin, allow_http=allow_http, secret_key=instance_key)
        session = Session(
            HTTPClient(
                api_url=origin,
                timeout=timeout,
                max_inflight=max_inflight,
                breaker=breaker,
                # A verifier (which has a breaker) answers at once; everybody else can wait.
                waits=breaker is None,
                server_clock=server_clock,
                transport=transport,
            ),
            instance_key,
            checked_key("machine_secret_key", "ak_", machine_secret_key),
        )
        self._session = session
        self.machines = Machines(session)
        self.m2m_tokens = M2MTokens(session)
        self.api_keys = ApiKeys(session)
        self.oauth_access_tokens = OAuthAccessTokens(session)
        self.jwks = KeySets(session)

    def on_revocation(self, callback: Callable[[Revocation], None]) -> None:
        """Have `callback` told of every revocation and deletion that this client makes, or tries.

        A call whose answer was lost counts too: it may have been carried out.
        """
        self._session.listeners.append(callback)

    async def aclose(self) -> None:
        """Close the connections of this event loop; the next call opens new ones."""
        await self._session.http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()
