"""Which requests under `/_emulator` come from a web page, and are refused.

The controls take no key, so a page in a browser on this machine must not reach them:

- A page of another site can send a simple POST. The browser adds `Origin` to it, which no script
  or test sends.
- A page can have its own name resolve to 127.0.0.1 (DNS rebinding), and then no request of it is
  cross-origin. Its name stays in `Host`.

A server fills in `scope["server"]` with the address of the socket, so it never equals the name of
such a page. In process, httpx and Starlette fill in the host of the URL, which then equals `Host`.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Any

from clerk_m2m.emulator.responses import Refusal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from clerk_m2m.emulator.request import Request

# RFC 9110 section 7.2, with the forms of RFC 3986 that a client sends: a name, an IPv4 address, or
# an IPv6 address in brackets; then the port, if any.
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::[0-9]{0,5})?")
_NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")


def read_allowed_hosts(given: Iterable[str]) -> frozenset[str]:
    """The other names and addresses that `Host` may hold; raises `ValueError` for anything else."""
    if isinstance(given, str):
        raise ValueError("allowed_hosts must be a list of host names, not one string")
    return frozenset(_allowed_host(each) for each in given)


def refuse_web_pages(request: Request, server: Any, allowed: frozenset[str]) -> None:
    """Raise 403 for a request with `Origin`, and for a `Host` that is not this emulator's.

    `server` is the connection's `scope["server"]`. Ports are not compared: a container publishes
    its own.
    """
    if request.origins:
        message = "A request with an Origin header, which browsers send, is refused here"
        raise Refusal(403, "origin_not_allowed", message)
    host = _host(request.hosts[0]) if len(request.hosts) == 1 else None
    served_at = _canonical(str(server[0])) if server else None
    if host is None or not (_is_loopback(host) or host in allowed or host == served_at):
        message = (
            "Host must be loopback, or the address that the emulator is served at. Allow another "
            "name with --allow-host NAME or Emulator(allowed_hosts=[NAME])"
        )
        raise Refusal(403, "host_not_allowed", message)


def _allowed_host(given: str) -> str:
    host = _canonical(given.removeprefix("[").removesuffix("]"))
    if not (_NAME.fullmatch(host) or _address(host)):
        raise ValueError(
            f"an allowed host is a name or an address without scheme and port, not {given!r}"
        )
    return host


def _host(header: str) -> str | None:
    """The host of a `Host` header, without its port; `None` where it is malformed."""
    found = _HOST.fullmatch(header)
    if found is None:
        return None
    in_brackets, other = found.groups()
    if in_brackets is None:
        return _canonical(other)
    is_ipv6 = isinstance(_address(in_brackets), ipaddress.IPv6Address)
    return _canonical(in_brackets) if is_ipv6 else None


def _canonical(host: str) -> str:
    """One spelling of a host: lower case, without a dot at its end; an address as Python has it."""
    address = _address(host)
    if address is None:
        return host.lower().removesuffix(".")
    # An IPv4 connection to a dual-stack socket (RFC 4291 section 2.5.5.2).
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def _is_loopback(host: str) -> bool:
    # Not *.localhost: RFC 6761 only recommends that resolvers answer it with loopback.
    address = _address(host)
    return host == "localhost" if address is None else address.is_loopback


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
