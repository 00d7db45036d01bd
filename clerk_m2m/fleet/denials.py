"""`Denials`: the denials of JWTs that a process knows from the log, to write them again."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable
from typing import TypeAlias

from clerk_m2m.fleet.log import MAX_ROWS
from clerk_m2m.lookups.invalidation import Invalidation, TokenKind

ByName: TypeAlias = OrderedDict[tuple[str, object], Invalidation]


class Denials:
    """At most as many denials as the log holds, so that writing them again drops no row.

    `wall` returns the time (Unix s). Denials of JWTs that could not be verified are in a table of
    their own, so that they displace no other denial.
    """

    def __init__(self, wall: Callable[[], float]) -> None:
        self._wall = wall
        self._verified: ByName = OrderedDict()
        self._unproven: ByName = OrderedDict()

    def add(self, invalidation: Invalidation) -> None:
        """Remember an invalidation if it denies JWTs."""
        if invalidation.token_kind is TokenKind.OPAQUE or invalidation.caller is not None:
            return
        table = self._table_of(invalidation)
        before = table.pop(invalidation.name, invalidation)
        table[invalidation.name] = max(before, invalidation, key=lambda each: each.instant)
        oldest = next(iter(table.values()))
        if oldest.ends_at is not None and oldest.ends_at <= self._wall():
            del table[oldest.name]
        if len(self._verified) + len(self._unproven) > MAX_ROWS:
            (self._unproven or self._verified).popitem(last=False)

    def have(self, invalidation: Invalidation) -> bool:
        """Return True if this denial, or a later one of the same name, is known."""
        known = self._table_of(invalidation).get(invalidation.name)
        return known is not None and known.instant >= invalidation.instant

    def shuffled(self) -> dict[tuple[str, object], Invalidation]:
        """Return all denials in a random order, those of unverified JWTs last.

        Each process writes in an order of its own, so that few rows are written by several.
        """
        verified, unproven = list(self._verified.items()), list(self._unproven.items())
        random.shuffle(verified)
        random.shuffle(unproven)
        found = dict(verified)
        for name, each in unproven:
            found.setdefault(name, each)
        return found

    def _table_of(self, invalidation: Invalidation) -> ByName:
        is_unproven = invalidation.token_kind is TokenKind.UNPROVEN
        return self._unproven if is_unproven else self._verified
