"""`MachineTokenAuth`: adds this machine's token to calls to other services."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator, Iterable, Mapping
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeAlias

import httpx

from clerk_m2m.backend_api.client import ClerkClient
from clerk_m2m.clock import Clock
from clerk_m2m.environment import SecretKey
from clerk_m2m.errors import ConfigurationError, TokenUnavailableError
from clerk_m2m.observe.events import OnEvent
from clerk_m2m.observe.measurements import MintMeasurements
from clerk_m2m.observe.reporter import Reporter
from clerk_m2m.outbound.flight import Flight, awaited, waited
from clerk_m2m.outbound.generations import BODIES_IN_MEMORY, Httpx2Auth
from clerk_m2m.outbound.hosts import Hosts
from clerk_m2m.outbound.minting import Bearer, TokenMint
from clerk_m2m.outbound.options import checked_timeout, checked_transport, own_key, token_options
from clerk_m2m.outbound.rejections import FORGET, Rejections, origin_of, shown
from clerk_m2m.outbound.shared_token import SharedToken
from clerk_m2m.outbound.trace import traced
from clerk_m2m.secret import hidden

__all__ = ["MachineTokenAuth"]

# The extension of a request that carried the token; its value is the URL it was first sent to.
# httpx copies it into the request that follows a redirect.
_FIRST_URL: Final = "clerk_m2m.first_url"
_REJECTIONS: Final = frozenset({401, 403})

# The steps of a call: a request to send (its response is sent back in), or a mint to wait for.
_Steps: TypeAlias = Generator[httpx.Request | Flight, Any, None]


class MachineTokenAuth(httpx.Auth, Httpx2Auth):  # type: ignore[misc]  # both have `auth_flow`
    """Sends this machine's M2M token with every call: `httpx.AsyncClient(auth=MachineTokenAuth())`.

    For `AsyncClient` and `Client`, of `httpx` and of `httpx2`. The token is minted at the first
    call, shared by all event loops and threads, and renewed in the background before it expires.
    `token()` and `token_sync()` return it for other clients.

    `machine_secret_key` is the machine's own key: text or a `Secret`, a callable that returns it
    and does not block, an async callable, or the path of a file. None reads
    `CLERK_MACHINE_SECRET_KEY`, or the file that `CLERK_MACHINE_SECRET_KEY_FILE` names.

    `token_format`, `seconds_until_expiration` and `claims` describe the token. A lifetime of None
    is the machine's default. With `min_remaining_ttl_seconds` Clerk may return an existing token
    that lives at least that long (opaque only).

    `hosts` lists the only hosts that the token may be sent to. `"name"` and `"name:port"` match
    exactly, and over https only. `"http://name"` and `"http://name:port"` allow plain http too;
    loopback always may use plain http. None allows every host that the client calls. A call to
    another host raises `ConfigurationError` and is not sent; `auth=None` on that call sends it
    without a token.

    `api_url` None reads `CLERK_API_URL`. Plain http is allowed on loopback only, unless
    `allow_http` is set (None reads `CLERK_M2M_ALLOW_HTTP`). `timeout` is the total time of a mint,
    in seconds, and includes reading the key. `transport` replaces the network to Clerk, for a
    client certificate or a test; you close it. `clock` replaces the time. `on_event` is called with
    an `Event` for each mint and each call to Clerk. Mints run in a thread of this package, and that
    thread also calls `transport`, a callable key and `on_event`.

    After a 401 the token is replaced, and the call is sent again once if its body is in memory.
    After a 403 an opaque token is replaced, for later calls. If there is no token to send, the call
    raises `TokenUnavailableError` and is not sent. Raises `ConfigurationError`.
    """

    def __init__(
        self,
        machine_secret_key: SecretKey | None = None,
        *,
        token_format: Literal["opaque", "jwt"] = "opaque",
        seconds_until_expiration: float | None = None,
        claims: Mapping[str, Any] | None = None,
        min_remaining_ttl_seconds: int | None = None,
        hosts: Iterable[str] | None = None,
        api_url: str | None = None,
        allow_http: bool | None = None,
        timeout: float = 5.0,
        transport: httpx.AsyncBaseTransport | None = None,
        clock: Clock | None = None,
        on_event: OnEvent | None = None,
    ) -> None:
        # First of all: tracebacks may show the locals of this frame.
        machine_secret_key = hidden(machine_secret_key)
        clock = clock or Clock()
        self._hosts = None if hosts is None else Hosts(hosts)
        self._now = clock.monotonic
        timeout = checked_timeout(timeout)
        options = token_options(
            token_format, seconds_until_expiration, claims, min_remaining_ttl_seconds
        )
        client = ClerkClient(
            machine_secret_key=own_key(machine_secret_key),
            api_url=api_url,
            allow_http=allow_http,
            timeout=timeout,
            # `TokenMint` decides when to retry a mint, because each mint costs money.
            retries=1,
            transport=checked_transport(transport),
            clock=clock,
            on_event=on_event,
        )
        self._is_opaque = options.token_format == "opaque"
        self._reporter = reporter = Reporter(clock, on_event=on_event)
        mint = TokenMint(client, options, clock, reporter)
        self._token = SharedToken(mint, clock.monotonic, reporter, timeout=timeout)
        self._rejections = Rejections()

    # For everything but httpx

    async def token(self) -> str:
        """Return the token as text, for clients other than httpx: `f"Bearer {await auth.token()}"`.

        The text is the secret itself, because other libraries take text: do not log it. Call this
        for each request: this object caches and renews the token. Raises `TokenUnavailableError`.
        """
        _require_asyncio()
        return (await awaited(self._token.obtain())).token.reveal()

    def token_sync(self) -> str:
        """Return the token as text, like `token()`, for code without an event loop; thread-safe.

        If there is no live token, this blocks until one is minted: do not call it in an event loop.
        """
        return waited(self._token.obtain()).token.reveal()

    def forget(self) -> bool:
        """Drop the token and return True; the next call then mints another.

        For a 401 that this object cannot see: from a client other than httpx, or from a transport
        that has no `trace` extension while a response hook raises. Returns False, and drops
        nothing, if there is no token, while mints fail, and for a pause after a token was minted
        because of a rejection (10 s, and up to 600 s if this is called again and again).
        """
        if not self._token.is_there:
            return False
        return self._rejections.may_mint(FORGET, self._now()) and self._token.drop()

    def measure(self) -> MintMeasurements:
        """Return the numbers of mints and the token's remaining life; thread-safe."""
        return self._token.measure()

    async def aclose(self) -> None:
        """Cancel the mint in progress and close the connections to Clerk.

        A later call mints a token if there is none, and opens new connections.
        """
        _require_asyncio()
        await awaited(self._token.close())
        self._reporter.flush()

    def close(self) -> None:
        """Do what `aclose()` does, in code without an event loop."""
        waited(self._token.close())
        self._reporter.flush()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    # For httpx: the steps of a call are the same for synchronous and asynchronous clients

    async def async_auth_flow(self, request: Any) -> AsyncGenerator[Any, Any]:
        """Send the request with a live token, and again once if the callee rejects the token."""
        _require_asyncio()
        steps = self._steps(request, sync=False)
        try:
            step = next(steps)
            while True:
                if isinstance(step, Flight):
                    await step.awaited()
                    step = steps.send(None)
                else:
                    step = steps.send((yield step))
        except StopIteration:
            return
        finally:
            steps.close()

    def sync_auth_flow(self, request: Any) -> Generator[Any, Any, None]:
        """Send the request with a live token, and again once if the callee rejects the token."""
        steps = self._steps(request, sync=True)
        try:
            step = next(steps)
            while True:
                if isinstance(step, Flight):
                    step.wait()
                    step = steps.send(None)
                else:
                    step = steps.send((yield step))
        except StopIteration:
            return
        finally:
            steps.close()

    def _steps(self, request: httpx.Request, *, sync: bool) -> _Steps:
        url = request.url
        first = request.extensions.get(_FIRST_URL)
        if first is not None and origin_of(first) != origin_of(url):
            # The redirect leads to another origin. httpx removes the header in that case too.
            request.headers.pop("Authorization", None)
            self._reporter.token_withheld(shown(origin_of(url)), shown(origin_of(first)))
            yield request
            return
        if self._hosts is not None:
            self._hosts.require(url.scheme, url.raw_host.decode("ascii"), url.port)
        bearer = self._token.live(url) or (yield from self._token.obtain(url))
        response = yield from self._send(request, bearer, sync=sync)
        if response.status_code not in _REJECTIONS or not _carried(response, bearer):
            return
        replaced = self._rejected(url, bearer, response.status_code)
        if response.status_code == 403 or not replaced or not _can_repeat(request, response):
            return
        try:
            other = self._token.live(url) or (yield from self._token.obtain(url))
        except TokenUnavailableError:
            return  # the caller gets the callee's 401, which says more than this error
        if other is bearer:
            return
        response = yield from self._send(request, other, sync=sync)
        if response.status_code != 401:
            self._rejections.accepted(origin_of(url))

    def _send(
        self, request: httpx.Request, bearer: Bearer, *, sync: bool
    ) -> Generator[httpx.Request, httpx.Response, httpx.Response]:
        request.headers["Authorization"] = bearer.header.reveal()
        request.extensions[_FIRST_URL] = request.url
        with traced(request, bearer.header, self._hosts, sync=sync) as trace:
            try:
                return (yield request)
            except GeneratorExit:
                # A response hook raised, or no response came: see `trace`.
                if trace.status in _REJECTIONS:
                    self._rejected(request.url, bearer, trace.status)
                raise

    def _rejected(self, url: httpx.URL, bearer: Bearer, status: int) -> bool:
        """Replace a rejected token; return True if another exists or is being minted.

        After a 403 only an opaque token is replaced: its scopes are fixed when it is minted, so a
        new one may have more. A JWT has no scopes.
        """
        replaced = status == 401 or self._is_opaque
        if replaced and self._token.is_sent(bearer, url):
            replaced = self._rejections.may_mint(origin_of(url), self._now())
            replaced = replaced and self._token.replace(bearer, url if status == 401 else None)
        self._reporter.token_rejected(shown(origin_of(url)), status, replaced=replaced)
        return replaced


def _require_asyncio() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise ConfigurationError(
            "MachineTokenAuth needs asyncio here, but no asyncio event loop is running. Under "
            "trio, get the token with: await trio.to_thread.run_sync(auth.token_sync)"
        ) from None


def _carried(response: httpx.Response, bearer: Bearer) -> bool:
    """Return whether the answered request had the token; httpx may remove it on a redirect."""
    return bool(response.request.headers.get("Authorization") == bearer.header.reveal())


def _can_repeat(request: httpx.Request, response: httpx.Response) -> bool:
    # A streamed body can be read only once. After a redirect, a server has already acted on the
    # request.
    return response.request is request and isinstance(request.stream, BODIES_IN_MEMORY)
