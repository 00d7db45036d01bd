"""Maps error answers of the Backend API to exceptions.

A 4xx counts as Clerk's decision only if its body has Clerk's error format: a 404 or a 403 from a
proxy is an outage. Error messages from the server are passed on, unless they contain part of a
secret.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from clerk_m2m.backend_api.document import read_document
from clerk_m2m.errors import (
    BackendAPIError,
    BackendUnavailableError,
    ConflictError,
    FieldError,
    InvalidRequestError,
    KeyRefusedError,
    NotFoundError,
    RateLimitedError,
)
from clerk_m2m.observe.events import cleaned
from clerk_m2m.transport.call import Call, Received, retry_after

PIECE: Final = 12
MAX_TRACE_ID: Final = 64

_ERRORS: Final[Mapping[int, type[BackendAPIError]]] = {
    400: InvalidRequestError,
    401: KeyRefusedError,
    403: KeyRefusedError,
    404: NotFoundError,
    409: ConflictError,
    422: InvalidRequestError,
    429: RateLimitedError,
}
# Decisions about the request, the resource or the key, which only Clerk can make.
_DECISIONS: Final = frozenset({InvalidRequestError, KeyRefusedError, NotFoundError, ConflictError})


def error_of(call: Call, received: Received) -> BackendAPIError:
    """Return the exception for an answer with a status other than 2xx."""
    status, document = received.status, read_document(received.body)
    problem = read_problem(document.members) if document else None
    kind = _ERRORS.get(status, BackendUnavailableError)
    if problem is None and kind in _DECISIONS:
        return BackendUnavailableError(
            f"{call.operation}: the answer has status {status} but not Clerk's error format. "
            "Perhaps a gateway or proxy sent it.",
            status=status,
        )
    secrets = tuple(call.secrets())
    errors = tuple(_without(secrets, error) for error in problem.errors) if problem else ()
    said = " ".join(error.message for error in errors)
    trace_id = problem.clerk_trace_id if problem else None
    if trace_id is not None and _repeats(secrets, trace_id):
        trace_id = None
    # The trace id stands before Clerk's message, because log lines are cut at their end.
    trace = f" (clerk_trace_id {cleaned(trace_id, MAX_TRACE_ID)})" if trace_id else ""
    return kind(
        f"{call.operation}: Clerk answered {status}{trace}. {said}".rstrip(),
        status=status,
        errors=errors,
        clerk_trace_id=trace_id,
        retry_after=_retry_after(received),
    )


def _retry_after(received: Received) -> float | None:
    """Return the pause that Clerk asks for, in seconds; a 503 asks only with `Retry-After`."""
    if received.status == 429 or (received.status == 503 and "retry-after" in received.headers):
        return retry_after(received.headers)
    return None


def _without(secrets: tuple[str, ...], error: FieldError) -> FieldError:
    """Return the error without its text if that repeats a secret, which must not be logged."""
    if _repeats(secrets, f"{error.code} {error.message} {error.field}"):
        return FieldError(code="withheld", message="(The message repeats a secret.)")
    return error


def _repeats(secrets: tuple[str, ...], text: str) -> bool:
    """Return whether `text` contains a part of a secret of at least `PIECE` characters."""
    return any(
        secret[start : start + PIECE] in text
        for secret in secrets
        for start in range(max(1, len(secret) - PIECE + 1))
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """The content of an error answer (schema `ClerkErrors`)."""

    errors: tuple[FieldError, ...]
    clerk_trace_id: str | None


def read_problem(value: Any) -> Problem | None:
    """Read schema `ClerkErrors`; return None if the answer does not have that form."""
    if not isinstance(value, dict) or not isinstance(value.get("errors"), list):
        return None
    errors = tuple(_field_error(entry) for entry in value["errors"] if isinstance(entry, dict))
    trace_id = value.get("clerk_trace_id")
    return Problem(errors=errors, clerk_trace_id=trace_id if isinstance(trace_id, str) else None)


def _field_error(entry: dict[str, Any]) -> FieldError:
    meta = entry.get("meta")
    name = meta.get("param_name") if isinstance(meta, dict) else None
    message = _text(entry.get("long_message")) or _text(entry.get("message"))
    return FieldError(
        code=_text(entry.get("code")),
        message=message,
        field=name if isinstance(name, str) else None,
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
