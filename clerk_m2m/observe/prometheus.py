"""A Prometheus collector. Needs the extra `pip install "clerk-m2m[prometheus]"`.

Sole owner of `prometheus_client`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from clerk_m2m.observe import catalog
from clerk_m2m.observe.catalog import CALL_DURATION, Kind
from clerk_m2m.observe.measurements import Measured, Measurements, MintMeasurements

__all__ = ["MetricsCollector"]

M = TypeVar("M")


class MetricsCollector(Collector):
    """Collects the metrics of a verifier, a `MachineTokenAuth`, or both, when Prometheus scrapes.

    `prometheus_client.REGISTRY.register(MetricsCollector(verifier))`. Register only one collector
    per registry. Nothing is done per request.
    """

    def __init__(
        self,
        verifier: Measured[Measurements] | None = None,
        auth: Measured[MintMeasurements] | None = None,
    ) -> None:
        self._verifier = verifier
        self._auth = auth

    def collect(self) -> Iterable[Metric]:
        """Read the counters and the current state."""
        if self._verifier is not None:
            measured = self._verifier.measure()
            for metric in catalog.VERIFIER:
                yield _calls(measured) if metric is CALL_DURATION else _family(metric, measured)
        if self._auth is not None:
            minted = self._auth.measure()
            yield from (_family(metric, minted) for metric in catalog.AUTH)


def _family(metric: catalog.Metric[M], measured: M) -> Metric:
    kind = CounterMetricFamily if metric.kind is Kind.COUNTER else GaugeMetricFamily
    family = kind(metric.snake, metric.help, labels=metric.labels)
    for labels, value in metric.read(measured):
        family.add_metric(labels, value)
    return family


def _calls(measured: Measurements) -> Metric:
    metric = CALL_DURATION
    family = HistogramMetricFamily(metric.snake, metric.help, labels=metric.labels)
    for labels, histogram in measured.calls.items():
        family.add_metric(labels, histogram.cumulative(), histogram.seconds)
    return family
