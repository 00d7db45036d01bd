"""Reads the events of a request from httpx's `trace` extension.

The flow of an `httpx.Auth` sees no response if a response hook raises: httpx then closes the flow,
as it does after a lost connection. And when httpx follows a redirect from http to https, it sends
the token again without asking the flow. The `trace` extension reports both. httpx's own transport
supports it; other transports may not.

See "trace" in httpx's documentation of request extensions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from clerk_m2m.outbound.hosts import Hosts
from clerk_m2m.secret import Secret

if TYPE_CHECKING:
    import httpx

_TRACE: Final = "trace"
_SENDS: Final = ".send_request_headers.started"
_ANSWERED: Final = ".receive_response_headers.complete"


class Trace:
    """Records the `status` of the response to a request that carries `header`; None until then.

    Calls the user's own trace function too. Raises `ConfigurationError` before a request with the
    token is sent to a host that `hosts` does not allow.
    """

    def __init__(self, header: Secret, hosts: Hosts | None, user: Any) -> None:
        self.status: int | None = None
        self.user = user
        self._header = header
        self._hosts = hosts
        self._carries = False

    async def note_async(self, name: str, info: Mapping[str, Any]) -> None:
        """Receive an event from an asynchronous transport."""
        self._note(name, info)
        if self.user is not None:
            await self.user(name, info)

    def note(self, name: str, info: Mapping[str, Any]) -> Any:
        """Receive an event from a synchronous transport."""
        self._note(name, info)
        return None if self.user is None else self.user(name, info)

    def _note(self, name: str, info: Mapping[str, Any]) -> None:
        if name.endswith(_SENDS):
            # This event also comes for a proxy's CONNECT and for redirects to another origin,
            # which do not carry the token.
            request = info.get("request")
            self._carries = self._is_in(getattr(request, "headers", ()))
            if self._carries and self._hosts is not None:
                url = getattr(request, "url", None)
                if url is not None:
                    self._hosts.require(url.scheme.decode(), url.host.decode(), url.port)
        elif self._carries and name.endswith(_ANSWERED):
            # (version, status, …) in HTTP/1.1, (status, …) in HTTP/2
            answer = info.get("return_value") or ()
            self.status = next((each for each in answer if isinstance(each, int)), None)

    def _is_in(self, headers: Any) -> bool:
        value = self._header.reveal().encode()
        return any(key.lower() == b"authorization" and value == given for key, given in headers)


@contextmanager
def traced(
    request: httpx.Request, header: Secret, hosts: Hosts | None, *, sync: bool
) -> Iterator[Trace]:
    """Trace one sending of `request`; afterwards restore the user's own extensions."""
    user = request.extensions.get(_TRACE)
    owner = getattr(user, "__self__", None)
    if isinstance(owner, Trace):
        user = owner.user  # httpx copied our function from an earlier request, e.g. on a redirect
    trace = Trace(header, hosts, user)
    function: Callable[..., Any] = trace.note if sync else trace.note_async
    request.extensions[_TRACE] = function
    try:
        yield trace
    finally:
        if user is None:
            request.extensions.pop(_TRACE, None)
        else:
            request.extensions[_TRACE] = user
