"""Tasks that serve many requests and belong to none of them, and what belongs to one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, Generic, TypeVar

T = TypeVar("T")


def detached(coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Start a task in a context of its own; cancelling a waiter does not cancel it."""
    task = asyncio.get_running_loop().create_task(coroutine, context=Context())
    task.add_done_callback(_retrieve)
    return task


def _retrieve(task: asyncio.Task[Any]) -> None:
    # Every waiter may have left: without this, asyncio would log the error as never retrieved.
    if not task.cancelled():
        task.exception()


class PerLoop(Generic[T]):
    """One value for each event loop, made by `make` when a loop first asks for it.

    Event loops of several threads may share one registry. The value of a closed loop is dropped
    when another loop first asks for its own.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._values: dict[asyncio.AbstractEventLoop, T] = {}

    def get(self) -> T:
        """Give the value of the running event loop."""
        loop = asyncio.get_running_loop()
        value = self._values.get(loop)
        if value is None:
            # A copy, made in one step: event loops of other threads come and go meanwhile.
            for other in list(self._values):
                if other.is_closed():
                    self._values.pop(other, None)
            value = self._values[loop] = self._make()
        return value

    def pop(self) -> T | None:
        """Take the value of the running event loop out of the registry; None where it has none."""
        return self._values.pop(asyncio.get_running_loop(), None)
