"""`Gate`: calls wait here, in their event loop, until `admission` gives them a slot."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from clerk_m2m.errors import BackendUnavailableError, OverloadedError
from clerk_m2m.transport.admission import Admission, Priority, State, Ticket

# In seconds. A key that returns within 15 s has a higher priority than a key seen first.
RETRY_AFTER: Final = 1.0


class CallDemand(Protocol):
    """The waiters of a call: a live object that may change while the call waits for a slot.

    `on_change` is set while the call waits for a slot or for a retry. It is called when `priority`
    or `given_up` changes. `given_up` is True when no waiter is left.
    """

    on_change: Callable[[], None] | None

    @property
    def priority(self) -> Priority: ...

    @property
    def given_up(self) -> bool: ...


class Alone:
    """The demand of a single waiter, as for a call of `ClerkClient`."""

    def __init__(self) -> None:
        self.priority = Priority.RECENT
        self.given_up = False
        self.on_change: Callable[[], None] | None = None

    def leave(self) -> None:
        """Set `given_up`: the waiter has its answer or was cancelled."""
        self.given_up = True
        if self.on_change is not None:
            self.on_change()


def nobody_waits(operation: str) -> OverloadedError:
    """Return the error of a call that is not sent, because it has no waiters left."""
    return OverloadedError(f"{operation}: not sent, because nobody waits for the answer any more.")


def client_closed(operation: str) -> BackendUnavailableError:
    """Return the error of a call that is not sent, because the client was closed."""
    return BackendUnavailableError(f"{operation}: not sent, because the client was closed.")


class Gate:
    """Makes the calls of one event loop wait until `admission` gives them a slot."""

    def __init__(self, admission: Admission) -> None:
        self.admission = admission
        self._turns: dict[Ticket, asyncio.Future[None]] = {}
        self._pauses: set[asyncio.Event] = set()
        self._closed = False

    async def enter(self, operation: str, demand: CallDemand) -> Ticket:
        """Wait for a slot and return its ticket; call `done` with the ticket afterwards.

        Raises `OverloadedError` if the call must not be sent, and `BackendUnavailableError` if the
        client is closed during the wait.
        """
        ticket = Ticket(demand.priority)
        others = self.admission.enter(ticket, asyncio.get_running_loop().time())
        if others:
            self._tell(others)
        if ticket.state is State.WAITING:
            await self._turn(ticket, demand)
        match ticket.state:
            case State.OUT:
                return ticket
            case State.LEFT if self._closed:
                raise client_closed(operation)
            case State.LEFT:
                raise nobody_waits(operation)
        reason = (
            "more unknown credentials arrive than unknown_rate allows"
            if ticket.refused_by_rate
            else "more calls wait than Clerk answers in time"
        )
        raise OverloadedError(f"{operation}: not sent, because {reason}.", retry_after=RETRY_AFTER)

    def done(self, ticket: Ticket, *, service_time: float | None) -> None:
        """Free the slot of a call; `service_time` (seconds) is None if no answer came."""
        others = self.admission.done(ticket, service_time=service_time)
        if others:
            self._tell(others)

    async def pause(self, demand: CallDemand, seconds: float) -> bool:
        """Wait before a retry; return False if the call must not be repeated.

        Returns False as soon as the call has no waiters left, or the client is closed.
        """
        changed = asyncio.Event()
        self._pauses.add(changed)
        demand.on_change = changed.set
        try:
            async with asyncio.timeout(seconds):
                while not (demand.given_up or self._closed):
                    changed.clear()
                    await changed.wait()
        except TimeoutError:
            pass
        finally:
            demand.on_change = None
            self._pauses.discard(changed)
        return not (demand.given_up or self._closed)

    def close(self) -> None:
        """Refuse all calls that wait for a slot, and all further retries."""
        self._closed = True
        for ticket in list(self._turns):
            self._leave(ticket)
        for changed in self._pauses:
            changed.set()

    async def _turn(self, ticket: Ticket, demand: CallDemand) -> None:
        if demand.given_up:
            self.admission.leave(ticket)
            return
        turn = self._turns[ticket] = asyncio.get_running_loop().create_future()
        demand.on_change = lambda: self._changed(ticket, demand)
        try:
            await turn
        except asyncio.CancelledError:
            if ticket.state is State.OUT:  # it got a slot and was cancelled in the same step
                self.done(ticket, service_time=None)
            else:
                self._leave(ticket)
            raise
        finally:
            demand.on_change = None
            self._turns.pop(ticket, None)

    def _changed(self, ticket: Ticket, demand: CallDemand) -> None:
        if ticket.state is not State.WAITING:
            return
        if demand.given_up:
            self._leave(ticket)
        elif demand.priority is not ticket.priority:
            self._tell(self.admission.change(ticket, demand.priority))

    def _leave(self, ticket: Ticket) -> None:
        if ticket.state is State.WAITING:
            self.admission.leave(ticket)
            self._tell((ticket,))

    def _tell(self, changed: Iterable[Ticket]) -> None:
        for ticket in changed:
            turn = self._turns.get(ticket)
            if turn is not None and not turn.done():
                turn.set_result(None)
