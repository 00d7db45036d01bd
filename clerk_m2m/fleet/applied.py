"""`Applied`: what this process knows to be revoked, for verdicts that other processes asked for.

Rules of this file:

- A shared verdict carries the number of the log up to which its asker had applied the log when it
  asked. A later row that names it outlaws it. A row is noted here before it is applied to the local
  verdicts: whoever reads a shared verdict in between is voided by the latter.
- The names of the last 10,000 rows are kept. What was asked for below the oldest of them counts as
  outlawed, and so does what was asked for below the first row that this process has read.
- What was invalidated in this process alone is kept too: no shared verdict overrules it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from math import inf
from typing import Final

from clerk_m2m.lookups.invalidation import Invalidation
from clerk_m2m.lookups.invalidations import Name
from clerk_m2m.tasks import fork_safe_lock

MAX_NAMES: Final = 10_000


@dataclass(frozen=True, slots=True)
class Mark:
    """A position in the log: up to row `number` of the epoch, everything was applied."""

    epoch: str
    number: int


class Applied:
    """The rows that were applied of late, and up to where. `mark` is None while out of sync."""

    def __init__(self) -> None:
        self.mark: Mark | None = None
        # Their oldest is dropped again and again: a plain dict would pass all gaps before it.
        self._rows: OrderedDict[Name, int] = OrderedDict()
        self._floor = 0
        self._here: OrderedDict[Name, float] = OrderedDict()
        self._here_floor = -inf
        self._lock = fork_safe_lock()

    # The log, in the event loop of `background`

    def begin(self, number: int) -> None:
        """Begin to apply a log of which nothing is known up to the row `number`."""
        self.mark = None
        self._rows, self._floor = OrderedDict(), number

    def note(self, number: int, invalidation: Invalidation) -> None:
        """Note a row that is about to be applied."""
        for name in _names(invalidation):
            self._rows.pop(name, None)
            self._rows[name] = number
        while len(self._rows) > MAX_NAMES:
            _, self._floor = self._rows.popitem(last=False)

    def reached(self, epoch: str | None, number: int) -> None:
        """Note that all rows up to `number` were applied, and that there are no more."""
        self.mark = None if epoch is None else Mark(epoch, number)

    def lost(self) -> None:
        """Note that it is not known what the log says."""
        self.mark = None

    # In any thread

    def invalidated_here(self, invalidation: Invalidation, now: float) -> None:
        """Note what is invalidated in this process at `now` (monotonic s)."""
        with self._lock:
            for name in _names(invalidation):
                self._here.pop(name, None)
                self._here[name] = now
            while len(self._here) > MAX_NAMES:
                _, self._here_floor = self._here.popitem(last=False)

    def outlaws(self, names: Iterable[Name], asked: Mark, *, since: float) -> bool:
        """Tell whether a verdict of these names that was asked for at `asked` must not be used.

        It must not where any of them was invalidated here after `since` (monotonic s), or where it
        is not known what the log says.
        """
        mark, floor, rows = self.mark, self._floor, self._rows
        if mark is None or mark.epoch != asked.epoch or asked.number < floor:
            return True
        return self._here_floor > since or any(
            rows.get(name, -1) > asked.number or self._here.get(name, -inf) > since
            for name in names
        )


def _names(invalidation: Invalidation) -> list[Name]:
    ids = (invalidation.token_id, invalidation.machine_id)
    return [*invalidation.digests, *(each for each in ids if each is not None)]
