"""The common parts of the Backend API's operations: keys, calls and their answers."""

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

# The size limit per item of an answer, in bytes: a machine with 150 edges is 34 kB.
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
    """The result of an operation: its value and the answer's headers (`Date`, `Retry-After`)."""

    value: T
    headers: Mapping[str, str] = field(repr=False)


class Unset(Enum):
    """The type of `UNSET`, which means "keep the value" where None means "clear it"."""

    UNSET = "unset"


UNSET: Final = Unset.UNSET
"""The default of arguments of `update` methods: keep the value. None clears it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Keyed:
    """A call without its key, and the source of that key; None sends no key."""

    call: Call
    key: KeySource | None


class BackendAPI:
    """The Backend API with the keys of one client, and the listeners for revocations.

    `timeout` is the total deadline of a call, in seconds. It covers reading the key, waiting for a
    slot, the call, its `retries`, and the repetition with another key. `check_public_url`, if any,
    raises `ConfigurationError` for a URL from which no key set may be read.
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
        # Keys first: pickle follows this order, and their error says why they cannot be pickled.
        self._secret_key = secret_key
        self._machine_secret_key = machine_secret_key
        self._http = http
        self._timeout = timeout
        self._retries = retries
        self.check_public_url = check_public_url
        self.listeners = RevocationListeners()

    def with_options(self, *, timeout: float | None, retries: int | None) -> BackendAPI:
        """Return a copy with another timeout or other retries; the copy shares everything else.

        None keeps the option. Raises `ConfigurationError`.
        """
        other = copy(self)
        if timeout is not None:
            other._timeout = checked_timeout(timeout)
        if retries is not None:
            other._retries = checked_retries(retries)
        return other

    def is_outage(self, exc: Exception) -> bool:
        """Return whether `exc` is an outage of Clerk, in which stale values may be used.

        If a call was not sent, or a waiter timed out, the cause may be our own congestion. That is
        an outage only if the last finished call about a known credential got no answer.
        """
        if isinstance(exc, RateLimitedError | BackendUnavailableError):
            return True
        return self._http.last_known_call_failed

    @property
    def has_machine_key(self) -> bool:
        """Whether there is a machine's own key, which verifies only tokens for that machine."""
        return self._machine_secret_key is not None

    def instance_key(self) -> KeySource:
        """Return the instance's key; raises `ConfigurationError` if there is none."""
        if self._secret_key is None:
            raise ConfigurationError("This operation needs the instance's key: set secret_key.")
        return self._secret_key

    def machine_key(self) -> KeySource:
        """Return the machine's own key; raises `ConfigurationError` if there is none."""
        if self._machine_secret_key is None:
            raise ConfigurationError("Minting needs a machine's own key: set machine_secret_key.")
        return self._machine_secret_key

    def verifying_key(self) -> KeySource:
        """Return the machine's own key if there is one, else the instance's.

        With the machine's key, Clerk verifies only tokens that may call this machine.
        """
        key = self._machine_secret_key
        return self.instance_key() if key is None else key

    def administering_key(self) -> KeySource:
        """Return the instance's key if there is one, else the machine's.

        The instance's key reaches the tokens of every machine. If there is neither key, the error
        asks for the instance's.
        """
        has_instance_key = self._secret_key is not None or self._machine_secret_key is None
        return self.instance_key() if has_instance_key else self.machine_key()

    async def send(
        self, keyed: Keyed, read: Callable[[Document], T], *, demand: CallDemand | None = None
    ) -> Answered[T]:
        """Send a call and read its answer; raises `BackendAPIError` if there is no good answer.

        If Clerk refuses the key and its source has another one, the call is sent again once. That
        is safe for every call: if Clerk refuses the key, it has not carried out the call.
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
        """Like `send`, but return only the value, and notify the listeners of what the call `ends`.

        They are notified unless Clerk clearly rejected the call (400, 401, 403, 409, 422, 429) or
        there was no key to send it with. After a timeout, a cancellation or a 404 the resource may
        be gone, so they are notified too.
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
        """Return the current state of the calls, for an exporter."""
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
            "ClerkClient needs asyncio, but no asyncio event loop is running. Under trio, call a "
            "SyncClerkClient in a thread: await trio.to_thread.run_sync(clerk.machines.list)."
        ) from None


def checked_timeout(value: object) -> float:
    """Return the total deadline of a call, in seconds; raises `ConfigurationError`."""
    return checked_seconds("timeout", value, least=0.01)


def checked_retries(value: object) -> int:
    """Return how often a call may be sent again; raises `ConfigurationError`."""
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
    if type(items) is not int:  # the `limit` of a list, on which the size limit depends
        raise ConfigurationError(f"{operation}: limit (page_size of iter) must be a whole number.")
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
    """Make a call that changes something; members of `body` that are UNSET are not sent.

    Raises `ConfigurationError` for a body that JSON cannot hold.
    """
    sent = None
    if body is not None:
        sent = plain_json(operation, {k: v for k, v in body.items() if v is not UNSET})
    return Keyed(call=Call(operation=operation, method=method, url=url, body=sent), key=key)


def verifying(operation: str, url: str, key: KeySource, body: Mapping[str, Secret]) -> Keyed:
    """Make a call that verifies a credential: a POST that is safe to repeat, and billed."""
    check_text(operation, body)
    call = Call(
        operation=operation, method="POST", url=url, body=body, repeatable=True, billed=True
    )
    return Keyed(call=call, key=key)


def items(name: str, values: Iterable[str]) -> list[str]:
    """Return the values as a list; raises `ConfigurationError` for a single string."""
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise ConfigurationError(f"{name} must be a list, not {type(values).__name__}.")
    return list(values)


def segment(identifier: object) -> str:
    """Return an id for use in a path; raises `ConfigurationError` if it could change the path."""
    if not isinstance(identifier, str) or not _ID.fullmatch(identifier):
        raise ConfigurationError(
            "This is not an id of Clerk's: an id has only letters, digits and underscores."
        )
    return identifier


def document_of(call: Call, received: Received) -> Document:
    """Return the JSON object of a 2xx answer; for others, raise the matching `BackendAPIError`."""
    # When this raises, no local may hold a part of the answer: tracebacks may show locals.
    if not 200 <= received.status < 300:
        raise error_of(call, received)
    document = Document({}) if received.status == 204 else read_document(received.body)
    if document is None:
        raise BackendUnavailableError(f"{call.operation}: Clerk's answer is not a JSON object.")
    return document
