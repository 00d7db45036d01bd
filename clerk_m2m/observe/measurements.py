"""Measurements at one moment, for exporters. Durations are seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

from clerk_m2m.observe.call_times import Histogram, OnCall

T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """The calls to one upstream: waiting, in progress (`out`) and refused, and the breakers.

    `waiting` is by priority, `refused` by reason (`rate`, `room`). `breakers` maps each side
    (`known`, `others`) to the state of its breaker (`closed`, `open`, `silent`). `service_time` is
    the estimate of the slowest event loop; `unknown_rate` is in calls a second.
    """

    waiting: Mapping[str, int]
    out: int
    refused: Mapping[str, int]
    service_time: float
    unknown_rate: float | None
    breakers: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetMeasurements:
    """The state of reading the fleet's log.

    `out_of_sync` is the seconds for which the log could not be read, 0 while it is read. `applied`
    counts rows, `refused` counts rows without a valid signature, and `doubts` how often rows may
    have been lost. `shared` counts the look-ups of shared verdicts, if verdicts are shared.
    """

    in_sync: bool
    out_of_sync: float
    applied: int
    refused: int
    doubts: int
    shared: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurements:
    """The counters of a verifier since construction, and its current state.

    `verifications` counts by source and outcome, `refusals` and `would_refuse` by code. `calls` are
    the histograms by operation and result, `upstreams` the calls by upstream. The ages are the
    seconds since the last good answer; None if nothing is fetched or no answer came yet.
    `clock_skew` is the seconds by which this host's clock is ahead of Clerk's.
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
    """The mints of a `MachineTokenAuth`, and the remaining life of its token in seconds.

    `remaining` is None if there is no token or the token does not expire.
    """

    minted: int
    failed: int
    remaining: float | None


class Measured(Protocol[T_co]):
    """An object that can be measured at any time, from any thread."""

    def measure(self) -> T_co:
        """Return the counters and the current state."""


class MeasuredVerifier(Measured[Measurements], Protocol):
    """The methods of a verifier that an exporter uses; `Verifier` has them."""

    def on_call(self, listener: OnCall) -> None:
        """Call `listener(operation, result, seconds)` after each call to Clerk."""
