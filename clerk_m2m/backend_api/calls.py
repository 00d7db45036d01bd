"""What an answer of the Backend API means. No I/O.

Only an answer in Clerk's own shape decides anything: a bare 404 of a gateway is an outage. What an
upstream says in an error is passed on without what repeats a secret.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from clerk_m2m.backend_api.parsing import Document, read_problem
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
from clerk_m2m.transport.http import Call, Received, retry_after

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
