"""`Exchange`: hands steps about shared verdicts to the event loop of `background`, in batches.

Rules of this file:

- A task in that event loop runs the steps; cancelling a waiter does not cancel it. One batch is in
  progress at a time. Steps that arrive during a batch go into the next one, so a burst of tokens
  takes few calls.
- If a batch fails, the exchange is closed and every step fails at once, until a probe, which also
  writes, succeeds.
- The exchange stops with the follower of the log: when the verifier is closed, or the process
  forks.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Protocol

from clerk_m2m.background import BACKGROUND
from clerk_m2m.errors import FleetUnavailableError
from clerk_m2m.fleet.entries import Entries, Step
from clerk_m2m.fleet.follower import REDIAL
from clerk_m2m.fleet_settings import Fleet
from clerk_m2m.tasks import fork_safe_lock

BATCH: Final = 32
# Seconds: how long a new process may wait until Redis is reached for the first time, and how long
# a step may wait for its answer.
PATIENCE: Final = 0.1
# Seconds: the same for a server that starts, before it accepts the first request.
WARM_UP: Final = 0.5
# Seconds between two checks whether the exchange is ready.
LOOK: Final = 0.005


class Follows(Protocol):
    """The object that follows the log. `turn` changes each time that its follower stops."""

    @property
    def turn(self) -> int: ...


@dataclass(slots=True)
class _Errand:
    """A step that is queued. Its answer is None if it could not be run."""

    step: Step
    answered: Future[str | None] = field(default_factory=Future)


class Exchange:
    """Runs steps in Redis, called from any thread.

    The event loop of `background` runs for as long as `user` is alive.
    """

    def __init__(self, fleet: Fleet, user: Follows) -> None:
        self._fleet = fleet
        self._user = user
        self._lock = fork_safe_lock()
        self._turn: int | None = None
        self._begin(None)

    async def ready(self, in_sync: Callable[[], bool], *, within: float = PATIENCE) -> bool:
        """Return whether steps can be run and the log was read (`in_sync` returns True).

        Waits for both only in the first `within` seconds of a process.
        """
        self._start()
        while self._entries is None or not in_sync():
            if time.monotonic() - self._started_at >= within:
                return False
            await asyncio.sleep(LOOK)
        return True

    async def ask(self, step: Step, *, within: float | None = None) -> str | None:
        """Run a step and return its answer; None if there is none within 0.1 s, or `within` s."""
        answered = asyncio.wrap_future(self._hand_over(step))
        await asyncio.wait({answered}, timeout=PATIENCE if within is None else max(within, 0.0))
        if not answered.done():
            answered.cancel()
            return None
        return answered.result()

    def tell(self, step: Step) -> None:
        """Run a step without waiting for its answer."""
        self._hand_over(step)

    # Inside

    def _begin(self, turn: int | None) -> None:
        self._turn = turn
        self._entries: Entries | None = None
        self._queue: deque[_Errand] = deque()
        self._running = False
        self._started_at = time.monotonic()

    def _start(self) -> None:
        """Keep a connection open from now on, if no task does so yet."""
        turn = self._user.turn
        with self._lock:
            if self._turn == turn:
                return
            self._begin(turn)
        reference = weakref.ref(self)

        def find() -> Exchange | None:
            exchange = reference()
            current = exchange is not None and exchange._user.turn == exchange._turn == turn
            return exchange if current else None

        BACKGROUND.start(self._user, partial(_hold, find, self._fleet), lasting=True)

    def _hand_over(self, step: Step) -> Future[str | None]:
        errand = _Errand(step)
        errand.answered.set_running_or_notify_cancel()
        with self._lock:
            if self._entries is None or self._turn != self._user.turn:
                errand.answered.set_result(None)
                return errand.answered
            self._queue.append(errand)
            begins, self._running = not self._running, True
        if begins:
            BACKGROUND.start(self._user, partial(self._run, self._queue))
        return errand.answered

    async def _run(self, queue: deque[_Errand]) -> None:
        """Run the queued steps, batch by batch."""
        try:
            while True:
                with self._lock:
                    if not queue:
                        self._running = False
                        return
                await self._run_batch([queue.popleft() for _ in range(min(BATCH, len(queue)))])
        except asyncio.CancelledError:  # the event loop stops
            self._running = False
            while queue:
                queue.popleft().answered.set_result(None)
            raise

    async def _run_batch(self, errands: list[_Errand]) -> None:
        entries, answers = self._entries, None
        try:
            if entries is not None:
                answers = await entries.run([each.step for each in errands])
        except FleetUnavailableError:
            if entries is not None:
                self._close(entries)
        finally:
            for at, errand in enumerate(errands):
                errand.answered.set_result(None if answers is None else answers[at])

    def _open(self, entries: Entries) -> None:
        self._entries = entries

    def _close(self, entries: Entries) -> None:
        entries.failed.set()
        if self._entries is entries:
            self._entries = None


async def _hold(find: Callable[[], Exchange | None], fleet: Fleet) -> None:
    """Keep a connection open, and replace it when it fails, until `find` returns None."""
    while find() is not None:
        try:
            await _hold_one(find, Entries(fleet))
        except FleetUnavailableError:
            pass  # the follower of the log reports it
        await asyncio.sleep(REDIAL)


async def _hold_one(find: Callable[[], Exchange | None], entries: Entries) -> None:
    try:
        await entries.probe()
        if (exchange := find()) is not None:
            exchange._open(entries)
        while (exchange := find()) is not None and not entries.failed.is_set():
            del exchange
            try:
                async with asyncio.timeout(1.0):
                    await entries.failed.wait()
            except TimeoutError:
                pass
    finally:
        if (exchange := find()) is not None:
            exchange._close(entries)
        await entries.aclose()
