"""The last row of the log that a process has applied, and whether the log continues from it."""

from __future__ import annotations

from dataclasses import dataclass

from clerk_m2m.fleet.log import Page
from clerk_m2m.fleet.rows import Row


@dataclass(slots=True)
class Position:
    """The last row that was applied: its epoch, number and nonce. `epoch` None: nothing read yet.

    Rows up to number `history_to` were in the log before this process began to read it. `ending` is
    an epoch that must be replaced, because rows of it were lost; empty if there is none.
    """

    epoch: str | None = None
    number: int = -1
    nonce: str = ""
    history_to: int = -1
    ending: str = ""

    def is_continued_by(self, page: Page) -> bool:
        """Return True if the rows of `page` follow directly after this position."""
        if page.epoch != self.epoch or page.number < self.number or self._was_overtaken_by(page):
            return False
        if self.number < self.history_to:
            return True  # the first read is not complete: nothing relies on these rows yet
        if not page.rows:
            return page.number == self.number and page.nonce == self.nonce
        number, nonce = self.number, self.nonce
        for row in page.rows:
            if row.number != number + 1 or row.previous != nonce:
                return False
            number, nonce = row.number, row.nonce
        return True

    def is_before(self, row: Row) -> bool:
        """Return True if `row` is the row directly after this position."""
        return row.number == self.number + 1 and row.previous == self.nonce

    def give_up(self, page: Page) -> None:
        """Drop the position, because `page` does not continue from it.

        If the epoch is still the same, no other process has noticed the lost rows. Then a new epoch
        must begin, so that all processes write the denials that they know. Rows that were dropped
        because they had expired, or because the log was full, are not lost rows.
        """
        if page.epoch == self.epoch and not self._was_overtaken_by(page):
            self.ending = page.epoch
        self.epoch = None

    def _was_overtaken_by(self, page: Page) -> bool:
        """Return True if rows after this position were dropped before this process read them."""
        return page.first > self.number + 1

    def begin(self, page: Page) -> None:
        """Begin with the first page of a log, which starts at its oldest row."""
        self.ending = ""
        self.epoch, self.history_to = page.epoch, page.number
        self.number = page.before
        self.nonce = page.rows[0].previous if page.rows else page.nonce

    def advance(self, row: Row) -> None:
        """Note that a row was applied."""
        self.number, self.nonce = row.number, row.nonce
