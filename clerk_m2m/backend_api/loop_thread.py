"""An event loop in its own thread, for code that does not await.

The thread starts at the first use, and again in a forked child. It is a daemon thread. A client
that nobody closed is closed when it is garbage-collected or the interpreter exits.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from typing import Any, Final, Generic, TypeVar

from clerk_m2m.background import run_until
from clerk_m2m.tasks import fork_safe_lock

T = TypeVar("T")

# A wait is split into steps of this many seconds: Windows delivers Ctrl-C only between them, and
# another thread may close the client.
WAIT: Final = 0.5
# How long coroutines may run on after the client has been closed, in seconds.
GRACE: Final = 1.0


class LoopThread:
    """Runs coroutines in its thread; any number of threads may wait for results.

    `aclose` is awaited there before the thread stops.
    """

    def __init__(self, aclose: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._aclose = aclose
        self._lock = fork_safe_lock()
        self._running: _Running | None = None
        self._inherited: list[_Running] = []  # the parent's, kept unused in a forked child

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Return the result of a coroutine; Ctrl-C during the wait cancels the coroutine.

        Raises `RuntimeError` if called in the loop's own thread, or if another thread closes the
        client during the wait.
        """
        running = self._start()
        if running.thread is threading.current_thread():
            coroutine.close()
            raise RuntimeError(
                "A callback of SyncClerkClient (on_event, on_revocation, a key) cannot call the "
                "same client: its event loop would wait for itself. Use another client there."
            )
        work = _Work(coroutine, running.loop)
        try:
            running.loop.call_soon_threadsafe(work.start)
            while True:
                try:
                    return work.done.result(timeout=WAIT)
                except TimeoutError:
                    if work.done.done():
                        raise  # the coroutine's own
                if not running.thread.is_alive() and not work.done.done():
                    raise CancelledError  # the loop stopped before it ran the coroutine
        except CancelledError:
            raise RuntimeError("Another thread has closed this SyncClerkClient.") from None
        except BaseException:
            work.cancel()
            raise

    def close(self, *, wait: bool) -> None:
        """Stop the thread; the next use starts another. `wait` lets calls in progress end."""
        with self._lock:
            running, self._running = self._running, None
        if running is not None:
            running.finalizer.detach()
            _end(running.loop, running.end, running.thread, self._aclose, wait)

    def _start(self) -> _Running:
        with self._lock:
            if self._running is not None and not self._running.thread.is_alive():
                self._running.finalizer.detach()
                self._inherited.append(self._running)
                self._running = None
            if self._running is None:
                self._running = _Running(self, self._aclose)
            return self._running


class _Work(Generic[T]):
    """A coroutine that the loop runs and another thread waits for.

    It is created before the loop receives it, so Ctrl-C can cancel it at any moment.
    (`asyncio.run_coroutine_threadsafe` may be interrupted before it returns its future.)
    """

    def __init__(self, coroutine: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop) -> None:
        self.done: Future[T] = Future()
        self._coroutine = coroutine
        self._loop = loop
        self._task: asyncio.Task[T] | None = None

    def start(self) -> None:
        """Run the coroutine; called by the loop."""
        if self.done.cancelled():
            self._coroutine.close()
            return
        self._task = self._loop.create_task(self._coroutine)
        self._task.add_done_callback(self._deliver)

    def cancel(self) -> None:
        """Cancel the coroutine, from the thread that waited."""
        self.done.cancel()
        if self._loop.is_closed():
            self._coroutine.close()
        else:
            self._loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _deliver(self, task: asyncio.Task[T]) -> None:
        failure = CancelledError() if task.cancelled() else task.exception()
        if not self.done.set_running_or_notify_cancel():
            return  # there is no waiter left
        if failure is not None:
            self.done.set_exception(failure)
        else:
            self.done.set_result(task.result())


class _Running:
    """A loop and the thread that runs it, until `owner` is closed or garbage-collected."""

    def __init__(self, owner: LoopThread, aclose: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self.loop = loop = asyncio.new_event_loop()
        self.end = end = loop.create_future()
        self.thread = threading.Thread(
            target=_serve, args=(loop, end), name="clerk-m2m", daemon=True
        )
        self.thread.start()
        self.finalizer = weakref.finalize(owner, _end, loop, end, self.thread, aclose, False)


def _serve(loop: asyncio.AbstractEventLoop, end: asyncio.Future[None]) -> None:
    try:
        run_until(loop, end)
    finally:
        loop.close()


def _end(
    loop: asyncio.AbstractEventLoop,
    end: asyncio.Future[None],
    thread: threading.Thread,
    aclose: Callable[[], Coroutine[Any, Any, None]],
    wait: bool,
) -> None:
    if not thread.is_alive():
        return

    def wind_up() -> None:
        winding_up = loop.create_task(_wind_up(aclose, wait))
        winding_up.add_done_callback(lambda _: end.set_result(None))

    loop.call_soon_threadsafe(wind_up)
    # The garbage collector may run this in the thread itself, which cannot join itself.
    if thread is not threading.current_thread():
        thread.join()


async def _wind_up(aclose: Callable[[], Coroutine[Any, Any, None]], wait: bool) -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if wait and others:
        await aclose()
        await asyncio.wait(others, timeout=GRACE)
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await aclose()
