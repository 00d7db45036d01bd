"""What the emulator answers: a JSON body with a status, or a refusal in Clerk's shape."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from typing import Any

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """One response, before it is written to the wire."""

    status: int
    content: bytes
    media_type: str = "application/json"
    headers: Headers = ()


class Refusal(Exception):  # noqa: N818 - an answer on its way out, not a failure
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


def json_answer(body: Any, status: int = 200, headers: Headers = ()) -> Answer:
    """An answer with this JSON body."""
    content = json.dumps(body, separators=(",", ":"), allow_nan=False).encode()
    return Answer(status, content, headers=headers)


def text_answer(body: str) -> Answer:
    """An answer with JSON that is already text."""
    return Answer(200, body.encode())


def error_answer(
    status: int, code: str, message: str, *, name: str | None = None, headers: Headers = ()
) -> Answer:
    """An error in Clerk's shape, with a trace id of its own."""
    error: dict[str, Any] = {"message": message, "long_message": message, "code": code}
    if name is not None:
        error["meta"] = {"param_name": name}
    trace_id = secrets.token_hex(16)
    body = {"errors": [error], "clerk_trace_id": trace_id}
    return json_answer(body, status, (("x-clerk-trace-id", trace_id), *headers))


def not_found(kind: str) -> Refusal:
    """404: there is no such resource, or this key may not know of it."""
    return Refusal(404, "resource_not_found", f"{kind} not found")
