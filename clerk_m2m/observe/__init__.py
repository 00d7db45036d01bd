"""Metrics, events and log lines for an operator.

Counters only grow (`counters`, `call_times`). The current state is read from the live objects when
it is collected (`measurements`). Every metric is one row of `catalog`. The exporters are public,
and no other file imports them: `prometheus` (extra `prometheus`) and `otel` (extra `otel`). Each
part with something to report has a `Reporter`, which writes to the log, to the current span and to
the user's `on_event`. A verdict from the cache only increments a counter. No request waits for an
exporter. May import only the vocabulary.
"""

from clerk_m2m.observe.call_times import Histogram
from clerk_m2m.observe.events import Event, OnEvent
from clerk_m2m.observe.measurements import (
    FleetMeasurements,
    Measured,
    MeasuredVerifier,
    Measurements,
    MintMeasurements,
    Upstream,
)

__all__ = [
    "Event",
    "FleetMeasurements",
    "Histogram",
    "Measured",
    "MeasuredVerifier",
    "Measurements",
    "MintMeasurements",
    "OnEvent",
    "Upstream",
]
