"""What a method of the client was given, made fit to be sent, or refused before anything is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from clerk_m2m.errors import ConfigurationError
from clerk_m2m.secret import Secret


def query_text(values: Mapping[str, Any]) -> dict[str, str]:
    """Give a query as it is sent: booleans as JSON writes them; what is None is left out."""
    return {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in values.items()
        if value is not None
    }


def check_json(operation: str, body: Mapping[str, Any]) -> None:
    """Refuse a body that JSON cannot hold, such as NaN; raises `ConfigurationError`."""
    try:
        # As httpx writes it. Not chained: the cause may quote a claim.
        json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
        return
    except (TypeError, ValueError, RecursionError) as exc:
        fault = str(exc) if type(exc) in {TypeError, ValueError} else type(exc).__name__
    raise ConfigurationError(f"{operation}: an argument cannot be sent as JSON: {fault}.")


def check_text(operation: str, values: Mapping[str, Any]) -> None:
    """Refuse text that has no UTF-8 (a lone surrogate); the `ConfigurationError` quotes none."""
    for name, value in values.items():
        text = value.reveal() if isinstance(value, Secret) else value
        if isinstance(text, str) and any("\ud800" <= char <= "\udfff" for char in text):
            del text, value  # tracebacks may show the locals of this frame
            raise ConfigurationError(f"{operation}: {name} cannot be sent as UTF-8.")
