"""`Event`: what happened, as data, for log records, spans and the user's `on_event`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from clerk_m2m.errors import ConfigurationError
from clerk_m2m.secret import without_credentials

MAX_TEXT: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """An event: a refusal, a mint, a call to Clerk, or a change of state.

    `instant` is Unix time in seconds. docs/logs.md lists the `fields` of each `name`. No field
    holds a credential, and text from outside is cleaned.
    """

    name: str
    instant: float
    fields: Mapping[str, Any]


OnEvent: TypeAlias = Callable[[Event], None]
"""The type of `on_event`: a plain function that receives each event. It must not block."""


def checked_on_event(on_event: OnEvent | None) -> OnEvent | None:
    """Return a user's `on_event`; raises `ConfigurationError` unless it is a plain function."""
    if on_event is None:
        return None
    if not callable(on_event):
        raise ConfigurationError("on_event must be a function that accepts an Event.")
    call = getattr(on_event, "__call__", None)  # noqa: B004  an object whose `__call__` is async
    if inspect.iscoroutinefunction(on_event) or inspect.iscoroutinefunction(call):
        raise ConfigurationError("on_event must be a plain function, not a coroutine function.")
    return on_event


def cleaned(text: object, limit: int = MAX_TEXT) -> str:
    """Return text from outside as one line without control characters and credentials.

    The text is cut after `limit` characters.
    """
    # Cut at the start too, because the text may be megabytes long.
    short = without_credentials(str(text)[: 8 * limit])
    shown = "".join(each for each in short if each.isprintable())
    return shown if len(shown) <= limit else f"{shown[: limit - 1]}…"
