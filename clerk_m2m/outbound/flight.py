"""`Flight`: one mint in progress, which any thread and any event loop may wait for."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from clerk_m2m.outbound.minting import Bearer

T = TypeVar("T")


@dataclass(slots=True, eq=False, kw_only=True)
class Flight:
    """One mint that replaces the token `replaced`, if any.

    `reuse` allows Clerk to return an existing token. `closed` is True if `aclose()` ended the mint.
    A waiter waits at most `patience` seconds. Cancelling a waiter does not cancel the mint.
    """

    patience: float
    replaced: Bearer | None = None
    reuse: bool = True
    closed: bool = False
    task: asyncio.Task[Any] | None = None
    _ended: Future[None] = field(default_factory=Future)

    def end(self) -> None:
        """Wake all waiters; a second call does nothing."""
        if not self._ended.done():
            self._ended.set_result(None)

    def wait(self) -> None:
        """Block this thread until the mint ends, for at most `patience` seconds."""
        try:
            self._ended.result(self.patience)
        except FutureTimeoutError:
            pass  # the waiter checks `ended`

    async def awaited(self) -> None:
        """Wait in an asyncio event loop until the mint ends, for at most `patience` seconds."""
        loop = asyncio.get_running_loop()
        woken = loop.create_future()

        def wake(_: Future[None]) -> None:
            try:
                loop.call_soon_threadsafe(_set, woken)
            except RuntimeError:
                pass  # the loop of this waiter has been closed

        self._ended.add_done_callback(wake)
        await asyncio.wait({woken}, timeout=self.patience)

    @property
    def ended(self) -> bool:
        """Whether the mint has ended."""
        return self._ended.done()


async def awaited(steps: Generator[Flight, None, T]) -> T:
    """Run a generator that yields flights: wait for each in this event loop; return its result."""
    try:
        flight = next(steps)
        while True:
            await flight.awaited()
            flight = steps.send(None)
    except StopIteration as last:
        value: T = last.value
        return value
    finally:
        steps.close()


def waited(steps: Generator[Flight, None, T]) -> T:
    """Run a generator that yields flights: wait for each in this thread; return its result."""
    try:
        flight = next(steps)
        while True:
            flight.wait()
            flight = steps.send(None)
    except StopIteration as last:
        value: T = last.value
        return value
    finally:
        steps.close()


def _set(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)
