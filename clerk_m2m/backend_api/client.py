"""`ClerkClient`: Clerk's machine Backend API, typed in and out.

Every method raises a `BackendAPIError` when Clerk does not do what was asked; see
`clerk_m2m.errors`. Durations are seconds, instants are aware datetimes. Reads and verifications are
retried after a dropped connection and after 502, 503 and 504. What changes something is sent again
only where nothing was done: nothing could be sent, or Clerk answered 429.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from types import TracebackType
from typing import TYPE_CHECKING, Self

from clerk_m2m.backend_api.api_keys import ApiKeys
from clerk_m2m.backend_api.calls import BackendAPI, Revocation
from clerk_m2m.backend_api.jwks import KeySets
from clerk_m2m.backend_api.m2m_tokens import M2MTokens
from clerk_m2m.backend_api.machines import Machines
from clerk_m2m.backend_api.oauth_tokens import OAuthAccessTokens
from clerk_m2m.backend_api.opening import open_api
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
    file: with the last three, a key may be rotated while the client is in use.

    `timeout` is the total deadline of each call, in seconds, whatever it waits for: its key, its
    turn, Clerk, a retry. At most `max_inflight` calls are out at once. `retries` is how often a
    call may be sent again within its deadline, where that is safe; 0 sends every call once. Two
    meet an instance of Clerk's that restarts, and a rate limit that ends a little later than Clerk
    said; more would only add to the load of an outage.

    `api_url` may be plain http on loopback only, unless `allow_http` (for an emulator in a
    container), and never with a live instance's key; a `/v1` at its end is left out.

    Proxies and certificates are those of the environment, as in httpx: `HTTPS_PROXY`, `ALL_PROXY`,
    `NO_PROXY`, `SSL_CERT_FILE`, `SSL_CERT_DIR`. Only an `api_url` on loopback is never called
    through a proxy. `transport` replaces all that, for client certificates (mTLS), for a network
    of your own, or for tests; any `api_url` will do with it. You close it: `aclose()` does not,
    and it must work in each event loop that you use the client in. `clock` replaces the time, for
    tests. `on_event` is called with an `Event` for each call to Clerk.

    Raises `ConfigurationError`.
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
        retries: int = 2,
        transport: httpx.AsyncBaseTransport | None = None,
        clock: Clock | None = None,
        on_event: OnEvent | None = None,
    ) -> None:
        # First of all: tracebacks may show the locals of this frame.
        secret_key, machine_secret_key = hidden(secret_key), hidden(machine_secret_key)
        api = open_api(
            secret_key=secret_key,
            machine_secret_key=machine_secret_key,
            api_url=api_url,
            allow_http=allow_http,
            timeout=timeout,
            max_inflight=max_inflight,
            retries=retries,
            transport=transport,
            reporter=Reporter(clock or Clock(), on_event=on_event),
            clock=clock,
        )
        self._use(api)

    def _use(self, api: BackendAPI) -> None:
        self._api = api
        self.machines = Machines(api)
        self.m2m_tokens = M2MTokens(api)
        self.api_keys = ApiKeys(api)
        self.oauth_access_tokens = OAuthAccessTokens(api)
        self.jwks = KeySets(api)

    def with_options(self, *, timeout: float | None = None, retries: int | None = None) -> Self:
        """Give a client with another `timeout` or other `retries`, for one call or for many.

        It shares keys, connections, `max_inflight` and listeners with this one: closing either
        closes the connections of both. None leaves an option as it is. Raises `ConfigurationError`.
        """
        other = copy(self)
        other._use(self._api.with_options(timeout=timeout, retries=retries))
        return other

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
