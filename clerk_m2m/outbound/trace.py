"""What httpx tells of a request while it is under way, by its `trace` extension.

The flow of an `httpx.Auth` sees no answer where a response hook raises: httpx closes it then, as it
does for a lost connection. And httpx follows a redirect from http to https by itself, with the
token. The transport that comes with httpx tells of both; others may tell nothing.

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
    """Notes the `status` of the answer to a request that carries `header`; None before it comes.

    Calls the user's own trace function too. Raises `ConfigurationError` before a request with the
    token goes where `hosts` does not allow it.
    """

    def __init__(self, header: Secret, hosts: Hosts | None, user: Any) -> None:
        self.status: int | None = None
        self.user = user
        self._header = header
        self._hosts = hosts
        self._carries = False

    async def note_async(self, name: str, info: Mapping[str, Any]) -> None:
        """Be told of an event by an asynchronous transport."""
        self._note(name, info)
        if self.user is not None:
            await self.user(name, info)

    def note(self, name: str, info: Mapping[str, Any]) -> Any:
        """Be told of an event by a synchronous transport."""
        self._note(name, info)
        return None if self.user is None else self.user(name, info)

    def _note(self, name: str, info: Mapping[str, Any]) -> None:
        if name.endswith(_SENDS):
            # Of a proxy's CONNECT and of redirects, too: neither has the token.
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
    """Trace one sending of `request`; afterwards its extensions are the user's again."""
    user = request.extensions.get(_TRACE)
    owner = getattr(user, "__self__", None)
    if isinstance(owner, Trace):
        user = owner.user  # copied from a request of ours, such as one that was redirected
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
