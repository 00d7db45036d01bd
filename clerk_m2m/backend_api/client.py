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
from clerk_m2m.backend_api.calls import Revocation, open_api
from clerk_m2m.backend_api.jwks import KeySets
from clerk_m2m.backend_api.m2m_tokens import M2MTokens
from clerk_m2m.backend_api.machines import Machines
from clerk_m2m.backend_api.oauth_tokens import OAuthAccessTokens
from clerk_m2m.clock import Clock
from clerk_m2m.environment import DEFAULT_API_URL, SecretKey
from clerk_m2m.observe.events import OnEvent
from clerk_m2m.observe.reporter import Reporter
from clerk_m2m.secret import hidden

if TYPE_CHECKING:
    import httpx

__all__ = ["ClerkClient", "Revocation"]


class ClerkClient:
    """A client of the Backend API: `async with ClerkClient(secret_key="sk_…") as clerk`.

    `secret_key` is the instance's key, `machine_secret_key` a machine's own; M2M tokens are listed,
    revoked and verified with the latter where both are given, and minted with it only. Each is text
    or a `Secret`, a callable that gives it and does not block, an async callable, or the path of a
    file: with the last three, a key may be rotated while the client is in use. `timeout` is
    the total deadline of each call, in seconds; at most `max_inflight` calls are out at once.
    `api_url` may be plain http on loopback only, unless `allow_http` (for an emulator in a
    container), and never with a live instance's key. `transport` replaces the network and `clock`
    the time, for tests, and with a `transport` any `api_url` will do. `on_event` is called with an
    `Event` for each call to Clerk. Raises `ConfigurationError`.
    """

    def __init__(
        self,
        *,
        secret_key: SecretKey | None = None,
        machine_secret_key: SecretKey | None = None,
        api_url: str = DEFAULT_API_URL,
        allow_http: bool = False,
        timeout: float = 10.0,
        max_inflight: int = 20,
        transport: httpx.AsyncBaseTransport | None = None,
        clock: Clock | None = None,
        on_event: OnEvent | None = None,
    ) -> None:
        # First of all: tracebacks may show the locals of this frame.
        secret_key, machine_secret_key = hidden(secret_key), hidden(machine_secret_key)
        self._api = api = open_api(
            secret_key=secret_key,
            machine_secret_key=machine_secret_key,
            api_url=api_url,
            allow_http=allow_http,
            timeout=timeout,
            max_inflight=max_inflight,
            transport=transport,
            reporter=Reporter(clock or Clock(), on_event=on_event),
            clock=clock,
        )
        self.machines = Machines(api)
        self.m2m_tokens = M2MTokens(api)
        self.api_keys = ApiKeys(api)
        self.oauth_access_tokens = OAuthAccessTokens(api)
        self.jwks = KeySets(api)

    def on_revocation(self, callback: Callable[[Revocation], None]) -> None:
        """Call `callback` after every revoke or delete call, with what the call ended.

        Also after calls whose response was lost: they may have succeeded.
        """
        self._api.listeners.append(callback)

    async def aclose(self) -> None:
        """Close the connections of this event loop; the next call opens new ones."""
        await self._api.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()
