"""Counters that only grow, for metrics."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields


@dataclass(slots=True, kw_only=True)
class Stats:
    """Counters since construction; they only grow. Reading them costs nothing.

    `sent` counts the verifications that were sent to Clerk, `paid` those that were answered: Clerk
    bills these, and perhaps one whose answer was cut off. `hits` were answered from the cache,
    `shared` waited for a verification that another request had begun, `offline` were good JWTs that
    were checked without a call, `refreshes` were begun ahead of a verdict's end, `stale` were
    answered from a verdict past its lifetime while Clerk was down, `unavailable` could not be
    answered. `refusals` are the requests that the middleware refused, those of guards included, by
    code; `would_refuse` are those that it would have refused but for `report_only`.
    """

    hits: int = 0
    sent: int = 0
    paid: int = 0
    shared: int = 0
    offline: int = 0
    refreshes: int = 0
    stale: int = 0
    unavailable: int = 0
    refusals: Counter[str] = field(default_factory=Counter)
    would_refuse: Counter[str] = field(default_factory=Counter)

    def as_dict(self) -> dict[str, int]:
        """Give the counters by name, for a metrics exporter; those by code have it after a dot."""
        found: dict[str, int] = {}
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, Counter):
                found |= {f"{each.name}.{code}": count for code, count in value.items()}
            else:
                found[each.name] = value
        return found
