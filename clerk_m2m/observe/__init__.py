"""What an operator sees: counters of what was done, how things stand, and the exporters of both.

Counters only grow (`counters`, `call_times`); the state is read from the live objects when somebody
asks (`measurements`). Every metric is one row of `catalog`. The exporters are public and imported
by nobody else: `prometheus` (extra `prometheus`) and `otel` (extra `otel`). Nothing in a request
waits for an exporter. May import the vocabulary.
"""

from clerk_m2m.observe.call_times import Histogram
from clerk_m2m.observe.measurements import (
    Measured,
    MeasuredVerifier,
    Measurements,
    MintMeasurements,
    Upstream,
)

__all__ = [
    "Histogram",
    "Measured",
    "MeasuredVerifier",
    "Measurements",
    "MintMeasurements",
    "Upstream",
]
