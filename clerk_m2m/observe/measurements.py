"""What is measured, as it stands at one moment. Durations are seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

from clerk_m2m.observe.call_times import Histogram, OnCall

T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """The calls to one upstream: what waits, what is out, what was not sent, and the breakers.

    `waiting` is by priority, `refused` by reason (`rate`, `room`), `breakers` gives the state
    (`closed`, `open`, `silent`) by the calls that it holds for (`known`, `others`). `service_time`
    is the estimate of the slowest event loop; `unknown_rate` is in calls a second.
    """

    waiting: Mapping[str, int]
    out: int
    refused: Mapping[str, int]
    service_time: float
    unknown_rate: float | None
    breakers: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetMeasurements:
    """How the log of the fleet is followed.

    `out_of_sync` is for how many seconds it could not be read, 0 while it is. `applied` counts
    rows, `refused` those without a good signature, and `doubts` how often rows may have been lost.
    `shared` counts, where verdicts are shared, what came of looking for one.
    """

    in_sync: bool
    out_of_sync: float
    applied: int
    refused: int
    doubts: int
    shared: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurements:
    """What a verifier has done since construction, and how it stands now.

    `verifications` counts by source and outcome, `refusals` and `would_refuse` by code; `calls`
    are the histograms by operation and result, `upstreams` the calls by upstream. The ages are the
    seconds since the last good answer: None where nothing is fetched, or no answer came yet.
    `clock_skew` is by how many seconds this host's clock is ahead of Clerk's.
    """

    verifications: Mapping[tuple[str, str], int]
    refusals: Mapping[str, int]
    would_refuse: Mapping[str, int]
    sent: int
    paid: int
    refreshes: int
    calls: Mapping[tuple[str, str], Histogram]
    upstreams: Mapping[str, Upstream]
    cached: Mapping[str, int]
    invalidations: int
    graph_age: float | None
    key_set_age: float | None
    clock_skew: float | None
    fleet: FleetMeasurements | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MintMeasurements:
    """What a `MachineTokenAuth` has minted, and for how many seconds its token may still be sent.

    `remaining` is None while there is no token, and for a token without an end.
    """

    minted: int
    failed: int
    remaining: float | None


class Measured(Protocol[T_co]):
    """What can be measured at any time, from any thread."""

    def measure(self) -> T_co:
        """Give the counters and the state of this moment."""


class MeasuredVerifier(Measured[Measurements], Protocol):
    """What an exporter needs of a verifier; `Verifier` is one."""

    def on_call(self, listener: OnCall) -> None:
        """Call `listener(operation, result, seconds)` after each call to Clerk."""
