"""Creates a `BackendAPI` after checking its keys, URL and numbers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from clerk_m2m.backend_api.calls import BackendAPI, checked_retries, checked_timeout
from clerk_m2m.backend_api.key_source import key_source
from clerk_m2m.clock import Clock
from clerk_m2m.environment import (
    SecretKey,
    bare_origin,
    checked_count,
    checked_flag,
    require_https,
)
from clerk_m2m.errors import ConfigurationError
from clerk_m2m.observe.reporter import Reporter
from clerk_m2m.secret import Secret, hidden
from clerk_m2m.transport.call import RETRIES, Call
from clerk_m2m.transport.http import HTTPClient

if TYPE_CHECKING:
    import httpx

    from clerk_m2m.clock import ServerClock
    from clerk_m2m.observe.call_times import CallResult
    from clerk_m2m.transport.admission import UnknownRate
    from clerk_m2m.transport.breaker import Breakers


def open_api(
    *,
    secret_key: SecretKey | None,
    machine_secret_key: SecretKey | None,
    api_url: str,
    allow_http: bool,
    timeout: float,
    max_inflight: int,
    transport: httpx.AsyncBaseTransport | None,
    retries: int = RETRIES,
    breakers: Breakers | None = None,
    unknown_rate: UnknownRate | None = None,
    server_clock: ServerClock | None = None,
    on_sent: Callable[[Call], None] | None = None,
    reporter: Reporter | None = None,
    on_ended: Callable[[Call, CallResult, float], None] | None = None,
    clock: Clock | None = None,
) -> BackendAPI:
    """Check keys, URL and numbers, and return a `BackendAPI`.

    With `breakers`, a call fails at once if Clerk asks for a pause; without them it waits. Raises
    `ConfigurationError`.
    """
    # First of all: tracebacks may show the locals of this frame.
    secret_key, machine_secret_key = hidden(secret_key), hidden(machine_secret_key)
    origin = bare_origin(api_url)
    allow_http = checked_flag("allow_http", allow_http)
    timeout, retries = checked_timeout(timeout), checked_retries(retries)
    max_inflight = checked_count("max_inflight", max_inflight)
    if transport is not None and not hasattr(transport, "handle_async_request"):
        raise ConfigurationError("transport must be an asynchronous one: httpx.AsyncBaseTransport.")
    check = None
    if transport is None:
        check = partial(_require_https, origin, allow_http)
    clock = clock or Clock()
    instance_key = key_source("secret_key", "sk_", secret_key, clock=clock, check=check)
    machine_key = key_source("machine_secret_key", "ak_", machine_secret_key, clock=clock)
    check_public_url = None
    if transport is None:
        require_https("api_url", origin, allow_http=allow_http)
        check_public_url = partial(require_https, "url", allow_http=allow_http)
    http = HTTPClient(
        api_url=origin,
        timeout=timeout,
        max_inflight=max_inflight,
        breakers=breakers,
        unknown_rate=unknown_rate,
        server_clock=server_clock,
        on_sent=on_sent,
        reporter=reporter,
        on_ended=on_ended,
        transport=transport,
    )
    return BackendAPI(
        http,
        instance_key,
        machine_key,
        timeout=timeout,
        retries=retries,
        check_public_url=check_public_url,
    )


def _require_https(origin: str, allow_http: bool, secret_key: Secret) -> None:
    require_https("api_url", origin, allow_http=allow_http, secret_key=secret_key)
