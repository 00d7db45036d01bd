"""Reads the proxies of the environment, with httpx's own function."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Final
from urllib.parse import urlsplit

import httpx

# httpx has no public name for this. If httpx used the proxies itself, it would not use our sockets.
from httpx._utils import get_environment_proxies

from clerk_m2m.environment import is_loopback
from clerk_m2m.errors import ConfigurationError

_LOOPBACK: Final = ("localhost", "127.0.0.1", "[::1]")
_SOCKS: Final = frozenset({"socks5", "socks5h"})


def environment_proxies(api_url: str) -> Mapping[str, httpx.Proxy | None]:
    """Return the proxy for each URL pattern (httpx's `mounts`); None connects directly.

    Reads `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` as httpx does, with one exception:
    calls to loopback never use a proxy. Plain http is allowed on loopback because it does not leave
    this machine. Raises `ConfigurationError`, which quotes no URL, because a proxy's URL may
    contain a password.
    """
    proxies = {pattern: _proxy(pattern, url) for pattern, url in get_environment_proxies().items()}
    return proxies | {f"all://{host}": None for host in _loopback_hosts(api_url)}


def _proxy(pattern: str, url: str | None) -> httpx.Proxy | None:
    proxy, fault = None, ""
    try:
        httpx.URL(pattern)
        proxy = None if url is None else httpx.Proxy(url)
    except (httpx.InvalidURL, ValueError):
        fault = "is not a valid URL or pattern"
    else:
        if proxy is not None and proxy.url.scheme in _SOCKS and find_spec("socksio") is None:
            fault = "is a SOCKS proxy, which needs the package socksio (httpx[socks])"
    if fault:
        # Raised outside of `except`, so not chained: the original error quotes the URL.
        name = f"{pattern.partition(':')[0].upper()}_PROXY" if url is not None else "NO_PROXY"
        raise ConfigurationError(f"The proxy in the environment ({name}) {fault}.")
    return proxy


def _loopback_hosts(api_url: str) -> Iterator[str]:
    yield from _LOOPBACK
    host = urlsplit(api_url).hostname or ""
    if is_loopback(host) and ":" not in host:
        yield host
