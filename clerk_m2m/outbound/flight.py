"""`Flight`: one mint under way, which every thread and every event loop may wait for."""

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
    """A mint of a token instead of `replaced`; `reuse` lets Clerk give one that exists already.

    `closed` tells that `aclose()` has ended it. A waiter waits `patience` seconds at most. Whoever
    stops waiting leaves the mint alone.
    """

    patience: float
    replaced: Bearer | None = None
    reuse: bool = True
    closed: bool = False
    task: asyncio.Task[Any] | None = None
    _ended: Future[None] = field(default_factory=Future)

    def end(self) -> None:
        """Wake whoever waits; a second time nothing happens."""
        if not self._ended.done():
            self._ended.set_result(None)

    def wait(self) -> None:
        """Wait for its end, in a thread."""
        try:
            self._ended.result(self.patience)
        except FutureTimeoutError:
            pass  # whoever waited looks at what there is

    async def awaited(self) -> None:
        """Wait for its end, in any event loop of asyncio."""
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
        """Whether it has ended."""
        return self._ended.done()


async def awaited(steps: Generator[Flight, None, T]) -> T:
    """Go through steps that wait for flights, in an event loop."""
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
    """Go through steps that wait for flights, in a thread."""
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
