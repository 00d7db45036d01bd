"""The caller's identity in a context variable that is set during one request, for log filters."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Final

from clerk_m2m.identity import Identity

MACHINE: Final[ContextVar[Identity | None]] = ContextVar("clerk_m2m.machine", default=None)


def current_machine() -> Identity | None:
    """Return the caller of the current request; None without a caller or outside of a request.

    It is for log filters, and guards never read it. To authorize, use a guard or
    `request.state.machine`.
    """
    return MACHINE.get()
