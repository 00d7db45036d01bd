"""Counters, measurements and both exporters."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry, generate_latest

from bench.cached import bare, request, template
from bench.path import traced
from clerk_m2m import (
    MachineAuthMiddleware,
    MachineTokenAuth,
    TokenInvalidError,
    VerificationUnavailableError,
    Verifier,
)
from clerk_m2m.observe import MintMeasurements
from clerk_m2m.observe.call_times import BOUNDS, CallResult, CallTimes
from clerk_m2m.observe.catalog import ALL, VERIFIER
from clerk_m2m.observe.otel import export_metrics
from clerk_m2m.observe.prometheus import MetricsCollector
from harness import World

DOCS = Path(__file__).parent.parent.parent / "docs"


def scraped(verifier: Verifier, auth: MachineTokenAuth | None = None) -> CollectorRegistry:
    registry = CollectorRegistry(auto_describe=True)
    registry.register(MetricsCollector(verifier, auth))
    return registry


async def used(world: World) -> Verifier:
    """A verifier that accepted one token three times and refused another twice."""
    verifier = world.verifier()
    token = world.token()
    for _ in range(3):
        await verifier.verify(token)
    for _ in range(2):
        with pytest.raises(TokenInvalidError):
            await verifier.verify("mt_" + "x" * 32)
    return verifier


async def test_verifications_are_counted_by_source_and_outcome(world: World) -> None:
    measured = (await used(world)).measure()

    assert measured.verifications == {
        ("online", "accepted"): 1,
        ("cache", "accepted"): 2,
        ("online", "refused"): 1,
        ("cache", "refused"): 1,
    }
    assert (measured.sent, measured.paid) == (2, 2)
    assert measured.cached == {"positive": 1, "negative": 1}


async def test_a_jwt_counts_as_offline_and_a_malformed_token_has_no_source(world: World) -> None:
    verifier = world.verifier(world.live_settings(graph="live"))
    jwt = world.jwt()
    await verifier.verify(jwt)
    for bad in (jwt[:-8] + "AAAAAAAA", "junk"):
        with pytest.raises(TokenInvalidError) as refused:
            await verifier.verify(bad)
        assert refused.value.code == "token_invalid"
    world.time.advance(7)

    measured = verifier.measure()

    assert measured.verifications[("offline", "accepted")] == 1
    assert measured.verifications[("offline", "refused")] == 1
    assert measured.verifications[("none", "refused")] == 1
    assert (measured.graph_age, measured.key_set_age) == (7, 7)
    assert ("GetJWKS", "ok") in measured.calls


async def test_an_outage_is_visible_in_outcomes_results_and_the_breaker(world: World) -> None:
    async def down(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    world.upstream.intercept = down
    verifier = world.verifier()
    for number in range(5):
        with pytest.raises(VerificationUnavailableError) as refused:
            await verifier.verify(f"mt_{number:032d}")
        assert refused.value.code == "verification_unavailable"

    measured = verifier.measure()

    assert measured.verifications[("none", "unavailable")] == 5
    assert measured.upstreams["backend_api"].breakers == {"known": "closed", "others": "open"}
    assert {result for _, result in measured.calls} == {"no_connection"}


async def test_calls_above_unknown_rate_are_counted_as_refused_by_rate(world: World) -> None:
    verifier = world.verifier(world.settings(unknown_rate=1.0))
    for number in range(4):
        with pytest.raises((TokenInvalidError, VerificationUnavailableError)):
            await verifier.verify(f"mt_{number:032d}")

    upstream = verifier.measure().upstreams["backend_api"]

    assert upstream.refused["rate"] > 0
    assert upstream.unknown_rate == 1.0


def test_a_call_is_counted_in_the_right_bucket() -> None:
    times = CallTimes()
    for seconds in (0.005, 0.006, 9.0):
        times.record("verifyM2MToken", CallResult.OK, seconds)

    (histogram,) = times.read().values()

    assert histogram.cumulative()[:2] == [("0.005", 1), ("0.01", 2)]
    assert histogram.cumulative()[-2:] == [("5", 2), ("+Inf", 3)]
    assert len(histogram.counts) == len(BOUNDS) + 1


async def test_an_error_of_a_listener_does_not_reach_the_request(world: World) -> None:
    verifier = world.verifier()

    def listener(_operation: str, _result: str, _seconds: float) -> None:
        raise ValueError("of the listener")

    verifier.on_call(listener)

    assert (await verifier.verify(world.token())).subject == world.caller.id


async def test_prometheus_collects_the_counters_and_the_histogram(world: World) -> None:
    text = generate_latest(scraped(await used(world))).decode()

    assert 'clerk_m2m_verifications_total{outcome="accepted",source="cache"} 2.0' in text
    assert "clerk_m2m_verifications_billed_total 2.0" in text
    assert re.search(r'call_duration_seconds_count{operation="\w+",result="ok"} 1\.0', text)
    assert 'clerk_m2m_breaker_state{calls="known",state="closed",upstream="key_set"} 1.0' in text


async def test_mints_are_counted(world: World) -> None:
    auth = MachineTokenAuth(
        world.caller.secret_key,
        seconds_until_expiration=600,
        transport=world.emulator.transport,
        clock=world.emulator.clock,
        api_url=world.settings().api_url,
    )

    async def answer(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(200)

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer), auth=auth) as client:
        await client.get("https://orders.test")
    measured = auth.measure()
    await auth.aclose()

    assert (measured.minted, measured.failed) == (1, 0)
    assert measured.remaining is not None
    assert 500 < measured.remaining <= 600


async def test_opentelemetry_collects_the_same_values(world: World) -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    verifier = world.verifier()
    export_metrics(verifier, meter_provider=provider)
    await verifier.verify(world.token())
    data = reader.get_metrics_data()
    assert data is not None
    found: dict[str, Any] = {
        metric.name: metric for metric in data.resource_metrics[0].scope_metrics[0].metrics
    }
    provider.shutdown()

    (billed,) = found["clerk_m2m.verifications.billed"].data.data_points
    (call,) = found["clerk_m2m.call.duration"].data.data_points
    assert billed.value == 1
    assert (call.count, call.explicit_bounds) == (1, BOUNDS)
    assert call.attributes["clerk_m2m.result"] == "ok"
    assert found["clerk_m2m.call.duration"].unit == "s"


async def test_the_page_lists_every_metric_that_is_exported(world: World) -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| `([\w.]+)` \| `(.+?)` \| (.*?) \| (.*) \|$",
        (DOCS / "metrics.md").read_text("utf-8"),
        re.MULTILINE,
    )
    listed = [(*row[:3], tuple(re.findall(r"\w+", row[3])), row[4]) for row in rows]

    assert listed == [(each.snake, each.dotted, each.unit, each.labels, each.help) for each in ALL]
    families = {family.name for family in MetricsCollector(world.verifier()).collect()}
    assert families == {each.snake.removesuffix("_total") for each in VERIFIER}


def test_the_alerts_use_existing_metrics() -> None:
    named = set(re.findall(r"\bclerk_m2m_\w+", (DOCS / "alerts.yml").read_text("utf-8")))

    assert named - {"clerk_m2m"} <= {each.snake for each in ALL}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_accepts_the_alerts() -> None:
    command = ["promtool", "check", "rules", str(DOCS / "alerts.yml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stdout + done.stderr


async def test_a_cached_request_makes_the_same_calls_with_and_without_exporters(
    world: World,
) -> None:
    paths = []
    for exported in (False, True):
        verifier = world.verifier()
        provider = MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False)
        if exported:
            scraped(verifier)
            export_metrics(verifier, meter_provider=provider)
        call = request(MachineAuthMiddleware(bare, verifier=verifier), template(world.token()))
        for _ in range(3):
            await call()
        with traced() as path:
            await call()
        provider.shutdown()
        paths.append(path.steps)

    assert paths[0] == paths[1]
    assert len(paths[0]) > 0


def test_the_exporters_accept_plain_measurements() -> None:
    class Minted:
        def measure(self) -> MintMeasurements:
            return MintMeasurements(minted=2, failed=1, remaining=None)

    registry = CollectorRegistry()
    registry.register(MetricsCollector(auth=Minted()))

    assert registry.get_sample_value("clerk_m2m_mints_total", {"result": "failed"}) == 1
    assert registry.get_sample_value("clerk_m2m_token_remaining_seconds") is None
