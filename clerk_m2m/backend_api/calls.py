"""What the operations of the Backend API share: keys, calls, and their answers."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable, Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from clerk_m2m.backend_api.arguments import check_text, plain_json, query_text
from clerk_m2m.backend_api.document import Document, read_document
from clerk_m2m.backend_api.key_source import KeySource
from clerk_m2m.backend_api.problems import error_of
from clerk_m2m.backend_api.revocations import Revocation, RevocationListeners
from clerk_m2m.environment import (
    checked_count,
    checked_seconds,
)
from clerk_m2m.errors import (
    BackendUnavailableError,
    ConfigurationError,
    ConflictError,
    InvalidRequestError,
    KeyRefusedError,
    KeyUnavailableError,
    RateLimitedError,
)
from clerk_m2m.secret import Secret
from clerk_m2m.transport.call import MAX_ANSWER, RETRIES, Budget, Call, Received
from clerk_m2m.transport.gate import CallDemand
from clerk_m2m.transport.http import HTTPClient

if TYPE_CHECKING:
    from clerk_m2m.observe.measurements import Upstream

T = TypeVar("T")

# The most that one item of an answer may take, in bytes: a machine of 150 edges is 34 kB.
MAX_ITEM: Final = 64 * 1024
MAX_PAGE_SIZE: Final = 500
_ID: Final = re.compile("[A-Za-z0-9_]+")

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
"""The default of an argument of an update that leaves the value as it is. None clears it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Keyed:
    """A call that has no key yet, and the source of the one to send with it; None sends none."""

    call: Call
    key: KeySource | None


class BackendAPI:
    """The Backend API with the keys of one caller, and who wants to hear of revocations.

    `timeout` is the total deadline of a call, in seconds: it covers the wait for a key and for a
    turn, the call, its `retries`, and the repeat with another key. `check_public_url`, if any,
    raises `ConfigurationError` for an address that no key set may be read from.
    """

    def __init__(
        self,
        http: HTTPClient,
        secret_key: KeySource | None,
        machine_secret_key: KeySource | None,
        *,
        timeout: float,
        retries: int = RETRIES,
        check_public_url: Callable[[str], None] | None,
    ) -> None:
        # The keys first: pickle follows this order, and a key says best why it cannot be pickled.
        self._secret_key = secret_key
        self._machine_secret_key = machine_secret_key
        self._http = http
        self._timeout = timeout
        self._retries = retries
        self.check_public_url = check_public_url
        self.listeners = RevocationListeners()

    def with_options(self, *, timeout: float | None, retries: int | None) -> BackendAPI:
        """Give one with another timeout or other retries that shares everything else.

        None leaves an option as it is. Raises `ConfigurationError`.
        """
        other = copy(self)
        if timeout is not None:
            other._timeout = checked_timeout(timeout)
        if retries is not None:
            other._retries = checked_retries(retries)
        return other

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
        """Whether `verifying_key` is a machine's own, which sees only what may call it."""
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

    def verifying_key(self) -> KeySource:
        """Give the machine's own key, which sees only what may call it, else the instance's."""
        key = self._machine_secret_key
        return self.instance_key() if key is None else key

    def administering_key(self) -> KeySource:
        """Give the instance's key, which reaches the tokens of every machine, else the machine's.

        Where there is neither, the error asks for the instance's.
        """
        has_instance_key = self._secret_key is not None or self._machine_secret_key is None
        return self.instance_key() if has_instance_key else self.machine_key()

    async def send(
        self, keyed: Keyed, read: Callable[[Document], T], *, demand: CallDemand | None = None
    ) -> Answered[T]:
        """Send a call and read its answer; anything but a good answer raises `BackendAPIError`.

        Where Clerk refuses the key and its source has another, the call is sent once more. That is
        safe for every call: Clerk has done nothing where it refuses the key.
        """

        def answered(call: Call, received: Received) -> Answered[T]:
            return Answered(value=read(document_of(call, received)), headers=received.headers)

        _require_asyncio()
        budget = Budget.from_now(self._timeout, self._retries)

        async def send(key: Secret | None) -> Answered[T]:
            call = replace(keyed.call, key=key)
            return await self._http.call(call, answered, demand=demand, budget=budget)

        if keyed.key is None:
            return await send(None)
        return await keyed.key.use(keyed.call.operation, send, timeout=budget.timeout)

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
                self.listeners.tell(ends)

    def measure(self) -> Upstream:
        """Tell how the calls stand now."""
        return self._http.measure()

    async def aclose(self) -> None:
        """Close the connections of this event loop; the next call opens new ones."""
        _require_asyncio()
        await self._http.aclose()


def _require_asyncio() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise ConfigurationError(
            "ClerkClient needs asyncio, and no event loop of asyncio runs. Under trio, call a "
            "SyncClerkClient in a thread: await trio.to_thread.run_sync(clerk.machines.list)."
        ) from None


def checked_timeout(value: object) -> float:
    """Give the total deadline of a call, in seconds; raises `ConfigurationError` for none."""
    return checked_seconds("timeout", value, least=0.01)


def checked_retries(value: object) -> int:
    """Give how often a call may be sent again; raises `ConfigurationError` for what is no count."""
    return checked_count("retries", value, least=0)


def reading(
    operation: str,
    url: str,
    key: KeySource | None,
    query: Mapping[str, Any] | None = None,
    *,
    items: int = 1,
) -> Keyed:
    """Make a call that only reads; its answer holds at most `items` items.

    Raises `ConfigurationError` for a query that cannot be sent.
    """
    if type(items) is not int:  # the `limit` of a list, which decides how much is read
        raise ConfigurationError(f"{operation}: limit (page_size of a walk) is a whole number.")
    check_text(operation, query or {})
    call = Call(
        operation=operation,
        method="GET",
        url=url,
        query=query_text(query or {}) or None,
        repeatable=True,
        max_bytes=MAX_ANSWER + items * MAX_ITEM,
    )
    return Keyed(call=call, key=key)


def writing(
    operation: str, method: str, url: str, key: KeySource, body: Mapping[str, Any] | None = None
) -> Keyed:
    """Make a call that changes something; what is UNSET in `body` is left out.

    Raises `ConfigurationError` for a body that JSON cannot hold.
    """
    sent = None
    if body is not None:
        sent = plain_json(operation, {k: v for k, v in body.items() if v is not UNSET})
    return Keyed(call=Call(operation=operation, method=method, url=url, body=sent), key=key)


def verifying(operation: str, url: str, key: KeySource, body: Mapping[str, Secret]) -> Keyed:
    """Make a call that asks about a credential: a POST that may be repeated."""
    check_text(operation, body)
    call = Call(
        operation=operation, method="POST", url=url, body=body, repeatable=True, billed=True
    )
    return Keyed(call=call, key=key)


def items(name: str, values: Iterable[str]) -> list[str]:
    """Give a list to send; `ConfigurationError` for one string, which would be its letters."""
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise ConfigurationError(f"{name} must be a list, not {type(values).__name__}.")
    return list(values)


def segment(identifier: object) -> str:
    """Give an id as a segment of a path; `ConfigurationError` where it could change the path."""
    if not isinstance(identifier, str) or not _ID.fullmatch(identifier):
        raise ConfigurationError("An id of Clerk's is text of letters, digits and underscores.")
    return identifier


def document_of(call: Call, received: Received) -> Document:
    """Give the JSON object of a 2xx answer; any other raises the `BackendAPIError` it means."""
    # Where this raises, no local may hold a part of the answer: tracebacks may show them.
    if not 200 <= received.status < 300:
        raise error_of(call, received)
    document = Document({}) if received.status == 204 else read_document(received.body)
    if document is None:
        raise BackendUnavailableError(f"{call.operation}: Clerk's answer is not a JSON object.")
    return document
