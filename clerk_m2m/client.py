"""`ClerkClient`: Clerk's machine Backend API, typed in and out.

Every method raises a `BackendAPIError` when Clerk does not do what was asked; see
`clerk_m2m.errors`. Durations are seconds, instants are aware datetimes. Reads and verifications are
retried once where that is safe; what changes something is never sent twice.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from clerk_m2m._http import HTTPClient
from clerk_m2m._key_operations import ApiKeys, KeySets, OAuthAccessTokens
from clerk_m2m._machine_operations import M2MTokens, Machines
from clerk_m2m._secret import Secret
from clerk_m2m._session import Revocation, Session

if TYPE_CHECKING:
    import httpx

    from clerk_m2m._breaker import Breaker

__all__ = ["ClerkClient", "Revocation"]

DEFAULT_API_URL: Final = "https://api.clerk.com"


class ClerkClient:
    """A client of the Backend API: `async with ClerkClient(secret_key="sk_…") as clerk`.

    `secret_key` is the instance's key, `machine_secret_key` a machine's own; M2M tokens are listed,
    revoked and verified with the latter where both are given, and minted with it only. `timeout` is
    the total deadline of each call, in seconds. `transport` replaces the network, for tests.
    """

    def __init__(
        self,
        *,
        secret_key: str | Secret | None = None,
        machine_secret_key: str | Secret | None = None,
        api_url: str = DEFAULT_API_URL,
        timeout: float = 10.0,
        max_inflight: int = 20,
        transport: httpx.AsyncBaseTransport | None = None,
        breaker: Breaker | None = None,
    ) -> None:
        session = Session(
            HTTPClient(
                api_url=api_url,
                timeout=timeout,
                max_inflight=max_inflight,
                breaker=breaker,
                # A verifier (which has a breaker) answers at once; everybody else can wait.
                waits=breaker is None,
                transport=transport,
            ),
            Secret(secret_key) if secret_key else None,
            Secret(machine_secret_key) if machine_secret_key else None,
        )
        self._session = session
        self.machines = Machines(session)
        self.m2m_tokens = M2MTokens(session)
        self.api_keys = ApiKeys(session)
        self.oauth_access_tokens = OAuthAccessTokens(session)
        self.jwks = KeySets(session)

    def on_revocation(self, callback: Callable[[Revocation], None]) -> None:
        """Have `callback` told of every revocation and deletion that this client makes."""
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
