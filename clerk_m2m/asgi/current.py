"""Who is calling, for log filters: a context variable that holds during one request."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Final

from clerk_m2m.identity import Identity

MACHINE: Final[ContextVar[Identity | None]] = ContextVar("clerk_m2m.machine", default=None)


def current_machine() -> Identity | None:
    """Give the caller of the request that is being handled; None outside of one, or for nobody.

    For log filters. Guards never read it: to decide by, use a guard or `request.state.machine`.
    """
    return MACHINE.get()
