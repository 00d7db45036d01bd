"""Tasks that serve many requests and belong to none of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar
from typing import Any, TypeVar

T = TypeVar("T")

# What a look-up that had to queue asks before it goes out: true where nobody waits for it any more,
# and then it must end. Without this, a crowd that has left would stand before those who have not.
abandoned: ContextVar[Callable[[], bool]] = ContextVar("abandoned", default=lambda: False)


def detached(coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Start a task in a context of its own, which whoever waits for it may leave."""
    task = asyncio.get_running_loop().create_task(coroutine, context=Context())
    task.add_done_callback(_retrieve)
    return task


def _retrieve(task: asyncio.Task[Any]) -> None:
    # Everybody may have left: without this, asyncio would log the error as never retrieved.
    if not task.cancelled():
        task.exception()
