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
    answered. `refused_hits` are the hits that were a refusal, `outcomes` count the verifications
    that were no hit, by source and outcome. `refusals` are the requests that the middleware
    refused, those of guards included, by code; `would_refuse` are those that it would have refused
    but for `report_only`.
    """

    hits: int = 0
    sent: int = 0
    paid: int = 0
    shared: int = 0
    offline: int = 0
    refreshes: int = 0
    stale: int = 0
    unavailable: int = 0
    refused_hits: int = 0
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    would_refuse: Counter[str] = field(default_factory=Counter)

    def verifications(self) -> dict[tuple[str, str], int]:
        """Give all verifications by source and outcome, the hits among them."""
        hits = {
            ("cache", "accepted"): self.hits - self.refused_hits,
            ("cache", "refused"): self.refused_hits,
        }
        found = dict(self.outcomes)
        return found | {key: count + found.get(key, 0) for key, count in hits.items()}

    def as_dict(self) -> dict[str, int]:
        """Give the counters by name; those of refusals have the code after a dot."""
        named = ((each.name, getattr(self, each.name)) for each in fields(self))
        found = {name: value for name, value in named if isinstance(value, int)}
        for name in ("refusals", "would_refuse"):
            by_code: Counter[str] = getattr(self, name)
            found |= {f"{name}.{code}": count for code, count in by_code.items()}
        return found


@dataclass(slots=True, kw_only=True)
class SharedVerdicts:
    """What came of looking for the verdicts that the processes of a service share.

    `hits` were found, `misses` were asked of Clerk. `waits` found another process asking Clerk.
    `refused` are entries that no holder of this service's keys has sealed, or that cannot be read.
    """

    hits: int = 0
    misses: int = 0
    waits: int = 0
    refused: int = 0
