"""Counters that only grow, for metrics."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(slots=True, kw_only=True)
class Stats:
    """Counters since construction; they only grow. Reading them costs nothing.

    `sent` counts the verifications that were sent to Clerk, `paid` those that were answered: Clerk
    bills these, and perhaps one whose answer was cut off. `hits` were answered from the cache,
    `shared` waited for a verification that another request had begun, `offline` were good JWTs that
    were checked without a call, `refreshes` were begun ahead of a verdict's end, `stale` were
    answered from a verdict past its lifetime while Clerk was down, `unavailable` could not be
    answered.
    """

    hits: int = 0
    sent: int = 0
    paid: int = 0
    shared: int = 0
    offline: int = 0
    refreshes: int = 0
    stale: int = 0
    unavailable: int = 0

    def as_dict(self) -> dict[str, int]:
        """Give the counters by name, for a metrics exporter."""
        return {each.name: getattr(self, each.name) for each in fields(self)}
