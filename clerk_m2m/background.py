"""An event loop for what belongs to no caller: one for the process, in a daemon thread of its own.

Mints and the log of a fleet run in it. A mint outlives whoever asked for it: an event loop that
ends (`asyncio.run` per job), a thread, a cancelled call. In a loop of its own it can be awaited
from every loop and thread, so all of them share one mint, and a synchronous caller needs no loop.

Rules of this file:

- The thread starts at the first use and ends when nobody is left who used it: each user was
  closed (`leave`), or has been collected. It does not keep the process alive.
- A forked child has no such thread: its first use starts another. A fork waits for what runs here
  to end, at most `FORK_PATIENCE` seconds: the child would inherit the locks that it holds (of
  imports, of OpenSSL), and nobody there would give them back.
- No context variable of a caller is seen in it.
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
    """Runs coroutines in the event loop of its thread; for any thread."""

    def __init__(self) -> None:
        self._lock = fork_safe_lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._end: asyncio.Future[None] | None = None
        self._users: weakref.WeakSet[object] = weakref.WeakSet()
        self._inherited: list[Any] = []
        # Held by the thread while a coroutine is under way; once for each, as it is re-entrant.
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
        """Run `make()` as a task; the thread stays until `user` leaves or is collected.

        A fork does not wait for one that is `lasting`: it goes on for as long as the process.
        Raises `RuntimeError` where no thread can be started, as at the end of the interpreter.
        """
        with self._lock:
            loop = self._loop or self._open()
            if user not in self._users:
                self._users.add(user)
                weakref.finalize(user, self._look).atexit = False
            # Under the lock: the loop does not end between the look at it and this.
            loop.call_soon_threadsafe(
                lambda: detached(make() if lasting else self._run(make)), context=Context()
            )

    def serves(self, user: object) -> bool:
        """Tell whether the thread runs, and `user` has used it."""
        return self._loop is not None and user in self._users

    def leave(self, user: object) -> None:
        """Note that `user` needs the thread no more."""
        with self._lock:
            self._users.discard(user)
        self._look()

    def leave_to_parent(self) -> None:
        """Begin without a thread, in a forked child. What is the parent's is kept unused."""
        self._inherited.append((self._loop, self._end))
        self._loop = self._end = None
        self._users = weakref.WeakSet()
        self._busy = threading.RLock()

    def before_fork(self) -> None:
        """Wait until nothing runs."""
        self._fork_waited = self._busy.acquire(timeout=FORK_PATIENCE)

    def after_fork(self) -> None:
        """Let it run again, in the parent."""
        if self._fork_waited:
            self._busy.release()

    async def _run(self, make: Callable[[], Coroutine[Any, Any, None]]) -> None:
        with self._busy:
            await make()

    def _open(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.new_event_loop()
        end = loop.create_future()
        # A context of its own: since Python 3.14 a thread may begin with that of its starter.
        thread = threading.Thread(
            target=Context().run, args=(_serve, loop, end), name="clerk_m2m background", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:  # no thread could be started
            loop.close()
            raise
        except BaseException:  # Ctrl-C: it may have been started, and ends then
            loop.call_soon_threadsafe(end.set_result, None)
            raise
        self._loop, self._end = loop, end
        return loop

    def _look(self) -> None:
        """Have the thread end if it has no users; takes no lock, since a collection may call it."""
        loop = self._loop
        if loop is None:
            return
        try:
            loop.call_soon_threadsafe(self._end_if_unused, loop, context=Context())
        except RuntimeError:
            pass  # it has ended meanwhile

    def _end_if_unused(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._lock:
            # A list, since the set counts users that are just being collected, too.
            if list(self._users) or self._loop is not loop:
                return
            end, self._loop, self._end = self._end, None, None
        if end is not None:
            end.set_result(None)


def _serve(loop: asyncio.AbstractEventLoop, end: asyncio.Future[None]) -> None:
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        run_until(runner.get_loop(), end)


def run_until(loop: asyncio.AbstractEventLoop, end: asyncio.Future[None]) -> None:
    """Run an event loop in this thread until `end`, whatever its tasks raise."""
    while not end.done():
        try:
            loop.run_until_complete(end)
        except (KeyboardInterrupt, SystemExit):
            pass  # a user's callable raised it: its task has ended by it, and the others go on


BACKGROUND: Final = Background()
if hasattr(os, "register_at_fork"):  # not on Windows
    # Run before that of `tasks`, which was registered earlier and takes locks that mints need.
    os.register_at_fork(before=BACKGROUND.before_fork, after_in_parent=BACKGROUND.after_fork)
