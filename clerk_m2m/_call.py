"""One call of the Backend API: what is sent, and what its answer means. No I/O.

Only an answer in Clerk's own shape decides anything: a bare 404 of a gateway is an outage. What an
upstream says in an error is passed on without what repeats a secret.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

from clerk_m2m._secret import Secret
from clerk_m2m._wire import Document, read_problem
from clerk_m2m.errors import (
    BackendAPIError,
    ConflictError,
    FieldError,
    InvalidRequestError,
    NotFoundError,
    RateLimitedError,
    UnauthorizedError,
    UnavailableError,
)

MAX_ANSWER: Final = 64 * 1024
MAX_LIST_ANSWER: Final = 256 * 1024
PIECE: Final = 12

_ERRORS: Final[Mapping[int, type[BackendAPIError]]] = {
    400: InvalidRequestError,
    401: UnauthorizedError,
    403: UnauthorizedError,
    404: NotFoundError,
    409: ConflictError,
    422: InvalidRequestError,
    429: RateLimitedError,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of an operation. `repeatable` marks that doing it twice changes nothing more.

    A credential in `body` is a `Secret` until the request is built.
    """

    operation: str
    method: str
    url: str
    key: Secret | None = None
    body: Mapping[str, Any] | None = field(default=None, repr=False)
    query: Mapping[str, str] | None = None
    repeatable: bool = False
    max_bytes: int = MAX_ANSWER

    def secrets(self) -> Iterable[str]:
        """Give what must not come back in an error: the key, and the credential in the body."""
        if self.key:
            yield self.key.reveal()
        yield from (
            each.reveal() for each in (self.body or {}).values() if isinstance(each, Secret)
        )

    def content(self) -> Mapping[str, Any] | None:
        """Give the body as it is sent, its credential in clear."""
        if self.body is None:
            return None
        return {k: v.reveal() if isinstance(v, Secret) else v for k, v in self.body.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """What was answered to a call. Headers and body are hidden: they may hold a key."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


def outcome(call: Call, received: Received) -> Document:
    """Give the JSON object of a 2xx answer; any other raises the `BackendAPIError` it means."""
    # Where this raises, no local may hold a part of the answer: tracebacks may show them.
    if not 200 <= received.status < 300:
        raise _error(call, received)
    document = _document(received)
    if document is None:
        raise UnavailableError(f"{call.operation}: Clerk's answer is not a JSON object.")
    return document


def _document(received: Received) -> Document | None:
    value = _parse(received.body)
    return Document(value) if isinstance(value, dict) else None


def _error(call: Call, received: Received) -> BackendAPIError:
    status, problem = received.status, read_problem(_parse(received.body))
    kind = _ERRORS.get(status, UnavailableError)
    if problem is None and kind in (InvalidRequestError, NotFoundError, ConflictError):
        # Whatever answered is not Clerk: a wrong address, a gateway. It has decided nothing.
        kind = UnavailableError
    secrets = tuple(call.secrets())
    errors = tuple(_without(secrets, error) for error in problem.errors) if problem else ()
    said = " ".join(error.message for error in errors)
    trace_id = problem.clerk_trace_id if problem else None
    return kind(
        f"{call.operation}: Clerk answered {status}. {said}".rstrip(),
        status=status,
        errors=errors,
        clerk_trace_id=None if _repeats(secrets, trace_id or "") else trace_id,
        retry_after=retry_after(received.headers) if status in (429, 503) else None,
    )


def _without(secrets: tuple[str, ...], error: FieldError) -> FieldError:
    """An upstream that echoes what was sent must not carry it into our logs."""
    if _repeats(secrets, f"{error.code} {error.message} {error.field}"):
        return FieldError(code="withheld", message="(The message repeats a secret.)")
    return error


def _repeats(secrets: tuple[str, ...], text: str) -> bool:
    """Whether a piece of a secret stands in `text`: an upstream may well show the half of it."""
    return any(
        secret[start : start + PIECE] in text
        for secret in secrets
        for start in range(max(1, len(secret) - PIECE + 1))
    )


def _parse(body: bytes) -> Any:
    try:
        return json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError):
        return None


def retry_after(headers: Mapping[str, str]) -> float:
    """Read `Retry-After` in seconds (RFC 9110 section 10.2.3); 1 where there is none to read."""
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
