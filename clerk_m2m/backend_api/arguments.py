"""What a method of the client was given, made fit to be sent, or refused before anything is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from clerk_m2m.errors import ConfigurationError
from clerk_m2m.identity import thaw
from clerk_m2m.secret import Secret


def query_text(values: Mapping[str, Any]) -> dict[str, str]:
    """Give a query as it is sent: booleans as JSON writes them; what is None is left out."""
    return {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in values.items()
        if value is not None
    }


def plain_json(operation: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """Give a copy of a body as plain JSON; what was read from an answer is frozen.

    Raises `ConfigurationError` for what JSON cannot hold, such as NaN or a list within itself.
    """
    try:
        # As httpx writes it, and before the copy is made: a list within itself would have no end.
        json.dumps(body, ensure_ascii=False, allow_nan=False, default=_unfrozen).encode()
        plain: dict[str, Any] = thaw(body)
        return plain
    except (TypeError, ValueError, RecursionError) as exc:
        fault = str(exc) if type(exc) in {TypeError, ValueError} else type(exc).__name__
    # Not chained: the cause may quote a claim.
    raise ConfigurationError(f"{operation}: an argument cannot be sent as JSON: {fault}.")


def _unfrozen(value: object) -> dict[Any, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


def check_text(operation: str, values: Mapping[str, Any]) -> None:
    """Refuse a secret that is no text, and text that has no UTF-8 (a lone surrogate).

    The `ConfigurationError` quotes neither.
    """
    for name, value in values.items():
        text = value.reveal() if isinstance(value, Secret) else value
        if isinstance(value, Secret) and not isinstance(text, str):
            del text, value  # tracebacks may show the locals of this frame
            raise ConfigurationError(f"{operation}: {name} must be text.")
        if isinstance(text, str) and any("\ud800" <= char <= "\udfff" for char in text):
            del text, value  # tracebacks may show the locals of this frame
            raise ConfigurationError(f"{operation}: {name} cannot be sent as UTF-8.")
