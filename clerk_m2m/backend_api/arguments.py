"""Checks and converts the arguments of the client's methods before anything is sent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from clerk_m2m.errors import ConfigurationError
from clerk_m2m.identity import thaw
from clerk_m2m.secret import Secret


def query_text(values: Mapping[str, Any]) -> dict[str, str]:
    """Return a query as it is sent: booleans as in JSON, and without values that are None."""
    return {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in values.items()
        if value is not None
    }


def plain_json(operation: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a body as plain dicts and lists (values read from an answer are frozen).

    Raises `ConfigurationError` for a value that JSON cannot hold, such as NaN or a list that
    contains itself.
    """
    try:
        # Same arguments as httpx. Done before the copy, which would recurse without end on a list
        # that contains itself.
        json.dumps(body, ensure_ascii=False, allow_nan=False, default=_unfrozen).encode()
        plain: dict[str, Any] = thaw(body)
        return plain
    except (TypeError, ValueError, RecursionError) as exc:
        fault = str(exc) if type(exc) in {TypeError, ValueError} else type(exc).__name__
    # Raised outside of `except`, so not chained: the original error may quote a claim.
    raise ConfigurationError(f"{operation}: an argument cannot be sent as JSON: {fault}.")


def _unfrozen(value: object) -> dict[Any, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


def check_text(operation: str, values: Mapping[str, Any]) -> None:
    """Raise `ConfigurationError` for a secret that is not text, or text with a lone surrogate.

    Such text cannot be encoded as UTF-8. The error does not quote the value.
    """
    for name, value in values.items():
        text = value.reveal() if isinstance(value, Secret) else value
        if isinstance(value, Secret) and not isinstance(text, str):
            del text, value  # tracebacks may show the locals of this frame
            raise ConfigurationError(f"{operation}: {name} must be text.")
        if isinstance(text, str) and any("\ud800" <= char <= "\udfff" for char in text):
            del text, value  # tracebacks may show the locals of this frame
            raise ConfigurationError(f"{operation}: {name} cannot be sent as UTF-8.")
