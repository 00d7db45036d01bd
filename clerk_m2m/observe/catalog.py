"""The table of all metrics: name, unit, labels, and the function that reads each one.

The exporters iterate over these tables. A name is in OpenTelemetry's form, without the prefix
`clerk_m2m.`. `unit` is in UCUM; counted things are in braces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Generic, TypeAlias, TypeVar

from clerk_m2m.observe.measurements import (
    FleetMeasurements,
    Measurements,
    MintMeasurements,
    Upstream,
)

M = TypeVar("M")

# The label values of a sample, and its value.
Sample: TypeAlias = tuple[tuple[str, ...], float]


class Kind(Enum):
    """The kinds of metrics."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric(Generic[M]):
    """One metric; `read` returns its samples from the measurements."""

    name: str
    kind: Kind
    unit: str
    help: str
    labels: tuple[str, ...] = ()
    read: Callable[[M], Iterable[Sample]]

    @property
    def dotted(self) -> str:
        """Return the name for OpenTelemetry."""
        return f"clerk_m2m.{self.name}"

    @property
    def attributes(self) -> tuple[str, ...]:
        """Return the names of the labels for OpenTelemetry."""
        return tuple(f"clerk_m2m.{label}" for label in self.labels)

    @property
    def snake(self) -> str:
        """Return the name for Prometheus, with its unit, as it appears in queries."""
        unit = "_seconds" if self.unit == "s" else ""
        total = "_total" if self.kind is Kind.COUNTER else ""
        return f"clerk_m2m_{self.name.replace('.', '_')}{unit}{total}"


def _one(value: float | None) -> list[Sample]:
    return [] if value is None else [((), value)]


def _each(values: Mapping[str, int]) -> list[Sample]:
    return [((key,), value) for key, value in values.items()]


def _upstreams(read: Callable[[Upstream], float | None]) -> Callable[[Measurements], list[Sample]]:
    def samples(measured: Measurements) -> list[Sample]:
        read_all = ((name, read(each)) for name, each in measured.upstreams.items())
        return [((name,), value) for name, value in read_all if value is not None]

    return samples


def _upstreams_by(
    read: Callable[[Upstream], Mapping[str, int]],
) -> Callable[[Measurements], list[Sample]]:
    return lambda measured: [
        ((name, key), value)
        for name, upstream in measured.upstreams.items()
        for key, value in read(upstream).items()
    ]


def _breakers(measured: Measurements) -> list[Sample]:
    return [
        ((name, calls, state), float(state == now))
        for name, upstream in measured.upstreams.items()
        for calls, now in upstream.breakers.items()
        for state in ("closed", "open", "silent")
    ]


def _fleet(read: Callable[[FleetMeasurements], float]) -> Callable[[Measurements], list[Sample]]:
    return lambda measured: [] if measured.fleet is None else _one(read(measured.fleet))


def _fleet_rows(measured: Measurements) -> list[Sample]:
    fleet = measured.fleet
    return [] if fleet is None else _each({"applied": fleet.applied, "refused": fleet.refused})


def _fleet_verdicts(measured: Measurements) -> list[Sample]:
    return [] if measured.fleet is None else _each(measured.fleet.shared)


# The histogram has no samples here: exporters read `Measurements.calls`, or register `on_call`.
CALL_DURATION: Final[Metric[Measurements]] = Metric(
    name="call.duration",
    kind=Kind.HISTOGRAM,
    unit="s",
    labels=("operation", "result"),
    help="Duration of calls to Clerk in seconds; each attempt counts as a call.",
    read=lambda _measured: (),
)

VERIFIER: Final[tuple[Metric[Measurements], ...]] = (
    Metric(
        name="verifications",
        kind=Kind.COUNTER,
        unit="{verification}",
        labels=("source", "outcome"),
        help="Verifications by the source of the verdict and by outcome.",
        read=lambda measured: list(measured.verifications.items()),
    ),
    Metric(
        name="refusals",
        kind=Kind.COUNTER,
        unit="{refusal}",
        labels=("code",),
        help="Requests that were refused, by the code of the refusal.",
        read=lambda measured: _each(measured.refusals),
    ),
    Metric(
        name="would_refuse",
        kind=Kind.COUNTER,
        unit="{refusal}",
        labels=("code",),
        help="Requests that report_only accepted although they would have been refused, by code.",
        read=lambda measured: _each(measured.would_refuse),
    ),
    Metric(
        name="verifications.sent",
        kind=Kind.COUNTER,
        unit="{call}",
        help="Verifications that were sent to Clerk.",
        read=lambda measured: _one(measured.sent),
    ),
    Metric(
        name="verifications.billed",
        kind=Kind.COUNTER,
        unit="{call}",
        help="Verifications that Clerk answered, which it bills.",
        read=lambda measured: _one(measured.paid),
    ),
    Metric(
        name="refreshes",
        kind=Kind.COUNTER,
        unit="{refresh}",
        help="Cached verdicts that were refreshed before they expired.",
        read=lambda measured: _one(measured.refreshes),
    ),
    CALL_DURATION,
    Metric(
        name="calls.waiting",
        kind=Kind.GAUGE,
        unit="{call}",
        labels=("upstream", "priority"),
        help="Calls that wait for a slot.",
        read=_upstreams_by(lambda upstream: upstream.waiting),
    ),
    Metric(
        name="calls.out",
        kind=Kind.GAUGE,
        unit="{call}",
        labels=("upstream",),
        help="Calls that were sent and have not ended.",
        read=_upstreams(lambda upstream: upstream.out),
    ),
    Metric(
        name="calls.refused",
        kind=Kind.COUNTER,
        unit="{call}",
        labels=("upstream", "reason"),
        help="Calls that were not sent: above unknown_rate, or more than are answered in time.",
        read=_upstreams_by(lambda upstream: upstream.refused),
    ),
    Metric(
        name="service_time",
        kind=Kind.GAUGE,
        unit="s",
        labels=("upstream",),
        help="Estimated time until Clerk answers, in the slowest event loop.",
        read=_upstreams(lambda upstream: upstream.service_time),
    ),
    Metric(
        name="unknown_rate",
        kind=Kind.GAUGE,
        unit="{call}/s",
        labels=("upstream",),
        help="Calls about unknown credentials that are allowed in a second.",
        read=_upstreams(lambda upstream: upstream.unknown_rate),
    ),
    Metric(
        name="breaker.state",
        kind=Kind.GAUGE,
        unit="1",
        labels=("upstream", "calls", "state"),
        help="1 for the state that a breaker is in, 0 for the others.",
        read=_breakers,
    ),
    Metric(
        name="cache.entries",
        kind=Kind.GAUGE,
        unit="{entry}",
        labels=("verdict",),
        help="Cached verdicts.",
        read=lambda measured: _each(measured.cached),
    ),
    Metric(
        name="invalidations.rows",
        kind=Kind.GAUGE,
        unit="{row}",
        help="Invalidations that are in force.",
        read=lambda measured: _one(measured.invalidations),
    ),
    Metric(
        name="graph.age",
        kind=Kind.GAUGE,
        unit="s",
        help="Seconds since the scope graph was last read.",
        read=lambda measured: _one(measured.graph_age),
    ),
    Metric(
        name="key_set.age",
        kind=Kind.GAUGE,
        unit="s",
        help="Seconds since the key set was last fetched.",
        read=lambda measured: _one(measured.key_set_age),
    ),
    Metric(
        name="clock.skew",
        kind=Kind.GAUGE,
        unit="s",
        help="Seconds that the clock of this host is ahead of Clerk's.",
        read=lambda measured: _one(measured.clock_skew),
    ),
    Metric(
        name="fleet.in_sync",
        kind=Kind.GAUGE,
        unit="1",
        help="1 while the log of the fleet is followed, 0 while it cannot be read.",
        read=_fleet(lambda fleet: float(fleet.in_sync)),
    ),
    Metric(
        name="fleet.out_of_sync",
        kind=Kind.GAUGE,
        unit="s",
        help="Seconds since the log of the fleet could last be read; 0 while it is followed.",
        read=_fleet(lambda fleet: fleet.out_of_sync),
    ),
    Metric(
        name="fleet.rows",
        kind=Kind.COUNTER,
        unit="{row}",
        labels=("outcome",),
        help="Rows of the log of the fleet: applied, or refused for lack of a good signature.",
        read=_fleet_rows,
    ),
    Metric(
        name="fleet.doubts",
        kind=Kind.COUNTER,
        unit="{doubt}",
        help="How often log rows may have been lost; all credentials are then verified again.",
        read=_fleet(lambda fleet: fleet.doubts),
    ),
    Metric(
        name="fleet.verdicts",
        kind=Kind.COUNTER,
        unit="{verdict}",
        labels=("result",),
        help="Look-ups of shared verdicts, by result.",
        read=_fleet_verdicts,
    ),
)

AUTH: Final[tuple[Metric[MintMeasurements], ...]] = (
    Metric(
        name="mints",
        kind=Kind.COUNTER,
        unit="{mint}",
        labels=("result",),
        help="Mints of tokens, by result.",
        read=lambda measured: [(("minted",), measured.minted), (("failed",), measured.failed)],
    ),
    Metric(
        name="token.remaining",
        kind=Kind.GAUGE,
        unit="s",
        help="Seconds for which the token may still be sent.",
        read=lambda measured: _one(measured.remaining),
    ),
)

ALL: Final[tuple[Metric[Any], ...]] = (*VERIFIER, *AUTH)
