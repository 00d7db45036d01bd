"""Up to where a process has applied the log, and whether the log still goes on from there."""

from __future__ import annotations

from dataclasses import dataclass

from clerk_m2m.fleet.log import Page
from clerk_m2m.fleet.rows import Row


@dataclass(slots=True)
class Position:
    """The last row that was applied: its epoch, number and nonce. No epoch: nothing was read yet.

    Until the row `history_to` the rows are older than this process's reading of the log. `ending`
    is an epoch that must not go on, since rows of it were lost; empty where there is none.
    """

    epoch: str | None = None
    number: int = -1
    nonce: str = ""
    history_to: int = -1
    ending: str = ""

    def is_continued_by(self, page: Page) -> bool:
        """Tell whether the rows of `page` are those that come after this position."""
        if page.epoch != self.epoch or page.number < self.number or self._was_overtaken_by(page):
            return False
        if self.number < self.history_to:
            return True  # nothing was applied yet that a missing row could belong to
        if not page.rows:
            return page.number == self.number and page.nonce == self.nonce
        number, nonce = self.number, self.nonce
        for row in page.rows:
            if row.number != number + 1 or row.previous != nonce:
                return False
            number, nonce = row.number, row.nonce
        return True

    def is_before(self, row: Row) -> bool:
        """Tell whether `row` is the one that comes after this position."""
        return row.number == self.number + 1 and row.previous == self.nonce

    def give_up(self, page: Page) -> None:
        """Note that the log does not go on from here as `page` has it.

        Where the epoch is still the same one, nobody else has noticed that rows were lost: it must
        end, so that all processes write the denials that they know. Rows that were dropped because
        they have ended, or because the log was full, are not lost.
        """
        if page.epoch == self.epoch and not self._was_overtaken_by(page):
            self.ending = page.epoch
        self.epoch = None

    def _was_overtaken_by(self, page: Page) -> bool:
        """Tell whether rows after this position were dropped before they were read."""
        return page.first > self.number + 1

    def begin(self, page: Page) -> None:
        """Begin at the oldest row of a log that was read from there."""
        self.ending = ""
        self.epoch, self.history_to = page.epoch, page.number
        self.number = page.before
        self.nonce = page.rows[0].previous if page.rows else page.nonce

    def advance(self, row: Row) -> None:
        """Note that a row was applied."""
        self.number, self.nonce = row.number, row.nonce
