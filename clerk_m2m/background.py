"""One event loop per process, in its own daemon thread, for work that belongs to no single caller.

Mints and reading the fleet's log run in it. A mint must not end with its first waiter, which may be
an event loop that ends (`asyncio.run` per job), a thread, or a cancelled call. From this loop, any
event loop and any thread can wait for the mint, so all of them share one, and a synchronous caller
needs no event loop.

Rules of this file:

- The thread starts at the first use. It stops when it has no users left: each of them was closed
  (`leave`) or garbage-collected. It does not keep the process alive.
- A forked child has no such thread, and its first use starts one. A fork waits until the work here
  has ended, for at most `FORK_PATIENCE` seconds. Otherwise the child could inherit a lock that the
  thread holds (of imports, of OpenSSL) and that nothing in the child releases.
- Work here does not see context variables of its callers.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, Final

from clerk_m2m.tasks import detached, fork_safe_lock, tell_of_forks

FORK_PATIENCE: Final = 2.0


class Background:
    """Runs coroutines in the event loop of its thread; thread-safe."""

    def __init__(self) -> None:
        self._lock = fork_safe_lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end: asyncio.Future[None] | None = None
        self._users: weakref.WeakSet[object] = weakref.WeakSet()
        self._inherited: list[Any] = []
        # Re-entrant; the thread holds it once for each coroutine that runs.
        self._busy = threading.RLock()
        self._fork_waited = False
        tell_of_forks(self)

    def start(
        self,
        user: object,
        make: Callable[[], Coroutine[Any, Any, None]],
        *,
        lasting: bool = False,
    ) -> None:
        """Run `make()` as a task; the thread runs until `user` leaves or is garbage-collected.

        A fork does not wait for a `lasting` task, which runs as long as the process. Raises
        `RuntimeError` if no thread can be started, for example while the interpreter exits.
        """
        with self._lock:
            loop = self._loop or self._open()
            if user not in self._users:
                self._users.add(user)
                weakref.finalize(user, self._look).atexit = False
            # Under the lock, so the loop cannot stop between the check and this call.
            loop.call_soon_threadsafe(
                lambda: detached(make() if lasting else self._run(make)), context=Context()
            )

    def serves(self, user: object) -> bool:
        """Return whether the thread runs and `user` is one of its users."""
        return self._loop is not None and user in self._users

    def leave(self, user: object) -> None:
        """Remove `user` from the users of the thread."""
        with self._lock:
            self._users.discard(user)
        self._look()

    def leave_to_parent(self) -> None:
        """In a forked child: start without a thread, and keep the parent's objects unused."""
        self._inherited.append((self._loop, self._end))
        self._loop = self._end = None
        self._users = weakref.WeakSet()
        self._busy = threading.RLock()

    def before_fork(self) -> None:
        """Wait until no coroutine runs, except lasting ones."""
        self._fork_waited = self._busy.acquire(timeout=FORK_PATIENCE)

    def after_fork(self) -> None:
        """In the parent: allow coroutines to run again."""
        if self._fork_waited:
            self._busy.release()

    async def _run(self, make: Callable[[], Coroutine[Any, Any, None]]) -> None:
        with self._busy:
            await make()

    def _open(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.new_event_loop()
        end = loop.create_future()
        # An empty context: since Python 3.14 a thread may inherit the context of its starter.
        thread = threading.Thread(
            target=Context().run, args=(_serve, loop, end), name="clerk_m2m background", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:  # the thread could not be started
            loop.close()
            raise
        except BaseException:  # Ctrl-C: if the thread was started, stop it
            loop.call_soon_threadsafe(end.set_result, None)
            raise
        self._loop, self._end = loop, end
        return loop

    def _look(self) -> None:
        """Stop the thread if it has no users; takes no lock: the garbage collector may call it."""
        loop = self._loop
        if loop is None:
            return
        try:
            loop.call_soon_threadsafe(self._end_if_unused, loop, context=Context())
        except RuntimeError:
            pass  # the loop was closed in between

    def _end_if_unused(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._lock:
            # A list, because `len` of a weak set also counts users that are being collected.
            if list(self._users) or self._loop is not loop:
                return
            end, self._loop, self._end = self._end, None, None
        if end is not None:
            end.set_result(None)


def _serve(loop: asyncio.AbstractEventLoop, end: asyncio.Future[None]) -> None:
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        run_until(runner.get_loop(), end)


def run_until(loop: asyncio.AbstractEventLoop, end: asyncio.Future[None]) -> None:
    """Run an event loop in this thread until `end` is done, whatever its tasks raise."""
    while not end.done():
        try:
            loop.run_until_complete(end)
        except (KeyboardInterrupt, SystemExit):
            pass  # a user's callable raised it: only its task ends, the others continue


BACKGROUND: Final = Background()
if hasattr(os, "register_at_fork"):  # not on Windows
    # Runs before the handler of `tasks` (registered earlier), which takes locks that mints need.
    os.register_at_fork(before=BACKGROUND.before_fork, after_in_parent=BACKGROUND.after_fork)
