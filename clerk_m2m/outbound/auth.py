"""`MachineTokenAuth`: calls to other services that carry this machine's token by themselves."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncGenerator, Generator, Iterable, Mapping
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeAlias

import httpx

from clerk_m2m.backend_api.client import ClerkClient
from clerk_m2m.clock import Clock
from clerk_m2m.environment import (
    SecretKey,
    allow_http_from_env,
    api_url_from_env,
    is_loopback,
    key_from_env,
)
from clerk_m2m.errors import ConfigurationError, TokenUnavailableError
from clerk_m2m.observe.events import OnEvent
from clerk_m2m.observe.measurements import MintMeasurements
from clerk_m2m.observe.reporter import Reporter
from clerk_m2m.outbound.minting import Bearer, SharedToken, TokenMint, TokenOptions
from clerk_m2m.secret import hidden

__all__ = ["MachineTokenAuth"]

# Marks a request that carried the token with the address that it went to first. httpx copies the
# mark into the request that follows a redirect.
_FIRST_URL: Final = "clerk_m2m.first_url"
# Ten years, the longest lifetime that a machine can be given (schema of `CreateMachine`).
MAX_SECONDS: Final = 315_360_000.0
_DEFAULT_PORTS: Final = {"http": 80, "ws": 80, "https": 443, "wss": 443}
_ENCRYPTED: Final = frozenset({"https", "wss"})


class MachineTokenAuth(httpx.Auth):
    """Sends this machine's M2M token with every call: `httpx.AsyncClient(auth=MachineTokenAuth())`.

    The token is minted at the first call, shared by all, and renewed in the background ahead of its
    end. `machine_secret_key` is the machine's own: text or a `Secret`, a callable that gives it and
    does not block, an async callable, or the path of a file; None reads `CLERK_MACHINE_SECRET_KEY`,
    or the file that `CLERK_MACHINE_SECRET_KEY_FILE` names. `token_format`,
    `seconds_until_expiration` and `claims` describe the token; None leaves the lifetime to the
    machine's settings. With `min_remaining_ttl_seconds` Clerk may give a token that exists already
    and lives at least so long (opaque only). `hosts` are the only ones that the token may go to,
    each `"name"` or `"name:port"`, exactly, and over https only; `"http://name"` or
    `"http://name:port"` allows plain http there too, which loopback needs no word for. None allows
    whatever the client calls. A call that `hosts` does not allow is not sent: it raises
    `ConfigurationError`; `auth=None` on that call sends it without a token.
    `api_url` None reads `CLERK_API_URL`; it may be plain http on loopback only, unless `allow_http`
    (None reads `CLERK_M2M_ALLOW_HTTP`). `timeout` is the total deadline of a mint, in seconds.
    `transport` replaces the network to Clerk and `clock` the time, for tests.
    `on_event` is called with an `Event` for each mint and each call to Clerk.

    A 401 has the token replaced and the call sent again once, if its body is in memory. Where no
    token can be had, a call raises `TokenUnavailableError` and is not sent. For
    `httpx.AsyncClient` only. Raises `ConfigurationError`.
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
        self._hosts = _hosts(hosts)
        self._now = clock.monotonic
        client = ClerkClient(
            machine_secret_key=_own_key(machine_secret_key),
            api_url=api_url or api_url_from_env(),
            allow_http=allow_http_from_env() if allow_http is None else allow_http,
            timeout=_seconds("timeout", timeout, most=60.0),
            transport=transport,
            clock=clock,
            on_event=on_event,
        )
        options = _token_options(
            token_format, seconds_until_expiration, claims, min_remaining_ttl_seconds
        )
        self._reporter = reporter = Reporter(clock, on_event=on_event)
        mint = TokenMint(client, options, clock, reporter)
        self._token = SharedToken(mint, clock.monotonic, reporter)
        self._rejections = _Rejections()

    async def async_auth_flow(
        self, request: httpx.Request
    ) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """Send the request with a live token, and once more where a callee rejects the token."""
        if _has_strayed(request):
            # As httpx does when it follows a redirect by itself.
            request.headers.pop("Authorization", None)
            yield request
            return
        if self._hosts is not None:
            _require_host(self._hosts, request.url)
        bearer = self._token.live() or await self._token.obtain()
        request.headers["Authorization"] = bearer.header.reveal()
        request.extensions[_FIRST_URL] = request.url
        response = yield request
        if response.status_code != 401 or not _carried(response, bearer):
            return
        other = await self._other_than(
            bearer, response.request, again=_can_repeat(request, response)
        )
        if other is None:
            return
        request.headers["Authorization"] = other.header.reveal()
        response = yield request
        if response.status_code != 401:
            self._rejections.accepted(request.url)

    def sync_auth_flow(
        self, request: httpx.Request
    ) -> Generator[httpx.Request, httpx.Response, None]:
        """Refuse: a mint is shared by concurrent calls, which a sync client cannot wait for."""
        raise ConfigurationError("MachineTokenAuth is for httpx.AsyncClient, not httpx.Client.")

    def measure(self) -> MintMeasurements:
        """Give what was minted, for an exporter; from any thread."""
        return self._token.measure()

    async def aclose(self) -> None:
        """End the mint under way in this event loop; the next call starts another."""
        await self._token.aclose()
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

    async def _other_than(
        self, rejected: Bearer, request: httpx.Request, *, again: bool
    ) -> Bearer | None:
        """Give another token to send the call `again` with; None leaves the 401 as it is."""
        current = self._token.live()
        if current is rejected:
            if not self._rejections.may_mint(request.url, self._now()):
                return None
            self._token.replace(rejected)
        if not again:
            return None
        try:
            other = self._token.live() or await self._token.obtain()
        except TokenUnavailableError:
            return None  # the callee has answered: its 401 says more than that no token was had
        return None if other is rejected else other


class _Rejections:
    """Which callees may have a token minted by a 401, and when.

    A callee that rejects new tokens too has nothing against the token: its pause doubles each time.
    """

    PAUSE: Final = 10.0
    MAX_PAUSE: Final = 600.0
    MAX_ORIGINS: Final = 1000

    def __init__(self) -> None:
        self._last = -math.inf
        self._by_origin: dict[_Origin, tuple[float, float]] = {}

    def may_mint(self, url: httpx.URL, now: float) -> bool:
        """Tell whether a 401 from there may have a token minted now; if so, it is counted."""
        origin = _origin(url)
        minted_at, pause = self._by_origin.get(origin, (-math.inf, 0.0))
        if now < max(minted_at + pause, self._last + self.PAUSE):
            return False
        if len(self._by_origin) >= self.MAX_ORIGINS:
            self._by_origin.clear()
        self._by_origin[origin] = now, min(max(2 * pause, self.PAUSE), self.MAX_PAUSE)
        self._last = now
        return True

    def accepted(self, url: httpx.URL) -> None:
        """Note that a new token was not rejected there."""
        self._by_origin.pop(_origin(url), None)


_Origin: TypeAlias = tuple[str, str, int | None]


def _origin(url: httpx.URL) -> _Origin:
    return url.scheme, url.host, url.port


def _has_strayed(request: httpx.Request) -> bool:
    """Tell a request that follows a redirect of ours to another origin, sent by hand."""
    first: httpx.URL | None = request.extensions.get(_FIRST_URL)
    return first is not None and _origin(first) != _origin(request.url)


def _carried(response: httpx.Response, bearer: Bearer) -> bool:
    """Tell whether the request that was answered had the token; a redirect may have lost it."""
    return bool(response.request.headers.get("Authorization") == bearer.header.reveal())


def _can_repeat(request: httpx.Request, response: httpx.Response) -> bool:
    # Only a body in memory is there a second time, and past a redirect something has happened.
    return response.request is request and isinstance(request.stream, httpx.ByteStream)


# Whether the connection is encrypted, the host, and the port; None stands for any port.
_Place: TypeAlias = tuple[bool, str, int | None]


def _require_host(hosts: frozenset[_Place], url: httpx.URL) -> None:
    encrypted, host = url.scheme in _ENCRYPTED, url.host
    port = url.port or _DEFAULT_PORTS.get(url.scheme)
    if (encrypted, host, None) in hosts or (encrypted, host, port) in hosts:
        return
    if (True, host, None) in hosts or (True, host, port) in hosts:
        raise ConfigurationError(
            f"hosts lets the token go to {host} over https only. Call it with https, or write "
            f'"http://{_shown(host)}" in hosts to allow plain http, or pass auth=None to send this '
            "call without a token."
        )
    raise ConfigurationError(
        f"hosts does not let the token go to {host}, port {port}. Add "
        f'"{"" if encrypted or is_loopback(host) else "http://"}{_shown(host)}:{port}" to hosts, '
        "or pass auth=None to send this call without a token."
    )


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _hosts(given: Iterable[str] | None) -> frozenset[_Place] | None:
    if given is None:
        return None
    hosts = [] if isinstance(given, str) else list(given)
    if not hosts:
        raise ConfigurationError('hosts must be a list of host names, such as ["orders.internal"].')
    return frozenset(place for each in hosts for place in _places(each))


def _places(given: str) -> list[_Place]:
    scheme, separator, name = given.rpartition("://")
    scheme = scheme.lower() if separator else "https"
    try:
        url = httpx.URL(f"//{name}")
    except httpx.InvalidURL:
        url = httpx.URL()
    known = scheme in ("http", "https")
    if not known or not url.host or any(char in name for char in "/?#@* "):
        raise ConfigurationError(
            f'hosts: {given!r} is neither "name" nor "name:port", which mean https, nor either of '
            'them after "http://", which allows plain http too.'
        )
    allows_http = scheme == "http" or is_loopback(url.host)
    return [(True, url.host, url.port), *([(False, url.host, url.port)] if allows_http else [])]


def _own_key(given: SecretKey | None) -> SecretKey:
    key = key_from_env("CLERK_MACHINE_SECRET_KEY") if given is None else given
    if not key:
        raise ConfigurationError(
            "Set machine_secret_key (CLERK_MACHINE_SECRET_KEY) to this machine's own key, ak_…."
        )
    return key


def _token_options(
    token_format: Literal["opaque", "jwt"],
    seconds_until_expiration: float | None,
    claims: Mapping[str, Any] | None,
    min_remaining: int | None,
) -> TokenOptions:
    if token_format not in ("opaque", "jwt"):
        raise ConfigurationError('token_format must be "opaque" or "jwt".')
    lifetime = seconds_until_expiration
    if lifetime is not None:
        lifetime = _seconds("seconds_until_expiration", lifetime)
    if min_remaining is not None:
        _require_reuse_to_work(token_format, lifetime, min_remaining)
    return TokenOptions(
        token_format=token_format,
        seconds_until_expiration=lifetime,
        claims=None if claims is None else _claims(claims),
        min_remaining_ttl_seconds=min_remaining,
    )


def _require_reuse_to_work(
    token_format: str, lifetime: float | None, min_remaining: object
) -> None:
    name = "min_remaining_ttl_seconds"
    if isinstance(min_remaining, bool) or not isinstance(min_remaining, int) or min_remaining < 1:
        raise ConfigurationError(f"{name} must be a whole number of seconds, 1 or more.")
    if token_format == "jwt":
        raise ConfigurationError(f"{name} is for opaque tokens: Clerk does not keep JWTs.")
    if lifetime is not None and min_remaining >= lifetime:
        raise ConfigurationError(f"{name} must be less than seconds_until_expiration.")


def _claims(given: Mapping[str, Any]) -> Mapping[str, Any]:
    try:
        copied: dict[str, Any] = json.loads(json.dumps(dict(given), allow_nan=False))
    except (TypeError, ValueError) as exc:
        raise ConfigurationError("claims must be a mapping that can be written as JSON.") from exc
    return copied


def _seconds(name: str, value: object, *, most: float = MAX_SECONDS) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= most:
        raise ConfigurationError(f"{name} must be a number of seconds above 0, {most:g} at most.")
    return value
