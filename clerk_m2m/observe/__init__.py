"""What an operator sees: counters of what was done, how things stand, events, and log lines.

Counters only grow (`counters`, `call_times`); the state is read from the live objects when somebody
asks (`measurements`). Every metric is one row of `catalog`. The exporters are public and imported
by nobody else: `prometheus` (extra `prometheus`) and `otel` (extra `otel`). A `Reporter` is given
to each part that has something to tell, and tells it to the log, to the current span and to the
user's `on_event`. A cached verdict is a counter only. Nothing in a request waits for an exporter.
May import only the vocabulary.
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
