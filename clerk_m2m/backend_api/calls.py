"""What the operations of the Backend API share: keys, calls, pages, and revocation listeners."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from clerk_m2m.backend_api.parsing import Document
from clerk_m2m.backend_api.problems import error_of, parsed
from clerk_m2m.backend_api.resources import Page
from clerk_m2m.environment import bare_origin, checked_flag, checked_key, require_https
from clerk_m2m.errors import (
    AnswerTooLargeError,
    BackendUnavailableError,
    ConfigurationError,
    ConflictError,
    InvalidRequestError,
    KeyRefusedError,
    RateLimitedError,
)
from clerk_m2m.secret import Secret
from clerk_m2m.transport.http import MAX_ANSWER, Call, Demand, HTTPClient, Received

if TYPE_CHECKING:
    import httpx

    from clerk_m2m.clock import ServerClock
    from clerk_m2m.transport.breaker import Breaker

T = TypeVar("T")

# The most that one item of an answer may take, in bytes: a machine of 150 edges is 34 kB.
MAX_ITEM: Final = 64 * 1024
MAX_PAGE_SIZE: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered(Generic[T]):
    """What an operation gave: its value, and the answer's headers (`Date`, `Retry-After`)."""

    value: T
    headers: Mapping[str, str] = field(repr=False)


class Unset(Enum):
    """The type of `UNSET`: "leave as it is", where None means something of its own."""

    UNSET = "unset"


UNSET: Final = Unset.UNSET


@dataclass(frozen=True, slots=True, kw_only=True)
class Revocation:
    """What a call of this client has ended, or may have: a credential, a machine, or edges."""

    token_id: str | None = None
    machine_id: str | None = None
    caller: str | None = None


class BackendAPI:
    """The Backend API with the keys of one caller, and who wants to hear of revocations."""

    def __init__(
        self, http: HTTPClient, secret_key: Secret | None, machine_secret_key: Secret | None
    ) -> None:
        self._http = http
        self._secret_key = secret_key
        self._machine_secret_key = machine_secret_key
        self.listeners: list[Callable[[Revocation], None]] = []

    def instance_key(self) -> Secret:
        """Give the instance's key; raises `ConfigurationError` where there is none."""
        if self._secret_key is None:
            raise ConfigurationError("This operation takes the instance's key: give secret_key.")
        return self._secret_key

    def machine_key(self) -> Secret:
        """Give the machine's own key; raises `ConfigurationError` where there is none."""
        if self._machine_secret_key is None:
            raise ConfigurationError("Minting takes a machine's own key: give machine_secret_key.")
        return self._machine_secret_key

    def either_key(self) -> Secret:
        """Give the machine's own key, else the instance's."""
        return self._machine_secret_key or self.instance_key()

    async def send(
        self, call: Call, read: Callable[[Document], T], *, demand: Demand | None = None
    ) -> Answered[T]:
        """Send a call and read its answer; anything but a good answer raises `BackendAPIError`."""

        def answered(call: Call, received: Received) -> Answered[T]:
            return Answered(value=read(document_of(call, received)), headers=received.headers)

        return await self._http.call(call, answered, demand=demand)

    async def run(
        self, call: Call, read: Callable[[Document], T], *, ends: Revocation | None = None
    ) -> T:
        """Like `send`, and give the value alone; the listeners are told of what the call `ends`.

        They are told unless Clerk clearly rejected the call (400, 401, 403, 409, 422, 429). After a
        timeout, a cancellation or a 404 the resource may be gone, so they are told too.
        """
        try:
            return (await self.send(call, read)).value
        except (InvalidRequestError, KeyRefusedError, ConflictError, RateLimitedError):
            ends = None
            raise
        finally:
            if ends is not None:
                for listener in self.listeners:
                    listener(ends)

    async def aclose(self) -> None:
        """Close the connections of this event loop; the next call opens new ones."""
        await self._http.aclose()


def open_api(
    *,
    secret_key: str | Secret | None,
    machine_secret_key: str | Secret | None,
    api_url: str,
    allow_http: bool,
    timeout: float,
    max_inflight: int,
    transport: httpx.AsyncBaseTransport | None,
    breaker: Breaker | None = None,
    server_clock: ServerClock | None = None,
) -> BackendAPI:
    """Check keys and address, and give the Backend API behind them.

    With a `breaker`, a call that Clerk asks to wait fails at once; without one it waits, if it may
    be repeated. Raises `ConfigurationError`.
    """
    origin = bare_origin(api_url)
    instance_key = checked_key("secret_key", "sk_", secret_key)
    allow_http = checked_flag("allow_http", allow_http)
    if transport is None:
        require_https("api_url", origin, allow_http=allow_http, secret_key=instance_key)
    http = HTTPClient(
        api_url=origin,
        timeout=timeout,
        max_inflight=max_inflight,
        breaker=breaker,
        waits=breaker is None,
        server_clock=server_clock,
        transport=transport,
    )
    return BackendAPI(
        http, instance_key, checked_key("machine_secret_key", "ak_", machine_secret_key)
    )


def reading(
    operation: str,
    url: str,
    key: Secret | None,
    query: Mapping[str, Any] | None = None,
    *,
    items: int = 1,
) -> Call:
    """Make a call that only reads; its answer holds at most `items` items."""
    return Call(
        operation=operation,
        method="GET",
        url=url,
        key=key,
        query=_query(query or {}) or None,
        repeatable=True,
        max_bytes=MAX_ANSWER + items * MAX_ITEM,
    )


def writing(
    operation: str, method: str, url: str, key: Secret, body: Mapping[str, Any] | None = None
) -> Call:
    """Make a call that changes something; what is UNSET in `body` is left out."""
    sent = None if body is None else {k: v for k, v in body.items() if v is not UNSET}
    return Call(operation=operation, method=method, url=url, key=key, body=sent)


def verifying(operation: str, url: str, key: Secret, body: Mapping[str, Secret]) -> Call:
    """Make a call that asks about a credential: a POST that may be repeated."""
    return Call(operation=operation, method="POST", url=url, key=key, body=body, repeatable=True)


async def walk(page: Callable[[int, int], Awaitable[Page[T]]], page_size: int) -> AsyncIterator[T]:
    """Walk the pages that `page(limit, offset)` gives; where one is too large, ask for less."""
    limit, offset = page_size, 0
    while True:
        try:
            items = (await page(limit, offset)).items
        except AnswerTooLargeError:
            if limit == 1:
                raise
            limit = max(1, limit // 4)
            continue
        for item in items:
            yield item
        offset += len(items)
        if len(items) < limit:
            return


def _query(values: Mapping[str, Any]) -> dict[str, str]:
    """Booleans as JSON writes them; what is None is left out."""
    return {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in values.items()
        if value is not None
    }


def items(name: str, values: Iterable[str]) -> list[str]:
    """Give a list to send; `ConfigurationError` for one string, which would be its letters."""
    if isinstance(values, str | bytes):
        raise ConfigurationError(f"{name} must be a list, not one string.")
    return list(values)


def segment(identifier: str) -> str:
    """Give an id as a segment of a path, only where it cannot change the path."""
    if not identifier or not all(char.isalnum() or char == "_" for char in identifier):
        raise ValueError("An id of Clerk's holds letters, digits and underscores only.")
    return identifier


def document_of(call: Call, received: Received) -> Document:
    """Give the JSON object of a 2xx answer; any other raises the `BackendAPIError` it means."""
    # Where this raises, no local may hold a part of the answer: tracebacks may show them.
    if not 200 <= received.status < 300:
        raise error_of(call, received)
    document = _document(received)
    if document is None:
        raise BackendUnavailableError(f"{call.operation}: Clerk's answer is not a JSON object.")
    return document


def _document(received: Received) -> Document | None:
    value = parsed(received.body)
    return Document(value) if isinstance(value, dict) else None
