"""Adds events to the caller's current OpenTelemetry span, if there is one.

There is a current span only if the application has imported `opentelemetry.trace`, so this module
never imports it. A call to Clerk runs in a task with its own context, which has no current span:
`with_span` passes the caller's span on. The span is not made current there, because then trace
headers would be sent to Clerk.
"""

from __future__ import annotations

import sys
from collections.abc import Coroutine, Mapping
from contextvars import ContextVar
from typing import Any, Final, TypeVar

T = TypeVar("T")

_API: Final = "opentelemetry.trace"
_span: ContextVar[Any] = ContextVar("span", default=None)


def with_span(coroutine: Coroutine[Any, Any, T]) -> Coroutine[Any, Any, T]:
    """Return a coroutine that adds its events to the span that is current now, in any context."""
    span = _current()
    return coroutine if span is None else _under(span, coroutine)


async def _under(span: Any, coroutine: Coroutine[Any, Any, T]) -> T:
    _span.set(span)
    return await coroutine


def add_to_span(name: str, fields: Mapping[str, Any]) -> None:
    """Add an event to the span of the request, if one is being recorded."""
    span = _current()
    if span is not None and span.is_recording():
        attributes = {
            f"clerk_m2m.{key}": value for key, value in fields.items() if value is not None
        }
        span.add_event(f"clerk_m2m.{name}", attributes)


def _current() -> Any:
    carried = _span.get()
    if carried is not None:
        return carried
    trace = sys.modules.get(_API)
    if trace is None:
        return None
    span = trace.get_current_span()
    return span if span.is_recording() else None
