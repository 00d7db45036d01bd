"""What outlives a request: tasks of no request, values of one event loop, locks across a fork.

A process may fork after it has used this package (`gunicorn --preload`). The child then has copies
of everything but the parent's threads. So no lock may be held at that moment, and the child must
not use what belongs to an event loop of the parent's: its sockets are the parent's too.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, Final, Generic, Protocol, TypeVar
from weakref import WeakSet

T = TypeVar("T")


def detached(coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Start a task in a context of its own; cancelling a waiter does not cancel it."""
    task = asyncio.get_running_loop().create_task(coroutine, context=Context())
    task.add_done_callback(_retrieve)
    return task


def current_task() -> asyncio.Task[Any]:
    """Give the task that runs now."""
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("This runs in a task.")
    return task


def _retrieve(task: asyncio.Task[Any]) -> None:
    # Every waiter may have left: without this, asyncio would log the error as never retrieved.
    if not task.cancelled():
        task.exception()


class PerLoop(Generic[T]):
    """One value for each event loop, made by `make` when a loop first asks for it.

    Event loops of several threads may share one registry. The value of a closed loop is dropped
    when another loop first asks for its own. A forked child begins without any values.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._values: dict[asyncio.AbstractEventLoop, T] = {}
        self._inherited: list[dict[asyncio.AbstractEventLoop, T]] = []
        tell_of_forks(self)

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

    def values(self) -> list[T]:
        """Give the values of all open event loops, from any thread."""
        return [value for loop, value in list(self._values.items()) if not loop.is_closed()]

    def pop(self) -> T | None:
        """Take the value of the running event loop out of the registry; None where it has none."""
        return self._values.pop(asyncio.get_running_loop(), None)

    def leave_to_parent(self) -> None:
        """Begin without any values, in a forked child.

        Those of the parent are kept unused until the child ends: to drop them could close what the
        parent still uses (an event loop of libuv would take the sockets out of the parent's epoll).
        """
        self._inherited.append(self._values)
        self._values = {}


class LeftToParent(Protocol):
    """What belongs to threads and event loops of one process."""

    def leave_to_parent(self) -> None:
        """Begin anew, in a forked child."""


def tell_of_forks(holder: LeftToParent) -> None:
    """Have `holder.leave_to_parent()` called in each forked child, while `holder` lives."""
    _forks.holders.add(holder)


def fork_safe_lock() -> threading.RLock:
    """Give a lock that is free in a forked child.

    A fork waits until no other thread holds it. Whoever holds one of these locks takes no other.
    """
    # Re-entrant: a signal handler that forks may have interrupted a thread that holds it.
    lock = threading.RLock()
    with _forks.lock:
        _forks.locks.add(lock)
    return lock


class _Forks:
    """What has to be done when this process forks."""

    def __init__(self) -> None:
        self.holders: WeakSet[LeftToParent] = WeakSet()
        self.locks: WeakSet[threading.RLock] = WeakSet()
        self.lock = threading.RLock()  # while it is held, no lock is added
        self._held: list[threading.RLock] = []

    def before(self) -> None:
        """Take every lock, so that no other thread holds one while the process is copied."""
        self.lock.acquire()
        self._held = list(self.locks)
        for lock in self._held:
            lock.acquire()

    def after(self) -> None:
        """Give the locks back, in the parent and in the child."""
        for lock in self._held:
            lock.release()
        self._held = []
        self.lock.release()

    def in_child(self) -> None:
        """Give the locks back, and leave to the parent what its event loops use."""
        self.after()
        for holder in list(self.holders):
            holder.leave_to_parent()


_forks: Final = _Forks()
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(
        before=_forks.before, after_in_parent=_forks.after, after_in_child=_forks.in_child
    )
