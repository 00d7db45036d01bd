"""`ClerkClient`: Clerk's machine Backend API, with typed arguments and results.

Every method raises a `BackendAPIError` if Clerk does not carry out the call; see
`clerk_m2m.errors`. Durations are seconds, instants are aware datetimes. Reads and verifications are
retried after a dropped connection and after 502, 503 and 504. Calls that change something are
retried only if nothing was changed: the request could not be sent, or Clerk answered 429.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypedDict, Unpack

from clerk_m2m.backend_api.api_keys import ApiKeys
from clerk_m2m.backend_api.calls import BackendAPI
from clerk_m2m.backend_api.jwks import KeySets
from clerk_m2m.backend_api.m2m_tokens import M2MTokens
from clerk_m2m.backend_api.machines import Machines
from clerk_m2m.backend_api.oauth_tokens import OAuthAccessTokens
from clerk_m2m.backend_api.opening import open_api
from clerk_m2m.backend_api.revocations import Revocation
from clerk_m2m.clock import Clock
from clerk_m2m.environment import (
    SecretKey,
    allow_http_from_env,
    api_url_from_env,
    key_from_env,
)
from clerk_m2m.errors import ConfigurationError
from clerk_m2m.observe.events import OnEvent
from clerk_m2m.observe.reporter import Reporter
from clerk_m2m.secret import hidden

if TYPE_CHECKING:
    import httpx

__all__ = ["ClerkClient", "ClientOptions", "Revocation"]

_KEYS = {"secret_key": "CLERK_SECRET_KEY", "machine_secret_key": "CLERK_MACHINE_SECRET_KEY"}


class ClientOptions(TypedDict, total=False):
    """The arguments of `ClerkClient`, which documents them."""

    secret_key: SecretKey | None
    machine_secret_key: SecretKey | None
    api_url: str | None
    allow_http: bool | None
    timeout: float
    max_inflight: int
    retries: int
    transport: httpx.AsyncBaseTransport | None
    clock: Clock | None
    on_event: OnEvent | None


class ClerkClient:
    """A client of the Backend API: `async with ClerkClient(secret_key="sk_…") as clerk`.

    `from_env` reads the keys from the environment. `SyncClerkClient` has the same methods for code
    that does not await.

    `secret_key` is the instance's key, `machine_secret_key` a machine's own. If both are given, M2M
    tokens are listed and revoked with the first and verified with the second. Minting always uses
    the second. Each is text or a `Secret`, a callable that returns it and does not block, an async
    callable, or the path of a file. With the last three, a key may be rotated while the client is
    in use.

    `timeout` is the total deadline of each call, in seconds. It covers reading the key, waiting for
    a slot, waiting for Clerk, and retries. At most `max_inflight` calls are sent at the same time.
    `retries` is how often a call may be sent again within its deadline, if that is safe; 0 sends
    every call once. Two retries are enough for a restarting instance of Clerk's, and for a rate
    limit that ends slightly later than Clerk said. More would only add load during an outage.

    `api_url` None reads `CLERK_API_URL`, and without that is Clerk's own; a `/v1` at its end is
    removed. Plain http is allowed on loopback only, unless `allow_http` is set (for an emulator in
    a container; None reads `CLERK_M2M_ALLOW_HTTP`), and never with a live instance's key.

    Proxies and certificates come from the environment, as in httpx: `HTTPS_PROXY`, `ALL_PROXY`,
    `NO_PROXY`, `SSL_CERT_FILE`, `SSL_CERT_DIR`. An `api_url` on loopback is never called through a
    proxy. `transport` replaces all of this, for client certificates (mTLS), your own network, or
    tests; it allows any `api_url`. You close it: `aclose()` does not. It must work in each event
    loop in which you use the client. `clock` replaces the time, for tests. `on_event` is called
    with an `Event` for each call to Clerk.

    Raises `ConfigurationError`.
    """

    def __init__(
        self,
        *,
        secret_key: SecretKey | None = None,
        machine_secret_key: SecretKey | None = None,
        api_url: str | None = None,
        allow_http: bool | None = None,
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
            api_url=api_url_from_env() if api_url is None else api_url,
            allow_http=allow_http_from_env() if allow_http is None else allow_http,
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

    @classmethod
    def from_env(cls, **options: Unpack[ClientOptions]) -> Self:
        """Make a client with the keys of the environment; `options` override the environment.

        Reads `CLERK_SECRET_KEY` and `CLERK_MACHINE_SECRET_KEY`, or the files that
        `CLERK_SECRET_KEY_FILE` and `CLERK_MACHINE_SECRET_KEY_FILE` name, in addition to the
        variables that `ClerkClient` reads. Raises `ConfigurationError` if there is no key.
        """
        add_keys_of_env(options)
        return cls(**options)

    def with_options(self, *, timeout: float | None = None, retries: int | None = None) -> Self:
        """Return a client with another `timeout` or other `retries`, for one call or for many.

        It shares keys, connections, `max_inflight` and listeners with this one: closing either
        closes the connections of both. None keeps the option. Raises `ConfigurationError`.
        """
        other = copy(self)
        other._use(self._api.with_options(timeout=timeout, retries=retries))
        return other

    def on_revocation(self, callback: Callable[[Revocation], object]) -> Callable[[], None]:
        """Call `callback` with a `Revocation` after every revoke or delete call of this client.

        It is also called after calls whose response was lost, because they may have succeeded.
        Returns a function that removes the callback. Exceptions of `callback` are logged. Raises
        `ConfigurationError` for a coroutine function.
        """
        return self._api.listeners.add(callback)

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


def hide_keys(options: ClientOptions) -> None:
    """Wrap given keys in `Secret`, in place: tracebacks may show the locals of the caller."""
    given: Any = options
    for name in _KEYS.keys() & given.keys():
        given[name] = hidden(given[name])


def add_keys_of_env(options: ClientOptions) -> None:
    """Wrap given keys in `Secret`, and add the keys of the environment, in place."""
    hide_keys(options)
    given: Any = options
    for name, variable in _KEYS.items():
        if name not in given and (key := key_from_env(variable)):
            given[name] = key
    if not any(given.get(name) for name in _KEYS):
        raise ConfigurationError(
            "There is no key. Set CLERK_SECRET_KEY (the instance's) or CLERK_MACHINE_SECRET_KEY (a "
            "machine's), or CLERK_SECRET_KEY_FILE or CLERK_MACHINE_SECRET_KEY_FILE, which name a "
            "file."
        )
