"""OpenTelemetry metrics. Needs the extra `pip install "clerk-m2m[otel]"`, which is only the API.

Sole owner of `opentelemetry`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation, get_meter

from clerk_m2m.observe import catalog
from clerk_m2m.observe.call_times import BOUNDS
from clerk_m2m.observe.catalog import CALL_DURATION, Kind
from clerk_m2m.observe.measurements import (
    Measured,
    MeasuredVerifier,
    MintMeasurements,
)

__all__ = ["export_metrics"]

M = TypeVar("M")


def export_metrics(
    verifier: MeasuredVerifier | None = None,
    auth: Measured[MintMeasurements] | None = None,
    *,
    meter_provider: MeterProvider | None = None,
) -> None:
    """Export the metrics of a verifier and a `MachineTokenAuth` through the OpenTelemetry API.

    Call it once in each process. `meter_provider` None means the global one. Counters and state are
    read when the SDK collects; only the duration of calls to Clerk is recorded per call.
    """
    instruments = _Instruments(meter_provider)
    if verifier is not None:
        for metric in catalog.VERIFIER:
            if metric is CALL_DURATION:
                verifier.on_call(instruments.call_durations())
            else:
                instruments.observe(metric, verifier)
    if auth is not None:
        for minting in catalog.AUTH:
            instruments.observe(minting, auth)


class _Instruments:
    def __init__(self, meter_provider: MeterProvider | None) -> None:
        self._meter = get_meter("clerk_m2m", meter_provider=meter_provider)

    def observe(self, metric: catalog.Metric[M], measured: Measured[M]) -> None:
        """Create the instrument for a counter or a gauge, which is read when the SDK collects."""

        def read(_options: CallbackOptions) -> Iterable[Observation]:
            names = metric.attributes
            for labels, value in metric.read(measured.measure()):
                yield Observation(value, dict(zip(names, labels, strict=True)))

        create = (
            self._meter.create_observable_counter
            if metric.kind is Kind.COUNTER
            else self._meter.create_observable_gauge
        )
        create(metric.dotted, [read], unit=metric.unit, description=metric.help)

    def call_durations(self) -> Callable[[str, str, float], None]:
        """Create the histogram and return a function that records a call in it."""
        metric = CALL_DURATION
        histogram = self._meter.create_histogram(
            metric.dotted,
            unit=metric.unit,
            description=metric.help,
            explicit_bucket_boundaries_advisory=BOUNDS,
        )
        operation_name, result_name = metric.attributes

        def record(operation: str, result: str, seconds: float) -> None:
            histogram.record(seconds, {operation_name: operation, result_name: result})

        return record
