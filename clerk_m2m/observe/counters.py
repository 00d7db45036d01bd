"""Counters that only grow, for metrics."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields


@dataclass(slots=True, kw_only=True)
class Stats:
    """Counters since construction; they only grow.

    - `sent`: verifications that were sent to Clerk.
    - `paid`: verifications that Clerk answered. Clerk bills these, and perhaps one whose answer was
      cut off.
    - `hits`: verifications answered from the cache.
    - `refused_hits`: hits whose verdict was negative.
    - `shared`: verifications that waited for a call that another request had started.
    - `offline`: valid JWTs that were verified without a call.
    - `refreshes`: verifications that were started before a cached verdict expired.
    - `stale`: verifications answered with an expired verdict while Clerk was down.
    - `unavailable`: verifications that failed.
    - `outcomes`: verifications that were not hits, by source and outcome.
    - `refusals`: requests that the middleware refused (also for a guard), by code.
    - `would_refuse`: requests that it would have refused without `report_only`, by code.
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
        """Return all verifications by source and outcome, including hits."""
        hits = {
            ("cache", "accepted"): self.hits - self.refused_hits,
            ("cache", "refused"): self.refused_hits,
        }
        found = dict(self.outcomes)
        return found | {key: count + found.get(key, 0) for key, count in hits.items()}

    def as_dict(self) -> dict[str, int]:
        """Return the counters by name; names of refusals end with a dot and the code."""
        named = ((each.name, getattr(self, each.name)) for each in fields(self))
        found = {name: value for name, value in named if isinstance(value, int)}
        for name in ("refusals", "would_refuse"):
            by_code: Counter[str] = getattr(self, name)
            found |= {f"{name}.{code}": count for code, count in by_code.items()}
        return found


@dataclass(slots=True, kw_only=True)
class SharedVerdicts:
    """Results of look-ups of verdicts that the processes of a service share.

    `hits` were found; for `misses` Clerk was asked. `waits` waited for another process that asked
    Clerk. `refused` are entries that were not sealed with this service's keys or cannot be read.
    """

    hits: int = 0
    misses: int = 0
    waits: int = 0
    refused: int = 0
