"""The body of an answer as a JSON object, before `parsing` reads it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Document:
    """A JSON object from Clerk's answer; not in its repr, because it may hold a key or a token."""

    members: dict[str, Any] = field(repr=False)


def read_document(body: bytes) -> Document | None:
    """Return the JSON object in a body; None if the body is not a JSON object."""
    try:
        value = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    return Document(value) if isinstance(value, dict) else None
