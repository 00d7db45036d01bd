"""`Applied`: what this process knows to be revoked, to judge verdicts that other processes share.

Rules of this file:

- A shared verdict carries the number of the last row that its author had applied when it asked
  Clerk. If a later row names the credential, the verdict must not be used. A row is noted here
  before it is applied to the local verdicts. So if a shared verdict is read between these two
  steps, the second step voids it.
- The names of the last 10,000 rows are kept. A verdict that is older than the oldest of these rows,
  or older than the first row that this process has read, must not be used either.
- Invalidations of this process that are not in the log are kept too: no shared verdict overrules
  them.
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
    """The rows that were applied recently. `mark` is the last one; None while out of sync."""

    def __init__(self) -> None:
        self.mark: Mark | None = None
        # The oldest is dropped often: in a plain dict, each drop would first scan the gaps of all
        # earlier ones.
        self._rows: OrderedDict[Name, int] = OrderedDict()
        self._floor = 0
        self._here: OrderedDict[Name, float] = OrderedDict()
        self._here_floor = -inf
        self._lock = fork_safe_lock()

    # The log, in the event loop of `background`

    def begin(self, number: int) -> None:
        """Begin to apply a log. The rows up to `number` are not known."""
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
        """Note that the log cannot be read, or may have lost rows."""
        self.mark = None

    # In any thread

    def invalidated_here(self, invalidation: Invalidation, now: float) -> None:
        """Note an invalidation of this process, made at `now` (monotonic s)."""
        with self._lock:
            for name in _names(invalidation):
                self._here.pop(name, None)
                self._here[name] = now
            while len(self._here) > MAX_NAMES:
                _, self._here_floor = self._here.popitem(last=False)

    def outlaws(self, names: Iterable[Name], asked: Mark, *, since: float) -> bool:
        """Return True if a verdict must not be used. `names` are the names of its credential.

        `asked` is the position in the log at which its author asked Clerk. The verdict must not be
        used if a later row has one of the names, if one of them was invalidated in this process
        after `since` (monotonic s), or if this process is out of sync with the log.
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
