"""`SyncClerkClient`: `ClerkClient` for code that does not await.

There is one implementation: each method here runs the coroutine of the same name in the client's
own event loop. `_sync` and `_sync_iter` keep the signature, for editors and type checkers.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from copy import copy
from functools import wraps
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, Unpack

from clerk_m2m.backend_api.api_keys import ApiKeys
from clerk_m2m.backend_api.client import ClerkClient, ClientOptions, add_keys_of_env, hide_keys
from clerk_m2m.backend_api.jwks import KeySets
from clerk_m2m.backend_api.loop_thread import LoopThread
from clerk_m2m.backend_api.m2m_tokens import M2MTokens
from clerk_m2m.backend_api.machines import Machines
from clerk_m2m.backend_api.oauth_tokens import OAuthAccessTokens
from clerk_m2m.backend_api.revocations import Revocation

P = ParamSpec("P")
R = TypeVar("R")
ResourceT = TypeVar("ResourceT")


class _SyncResource(Generic[ResourceT]):
    """A resource whose coroutines run in the thread of its client."""

    def __init__(self, resource: ResourceT, thread: LoopThread) -> None:
        self._resource = resource
        self._thread = thread


def _sync(
    method: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[Any, P], R]:
    """Make a plain method that runs the coroutine method `method` and returns its result."""

    @wraps(method)
    def call(self: _SyncResource[Any], /, *args: P.args, **kwargs: P.kwargs) -> R:
        coroutine = method(self._resource, *args, **kwargs)
        del args, kwargs  # they may hold a key, and tracebacks may show the locals of this frame
        return self._thread.run(coroutine)

    return call


def _sync_iter(
    method: Callable[Concatenate[Any, P], AsyncIterator[R]],
) -> Callable[Concatenate[Any, P], Iterator[R]]:
    """Make a plain method that returns an iterator over the items of `method`."""

    @wraps(method)
    def call(self: _SyncResource[Any], /, *args: P.args, **kwargs: P.kwargs) -> Iterator[R]:
        walk = method(self._resource, *args, **kwargs)

        async def read() -> list[R]:
            # This costs nothing: a walk reads the whole list before it yields the first item.
            return [item async for item in walk]

        def give() -> Iterator[R]:
            yield from self._thread.run(read())

        return give()

    return call


class SyncMachines(_SyncResource[Machines]):
    """`Machines`, for code that does not await."""

    list = _sync(Machines.list)
    iter = _sync_iter(Machines.iter)
    create = _sync(Machines.create)
    find_or_create = _sync(Machines.find_or_create)
    get = _sync(Machines.get)
    update = _sync(Machines.update)
    delete = _sync(Machines.delete)
    get_secret_key = _sync(Machines.get_secret_key)
    rotate_secret_key = _sync(Machines.rotate_secret_key)
    create_scope = _sync(Machines.create_scope)
    delete_scope = _sync(Machines.delete_scope)


class SyncM2MTokens(_SyncResource[M2MTokens]):
    """`M2MTokens`, for code that does not await."""

    create = _sync(M2MTokens.create)
    list = _sync(M2MTokens.list)
    iter = _sync_iter(M2MTokens.iter)
    revoke = _sync(M2MTokens.revoke)
    verify = _sync(M2MTokens.verify)


class SyncApiKeys(_SyncResource[ApiKeys]):
    """`ApiKeys`, for code that does not await."""

    create = _sync(ApiKeys.create)
    list = _sync(ApiKeys.list)
    iter = _sync_iter(ApiKeys.iter)
    get = _sync(ApiKeys.get)
    update = _sync(ApiKeys.update)
    delete = _sync(ApiKeys.delete)
    get_secret = _sync(ApiKeys.get_secret)
    revoke = _sync(ApiKeys.revoke)
    verify = _sync(ApiKeys.verify)


class SyncOAuthAccessTokens(_SyncResource[OAuthAccessTokens]):
    """`OAuthAccessTokens`, for code that does not await."""

    verify = _sync(OAuthAccessTokens.verify)
    revoke = _sync(OAuthAccessTokens.revoke)


class SyncKeySets(_SyncResource[KeySets]):
    """`KeySets`, for code that does not await."""

    get = _sync(KeySets.get)
    get_public = _sync(KeySets.get_public)


class SyncClerkClient:
    """A client of the Backend API for code that does not await; takes what `ClerkClient` takes.

    `with SyncClerkClient.from_env() as clerk: clerk.machines.list()`. Its calls run in its own
    event loop in its own thread: any number of threads may use one client. In code that runs in an
    event loop it works too, but blocks that loop: use `ClerkClient` there. Its callbacks
    (`on_event`, `on_revocation`, a key) are called in its thread. Ctrl-C stops waiting for a call;
    Clerk may already have carried out the call.
    """

    def __init__(self, **options: Unpack[ClientOptions]) -> None:
        hide_keys(options)
        client = ClerkClient(**options)
        self._thread = LoopThread(client.aclose)
        self._use(client)

    def _use(self, client: ClerkClient) -> None:
        self._client, thread = client, self._thread
        self.machines = SyncMachines(client.machines, thread)
        self.m2m_tokens = SyncM2MTokens(client.m2m_tokens, thread)
        self.api_keys = SyncApiKeys(client.api_keys, thread)
        self.oauth_access_tokens = SyncOAuthAccessTokens(client.oauth_access_tokens, thread)
        self.jwks = SyncKeySets(client.jwks, thread)

    @classmethod
    def from_env(cls, **options: Unpack[ClientOptions]) -> Self:
        """Make a client with the keys of the environment, as `ClerkClient.from_env` does."""
        add_keys_of_env(options)
        return cls(**options)

    def with_options(self, *, timeout: float | None = None, retries: int | None = None) -> Self:
        """Return a client with another `timeout` or other `retries`, as `ClerkClient` does.

        It shares the thread of this one too: closing either closes both.
        """
        other = copy(self)
        other._use(self._client.with_options(timeout=timeout, retries=retries))
        return other

    def on_revocation(self, callback: Callable[[Revocation], object]) -> Callable[[], None]:
        """Call `callback` after every revoke or delete call, as `ClerkClient.on_revocation` does.

        It is called in the client's thread.
        """
        return self._client.on_revocation(callback)

    def close(self) -> None:
        """Close the connections and stop the thread; the next call starts another.

        Calls of other threads that are in progress have `timeout` seconds to end.
        """
        self._thread.close(wait=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # After Ctrl-C, do not wait for the interrupted call.
        self._thread.close(wait=not isinstance(exc, KeyboardInterrupt))
