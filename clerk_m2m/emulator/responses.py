"""The responses of the emulator: a JSON body with a status, or a refusal in Clerk's shape."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Response:
    """One response, before it is written to the wire."""

    status: int
    content: bytes
    media_type: str = "application/json"
    headers: Headers = ()


class Refusal(Exception):  # noqa: N818 - raised to send a response; it is not a failure
    """The request is answered with an error in Clerk's shape."""

    def __init__(self, status: int, code: str, message: str, *, headers: Headers = ()) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = headers


class InvalidField(Exception):  # noqa: N818 - as above; the operation decides the status
    """A parameter or property breaks a rule of the contract."""

    def __init__(self, name: str, code: str, message: str) -> None:
        super().__init__(message)
        self.name = name
        self.code = code
        self.message = message


def json_response(body: Any, status: int = 200, headers: Headers = ()) -> Response:
    """A response with this JSON body."""
    content = json.dumps(body, separators=(",", ":"), allow_nan=False).encode()
    return Response(status, content, headers=headers)


def text_response(body: str) -> Response:
    """A response with JSON that is already text."""
    return Response(200, body.encode())


def error_response(
    status: int, code: str, message: str, *, name: str | None = None, headers: Headers = ()
) -> Response:
    """An error in Clerk's shape, with a trace id of its own."""
    error: dict[str, Any] = {"message": message, "long_message": message, "code": code}
    if name is not None:
        error["meta"] = {"param_name": name}
    trace_id = secrets.token_hex(16)
    body = {"errors": [error], "clerk_trace_id": trace_id}
    return json_response(body, status, (("x-clerk-trace-id", trace_id), *headers))


def refusal_response(refusal: Refusal) -> Response:
    """The response to a request that is refused."""
    return error_response(refusal.status, refusal.code, refusal.message, headers=refusal.headers)


def invalid_field_response(invalid: InvalidField, status: int) -> Response:
    """The response to a request with such a field, with the status that the operation lists."""
    return error_response(status, invalid.code, invalid.message, name=invalid.name)


def method_not_allowed(method: str, allowed: Iterable[str]) -> Refusal:
    """405: the path exists, but only for other methods."""
    headers = (("allow", ", ".join(sorted(allowed))),)
    return Refusal(405, "method_not_allowed", f"{method} is not allowed here", headers=headers)


def not_found(kind: str) -> Refusal:
    """404: the resource does not exist, or this key may not see it."""
    return Refusal(404, "resource_not_found", f"{kind} not found")
