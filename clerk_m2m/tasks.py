"""Tasks that outlive a request, one value per event loop, and locks that are safe across a fork.

A process may fork after it has used this package (`gunicorn --preload`). The child then has copies
of everything except the parent's threads. So no lock may be held during the fork, and the child
must not use objects of the parent's event loops, because parent and child share their sockets.
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
    """Start a task in its own context; cancelling a waiter does not cancel it."""
    task = asyncio.get_running_loop().create_task(coroutine, context=Context())
    task.add_done_callback(_retrieve)
    return task


def current_task() -> asyncio.Task[Any]:
    """Return the current task."""
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("This runs in a task.")
    return task


def _retrieve(task: asyncio.Task[Any]) -> None:
    # All waiters may have been cancelled: without this, asyncio logs that the error was never
    # retrieved.
    if not task.cancelled():
        task.exception()


class PerLoop(Generic[T]):
    """One value per event loop, created by `make` at the loop's first `get`.

    Event loops of several threads may share one registry. The value of a closed loop is dropped at
    the first `get` of another loop. A forked child starts without values.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._values: dict[asyncio.AbstractEventLoop, T] = {}
        self._inherited: list[dict[asyncio.AbstractEventLoop, T]] = []
        tell_of_forks(self)

    def get(self) -> T:
        """Return the value of the running event loop."""
        loop = asyncio.get_running_loop()
        value = self._values.get(loop)
        if value is None:
            # A copy, made in one step, because other threads may add and remove values at any time.
            for other in list(self._values):
                if other.is_closed():
                    self._values.pop(other, None)
            value = self._values[loop] = self._make()
        return value

    def values(self) -> list[T]:
        """Return the values of all open event loops, from any thread."""
        return [value for loop, value in list(self._values.items()) if not loop.is_closed()]

    def pop(self) -> T | None:
        """Remove and return the value of the running event loop; None if it has none."""
        return self._values.pop(asyncio.get_running_loop(), None)

    def leave_to_parent(self) -> None:
        """In a forked child: start without values.

        The parent's values are kept unused until the child exits. Dropping them could close objects
        that the parent still uses (an event loop of libuv would remove the sockets from the
        parent's epoll).
        """
        self._inherited.append(self._values)
        self._values = {}


class LeftToParent(Protocol):
    """An object that belongs to the threads and event loops of one process."""

    def leave_to_parent(self) -> None:
        """In a forked child: start again without the parent's threads and event loops."""


def tell_of_forks(holder: LeftToParent) -> None:
    """Call `holder.leave_to_parent()` in each forked child, as long as `holder` exists."""
    _forks.holders.add(holder)


def fork_safe_lock() -> threading.RLock:
    """Return a lock that is free in a forked child.

    A fork waits until no other thread holds it. A thread that holds one of these locks must not
    acquire another.
    """
    # Re-entrant, because a signal handler that forks may interrupt a thread that holds the lock.
    lock = threading.RLock()
    with _forks.lock:
        _forks.locks.add(lock)
    return lock


class _Forks:
    """The actions before and after a fork of this process."""

    def __init__(self) -> None:
        self.holders: WeakSet[LeftToParent] = WeakSet()
        self.locks: WeakSet[threading.RLock] = WeakSet()
        self.lock = threading.RLock()  # while this is held, no lock can be added
        self._held: list[threading.RLock] = []

    def before(self) -> None:
        """Acquire every lock, so that no other thread holds one while the process is copied."""
        self.lock.acquire()
        self._held = list(self.locks)
        for lock in self._held:
            lock.acquire()

    def after(self) -> None:
        """Release the locks, in the parent and in the child."""
        for lock in self._held:
            lock.release()
        self._held = []
        self.lock.release()

    def in_child(self) -> None:
        """In the child: release the locks, and call `leave_to_parent` of all holders."""
        self.after()
        for holder in list(self.holders):
            holder.leave_to_parent()


_forks: Final = _Forks()
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(
        before=_forks.before, after_in_parent=_forks.after, after_in_child=_forks.in_child
    )
