"""One call as it is sent, and its response."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

from clerk_m2m.secret import Secret

MAX_ANSWER: Final = 64 * 1024
# The default number of retries.
RETRIES: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of an operation. A credential in `body` is a `Secret` until the request is built.

    `repeatable`: the call is idempotent. `billed`: Clerk bills it.
    """

    operation: str
    method: str
    url: str
    key: Secret | None = None
    body: Mapping[str, Any] | None = field(default=None, repr=False)
    query: Mapping[str, str] | None = None
    repeatable: bool = False
    billed: bool = False
    max_bytes: int = MAX_ANSWER

    def secrets(self) -> Iterable[str]:
        """Return the texts that an error must not contain: the key and a credential in the body."""
        if self.key:
            yield self.key.reveal()
        yield from (
            each.reveal() for each in (self.body or {}).values() if isinstance(each, Secret)
        )

    def content(self) -> Mapping[str, Any] | None:
        """Return the body as it is sent, with its credential in clear."""
        if self.body is None:
            return None
        return {k: v.reveal() if isinstance(v, Secret) else v for k, v in self.body.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """The limits of one call: `timeout` seconds in total, and `retries` after the first attempt.

    The deadline is `ends_at`, on the clock of the event loop.
    """

    timeout: float
    retries: int
    ends_at: float

    @classmethod
    def from_now(cls, timeout: float, retries: int = RETRIES) -> Budget:
        """Return the budget of a call that starts now."""
        ends_at = asyncio.get_running_loop().time() + timeout
        return cls(timeout=timeout, retries=retries, ends_at=ends_at)

    def left(self) -> float:
        """Return the remaining seconds; negative after the deadline."""
        return self.ends_at - asyncio.get_running_loop().time()


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """The response to a call. Its repr hides headers and body, because they may hold a key."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


def retry_after(headers: Mapping[str, str]) -> float:
    """Read `Retry-After` in seconds (RFC 9110 section 10.2.3); 1 if it is missing or invalid."""
    text = headers.get("retry-after", "")
    if re.fullmatch(r"[0-9]{1,9}", text):
        return float(text)
    try:
        instant = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return 1.0
    if instant.tzinfo is None:
        instant = instant.replace(tzinfo=UTC)
    return max(0.0, (instant - datetime.now(UTC)).total_seconds())
