"""`Hosts`: the hosts that the token may be sent to."""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import ip_address
from typing import Final, TypeAlias

import httpx

from clerk_m2m.environment import is_loopback
from clerk_m2m.errors import ConfigurationError

_DEFAULT_PORTS: Final = {"http": 80, "ws": 80, "https": 443, "wss": 443}
_ENCRYPTED: Final = frozenset({"https", "wss"})
# Labels that resolvers accept; names in container networks may contain `_`.
_NAME: Final = re.compile(r"(?!-)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*\.?")
# Whether the connection is encrypted, the host, and the port; None means any port.
_Place: TypeAlias = tuple[bool, str, int | None]


class Hosts:
    """The setting `hosts`; raises `ConfigurationError` for an entry that can never match."""

    def __init__(self, given: Iterable[str]) -> None:
        if isinstance(given, str | bytes) or not isinstance(given, Iterable):
            raise _no_list()
        self._places = frozenset(place for each in given for place in _places(each))
        if not self._places:
            raise _no_list()

    def require(self, scheme: str, host: str, port: int | None) -> None:
        """Raise `ConfigurationError` unless the token may be sent there; `host` is as sent."""
        encrypted = scheme in _ENCRYPTED
        port = port or _DEFAULT_PORTS.get(scheme)
        if self._holds(encrypted, host, port):
            return
        if self._holds(True, host, port):
            raise ConfigurationError(
                f"hosts allows the token to {host} over https only. Call it with https, or add "
                f'"http://{_shown(host)}" to hosts to allow plain http, or pass auth=None to send '
                "this call without a token."
            )
        raise ConfigurationError(
            f"hosts does not allow the token to {host}, port {port}. Add "
            f'"{"" if encrypted or is_loopback(host) else "http://"}{_shown(host)}:{port}" to '
            "hosts, or pass auth=None to send this call without a token."
        )

    def _holds(self, encrypted: bool, host: str, port: int | None) -> bool:
        places = self._places
        return (encrypted, host, None) in places or (encrypted, host, port) in places


def _no_list() -> ConfigurationError:
    return ConfigurationError('hosts must be a list of host names, such as ["orders.internal"].')


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _places(given: object) -> list[_Place]:
    text = given if isinstance(given, str) else ""
    scheme, separator, name = text.rpartition("://")
    scheme = scheme.lower() if separator else "https"
    try:
        url = httpx.URL(f"//{name}")
    except httpx.InvalidURL:
        url = httpx.URL()
    host = url.raw_host.decode("ascii")
    if scheme not in ("http", "https") or not _can_match(name, host, url.port):
        raise ConfigurationError(
            f'hosts: {given!r} is not a host. Write "name" or "name:port" for https only, or '
            '"http://name" or "http://name:port" to allow plain http too.'
        )
    allows_http = scheme == "http" or is_loopback(host)
    return [(True, host, url.port), *([(False, host, url.port)] if allows_http else [])]


def _can_match(name: str, host: str, port: int | None) -> bool:
    if any(char in name for char in "/?#@* ") or (port is not None and not 0 < port < 65536):
        return False
    try:
        ip_address(host)
    except ValueError:
        return _NAME.fullmatch(host) is not None
    return True
