"""What the operations of the Backend API share: keys, paging, and who hears of a revocation."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, TypeVar

from clerk_m2m.backend_api import resources as records
from clerk_m2m.backend_api.calls import MAX_LIST_ANSWER, outcome
from clerk_m2m.backend_api.parsing import Document
from clerk_m2m.errors import (
    AnswerTooLargeError,
    ConfigurationError,
    ConflictError,
    InvalidRequestError,
    RateLimitedError,
    UnauthorizedError,
)
from clerk_m2m.secret import Secret
from clerk_m2m.transport.http import Call, HTTPClient

T = TypeVar("T")


class Unset(Enum):
    """Stands for "leave as it is" where None means something."""

    UNSET = "unset"


UNSET: Final = Unset.UNSET


@dataclass(frozen=True, slots=True, kw_only=True)
class Revocation:
    """What a call of this client has ended, or may have: a credential, a machine, or edges."""

    token_id: str | None = None
    machine_id: str | None = None
    caller: str | None = None


class Session:
    """The HTTP client with its keys, and who wants to hear of revocations."""

    def __init__(
        self, http: HTTPClient, instance_key: Secret | None, machine_key: Secret | None
    ) -> None:
        self.http = http
        self._instance_key = instance_key
        self._machine_key = machine_key
        self.listeners: list[Callable[[Revocation], None]] = []

    def instance_key(self) -> Secret:
        if self._instance_key is None:
            raise ConfigurationError("This operation takes the instance's key: give secret_key.")
        return self._instance_key

    def machine_key(self) -> Secret:
        if self._machine_key is None:
            raise ConfigurationError("Minting takes a machine's own key: give machine_secret_key.")
        return self._machine_key

    def either_key(self) -> Secret:
        return self._machine_key or self.instance_key()

    def tell(self, revocation: Revocation) -> None:
        for listener in self.listeners:
            listener(revocation)


class OperationGroup:
    """A group of operations on one session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def _get(
        self,
        operation: str,
        url: str,
        key: Secret | None,
        query: Mapping[str, Any] | None = None,
        *,
        background: bool = False,
    ) -> Document:
        call = Call(
            operation=operation,
            method="GET",
            url=url,
            key=key,
            query=_query(query or {}) or None,
            repeatable=True,
            max_bytes=MAX_LIST_ANSWER,
        )
        return await self._session.http.call(call, outcome, background=background)

    async def _send(
        self,
        operation: str,
        method: str,
        url: str,
        key: Secret,
        body: Mapping[str, Any] | None = None,
        *,
        ends: Revocation | None = None,
    ) -> Document:
        """Send a call that changes something, and tell of what it `ends`.

        Unless Clerk has clearly refused, the call may have been carried out: an answer can be lost,
        nobody may have waited for it, and a 404 says that it is gone already.
        """
        sent = None if body is None else {k: v for k, v in body.items() if v is not UNSET}
        call = Call(operation=operation, method=method, url=url, key=key, body=sent)
        try:
            return await self._session.http.call(call, outcome)
        except (InvalidRequestError, UnauthorizedError, ConflictError, RateLimitedError):
            ends = None
            raise
        finally:
            if ends is not None:
                self._session.tell(ends)

    async def _verify(
        self, operation: str, url: str, key: Secret, body: Mapping[str, Any], background: bool
    ) -> Document:
        call = Call(
            operation=operation, method="POST", url=url, key=key, body=body, repeatable=True
        )
        return await self._session.http.call(call, outcome, background=background)


async def walk(
    page: Callable[[int, int], Awaitable[records.Page[T]]], page_size: int
) -> AsyncIterator[T]:
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
