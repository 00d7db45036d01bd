"""What the operations of the Backend API share: keys, calls, pages, and revocation listeners."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from clerk_m2m.backend_api.key_source import KeySource, key_source
from clerk_m2m.backend_api.parsing import Document, read_document
from clerk_m2m.backend_api.problems import error_of
from clerk_m2m.backend_api.resources import Page
from clerk_m2m.clock import Clock
from clerk_m2m.environment import (
    SecretKey,
    bare_origin,
    checked_flag,
    require_https,
)
from clerk_m2m.errors import (
    AnswerTooLargeError,
    BackendUnavailableError,
    ConfigurationError,
    ConflictError,
    InvalidRequestError,
    KeyRefusedError,
    KeyUnavailableError,
    RateLimitedError,
)
from clerk_m2m.observe.reporter import Reporter
from clerk_m2m.secret import Secret, hidden
from clerk_m2m.transport.call import MAX_ANSWER, Call, Received
from clerk_m2m.transport.gate import CallDemand
from clerk_m2m.transport.http import HTTPClient

if TYPE_CHECKING:
    import httpx

    from clerk_m2m.clock import ServerClock
    from clerk_m2m.observe.call_times import CallResult
    from clerk_m2m.observe.measurements import Upstream
    from clerk_m2m.transport.admission import UnknownRate
    from clerk_m2m.transport.breaker import Breakers

T = TypeVar("T")

# The most that one item of an answer may take, in bytes: a machine of 150 edges is 34 kB.
MAX_ITEM: Final = 64 * 1024
MAX_PAGE_SIZE: Final = 500

_NOTHING_DONE: Final = (
    InvalidRequestError,
    KeyRefusedError,
    KeyUnavailableError,
    ConflictError,
    RateLimitedError,
)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Keyed:
    """A call that has no key yet, and the source of the one to send with it; None sends none."""

    call: Call
    key: KeySource | None


class BackendAPI:
    """The Backend API with the keys of one caller, and who wants to hear of revocations.

    `timeout` is that of `http`, in seconds.
    """

    def __init__(
        self,
        http: HTTPClient,
        secret_key: KeySource | None,
        machine_secret_key: KeySource | None,
        *,
        timeout: float,
    ) -> None:
        # The keys first: pickle follows this order, and a key says best why it cannot be pickled.
        self._secret_key = secret_key
        self._machine_secret_key = machine_secret_key
        self._http = http
        self._timeout = timeout
        self.listeners: list[Callable[[Revocation], None]] = []

    def is_outage(self, exc: Exception) -> bool:
        """Tell an outage of Clerk's, in which stale values may count, from our own congestion.

        A call that was not sent, and a request that waited in vain, say nothing of Clerk: they
        count only if the last call about what is known that ended got no answer.
        """
        if isinstance(exc, RateLimitedError | BackendUnavailableError):
            return True
        return self._http.last_known_call_failed

    @property
    def has_machine_key(self) -> bool:
        """Whether `either_key` is a machine's own, which sees only what may call that machine."""
        return self._machine_secret_key is not None

    def instance_key(self) -> KeySource:
        """Give the instance's key; raises `ConfigurationError` where there is none."""
        if self._secret_key is None:
            raise ConfigurationError("This operation takes the instance's key: give secret_key.")
        return self._secret_key

    def machine_key(self) -> KeySource:
        """Give the machine's own key; raises `ConfigurationError` where there is none."""
        if self._machine_secret_key is None:
            raise ConfigurationError("Minting takes a machine's own key: give machine_secret_key.")
        return self._machine_secret_key

    def either_key(self) -> KeySource:
        """Give the machine's own key, else the instance's."""
        key = self._machine_secret_key
        return self.instance_key() if key is None else key

    async def send(
        self, keyed: Keyed, read: Callable[[Document], T], *, demand: CallDemand | None = None
    ) -> Answered[T]:
        """Send a call and read its answer; anything but a good answer raises `BackendAPIError`.

        Where Clerk refuses the key and its source has another, the call is sent once more. That is
        safe for every call: Clerk has done nothing where it refuses the key.
        """

        def answered(call: Call, received: Received) -> Answered[T]:
            return Answered(value=read(document_of(call, received)), headers=received.headers)

        async def send(key: Secret | None) -> Answered[T]:
            return await self._http.call(replace(keyed.call, key=key), answered, demand=demand)

        if keyed.key is None:
            return await send(None)
        return await keyed.key.use(keyed.call.operation, send, timeout=self._timeout)

    async def run(
        self, call: Keyed, read: Callable[[Document], T], *, ends: Revocation | None = None
    ) -> T:
        """Like `send`, and give the value alone; the listeners are told of what the call `ends`.

        They are told unless Clerk clearly rejected the call (400, 401, 403, 409, 422, 429) or there
        was no key to send it with. After a timeout, a cancellation or a 404 the resource may be
        gone, so they are told too.
        """
        try:
            return (await self.send(call, read)).value
        except _NOTHING_DONE:
            ends = None
            raise
        finally:
            if ends is not None:
                for listener in self.listeners:
                    listener(ends)

    def measure(self) -> Upstream:
        """Tell how the calls stand now."""
        return self._http.measure()

    async def aclose(self) -> None:
        """Close the connections of this event loop; the next call opens new ones."""
        await self._http.aclose()


def open_api(
    *,
    secret_key: SecretKey | None,
    machine_secret_key: SecretKey | None,
    api_url: str,
    allow_http: bool,
    timeout: float,
    max_inflight: int,
    transport: httpx.AsyncBaseTransport | None,
    breakers: Breakers | None = None,
    unknown_rate: UnknownRate | None = None,
    server_clock: ServerClock | None = None,
    on_sent: Callable[[Call], None] | None = None,
    reporter: Reporter | None = None,
    on_ended: Callable[[Call, CallResult, float], None] | None = None,
    clock: Clock | None = None,
) -> BackendAPI:
    """Check keys and address, and give the Backend API behind them.

    With `breakers`, a call that Clerk asks to wait fails at once; without them it waits, if it may
    be repeated. Raises `ConfigurationError`.
    """
    # First of all: tracebacks may show the locals of this frame.
    secret_key, machine_secret_key = hidden(secret_key), hidden(machine_secret_key)
    origin = bare_origin(api_url)
    allow_http = checked_flag("allow_http", allow_http)
    check = None
    if transport is None:
        check = partial(_require_https, origin, allow_http)
    clock = clock or Clock()
    instance_key = key_source("secret_key", "sk_", secret_key, clock=clock, check=check)
    machine_key = key_source("machine_secret_key", "ak_", machine_secret_key, clock=clock)
    if transport is None:
        require_https("api_url", origin, allow_http=allow_http)
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
    return BackendAPI(http, instance_key, machine_key, timeout=timeout)


def _require_https(origin: str, allow_http: bool, secret_key: Secret) -> None:
    require_https("api_url", origin, allow_http=allow_http, secret_key=secret_key)


def reading(
    operation: str,
    url: str,
    key: KeySource | None,
    query: Mapping[str, Any] | None = None,
    *,
    items: int = 1,
) -> Keyed:
    """Make a call that only reads; its answer holds at most `items` items."""
    call = Call(
        operation=operation,
        method="GET",
        url=url,
        query=_query(query or {}) or None,
        repeatable=True,
        max_bytes=MAX_ANSWER + items * MAX_ITEM,
    )
    return Keyed(call=call, key=key)


def writing(
    operation: str, method: str, url: str, key: KeySource, body: Mapping[str, Any] | None = None
) -> Keyed:
    """Make a call that changes something; what is UNSET in `body` is left out."""
    sent = None if body is None else {k: v for k, v in body.items() if v is not UNSET}
    return Keyed(call=Call(operation=operation, method=method, url=url, body=sent), key=key)


def verifying(operation: str, url: str, key: KeySource, body: Mapping[str, Secret]) -> Keyed:
    """Make a call that asks about a credential: a POST that may be repeated."""
    call = Call(
        operation=operation, method="POST", url=url, body=body, repeatable=True, billed=True
    )
    return Keyed(call=call, key=key)


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
    document = read_document(received.body)
    if document is None:
        raise BackendUnavailableError(f"{call.operation}: Clerk's answer is not a JSON object.")
    return document
