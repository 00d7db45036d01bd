"""Events on the OpenTelemetry span of whoever asked, where there is one.

A span is current only where somebody has imported `opentelemetry.trace`, so this module never
imports it. A call to Clerk runs in a task with a context of its own, which has no current span:
`with_span` takes the caller's along. It is not made the current one there, since that would have
trace headers sent to Clerk.
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
    """Give a coroutine that, in another context, adds its events to the span of now."""
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
