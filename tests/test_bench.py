"""The benchmarks still run: each row is measured once and briefly. No test checks a speed."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from functools import partial
from xml.etree import ElementTree

import pytest

from bench import (
    cached,
    first_sight,
    fleet,
    flood,
    growth,
    memory,
    path,
    price,
    refresh,
    revocation,
    serving,
    startup,
)
from bench.measure import TINY, Effort, Row, interleaved, overheads
from bench.plot import draw
from bench.report import render
from bench.upstream import Upstream, running

ROWS_WITH_UPSTREAM = [
    cached.middleware,
    cached.with_live_graph,
    cached.jwt_with_graph,
    partial(cached.control, when="here"),
    cached.fastapi,
    cached.jwt_again,
    first_sight.jwt_once,
    first_sight.opaque_once,
    first_sight.official_sdk,
    refresh.latency,
    flood.latency,
]


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    """The emulator in its own process, with a few credentials."""
    with running(TINY) as opened:
        yield opened


def row(ours: float, other: float, aim: float | None = 1.0, *, at_least: bool = False) -> Row:
    """Return a row with one round."""
    return Row(
        title="A row", ours="a", against="b", pairs=[(ours, other)], aim=aim, at_least=at_least
    )


@pytest.mark.parametrize(
    "measure", ROWS_WITH_UPSTREAM, ids=lambda measure: getattr(measure, "__name__", "control")
)
async def test_each_row_with_the_emulator_can_be_measured(
    measure: Callable[[Upstream, Effort], Awaitable[Row]], upstream: Upstream
) -> None:
    measured = await measure(upstream, TINY)

    assert measured.pairs
    assert "## Notes" in render([measured], load=0.0)


# granian takes some 10 s to start and to stop.
@pytest.mark.parametrize(
    "server", ["uvicorn (h11, asyncio)", pytest.param("granian", marks=pytest.mark.soak)]
)
async def test_a_service_can_be_measured_behind_a_server(server: str, upstream: Upstream) -> None:
    rows = await serving.rows(server, upstream, TINY)

    assert [len(each.pairs) for each in rows] == [1, 1]


async def test_a_row_reports_a_missing_package(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "SERVERS", {"a server": (("no_such_module",), {}, 0.9)})
    rows = await serving.rows("a server", upstream, TINY)

    report = render(rows, load=0.0)
    assert "| not measured | ≥ 0.9 |" in report
    assert "Not measured: no_such_module is not installed." in report
    assert "<rect" not in draw(rows)


@pytest.mark.soak  # all modules are compiled anew: some 10 s
async def test_an_import_can_be_measured_with_and_without_the_middleware(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A process whose coverage is measured would also import coverage.
    for name in [name for name in os.environ if name.startswith("COVERAGE_PROCESS")]:
        monkeypatch.delenv(name)

    assert [len(each.pairs) for each in await startup.importing(TINY)] == [1, 1]


async def test_a_scope_check_in_a_graph_can_be_measured() -> None:
    assert len((await growth.scopes(TINY)).pairs) == TINY.rounds


def test_the_memory_of_each_kind_of_verdict_can_be_measured() -> None:
    rows = memory.rows(Effort(rounds=1, divisor=100))

    assert len(rows) == len(memory.KINDS)
    for each in rows:
        assert 100 < each.pairs[0][0] < 900, each.title


async def test_hits_among_many_verdicts_can_be_measured() -> None:
    assert [len(each.pairs) for each in await growth.verdicts(TINY)] == [1, 1]


async def test_an_invalidation_among_many_verdicts_can_be_measured() -> None:
    assert len((await growth.invalidation(TINY)).pairs) == TINY.rounds


async def test_a_token_in_use_is_not_billed_for_each_request() -> None:
    ((paid, requests),) = (await price.verifications_paid(Effort(rounds=1, divisor=500))).pairs

    assert requests == 2_000
    assert 0 < paid < requests


@pytest.mark.soak  # it starts 24 processes: some 10 s
def test_what_shared_verdicts_save_can_be_measured(upstream: Upstream) -> None:
    tokens, lifetimes, *latencies = fleet.rows(upstream, TINY)

    assert tokens.pairs == [(1.0, 2.0)]  # one token in two processes
    assert lifetimes.pairs[0][0] < lifetimes.pairs[0][1]
    assert [len(each.pairs) for each in latencies] == [1, 1]


def test_acceptance_of_a_revoked_token_can_be_measured(upstream: Upstream) -> None:
    connected, parted = revocation.measured(upstream, TINY)

    assert [0 < each.returned < 60 for each in connected] == [True]
    assert [0 < each.refused < 60 for each in connected] == [True]
    assert len(parted) == 1


async def test_the_path_of_a_request_has_not_become_longer() -> None:
    """The limits are the present counts: a change that makes the path longer must raise them."""
    new, known = await path.paths()

    assert new.frames <= 157, str(new)
    assert new.files <= 37, str(new)
    assert new.changes <= 104, str(new)
    assert (known.frames, known.files, known.changes) == (13, 8, 9), str(known)


async def test_no_timer_fires_while_a_path_is_counted() -> None:
    """On a slow machine, a timer that fires would make the path longer."""
    due: list[str] = []
    with path.no_timer_due():
        asyncio.get_running_loop().call_later(0.001, due.append, "fired")
        time.sleep(0.002)  # noqa: ASYNC251  blocks the event loop until the timer is late
        for _ in range(3):
            await asyncio.sleep(0)
        fired_inside = list(due)
    for _ in range(3):
        await asyncio.sleep(0)

    assert fired_inside == []
    assert due == ["fired"]


async def test_the_counts_of_the_path_are_rows_of_the_report() -> None:
    rows = await path.rows()

    assert [(each.unit, each.pairs[0][1]) for each in rows] == [
        ("count", 60.0),
        ("count", 20.0),
        ("count", 24.0),
    ]


async def test_each_round_measures_all_sides_and_begins_with_another_side() -> None:
    order: list[str] = []

    def side(name: str, seconds: float) -> Callable[[], Awaitable[float]]:
        async def run() -> float:
            order.append(name)
            return seconds

        return run

    results = await interleaved(2, side("a", 1.0), side("b", 2.0))

    assert results == [(1.0, 2.0), (1.0, 2.0)]
    assert order == ["a", "b", "a", "b", "b", "a"]  # the first two only warm up


async def test_an_overhead_is_the_time_added_to_the_bare_side() -> None:
    def side(seconds: float) -> Callable[[], Awaitable[float]]:
        async def run() -> float:
            return seconds

        return run

    assert await overheads(1, side(1.0), side(3.0), side(5.0)) == [(2.0, 4.0)]


def test_an_aim_is_an_upper_or_a_lower_bound() -> None:
    assert row(1.0, 2.0).met is True
    assert row(2.0, 1.0).met is False
    assert row(2.0, 1.0, at_least=True).met is True
    assert row(1.0, 2.0, aim=None).met is None


def test_the_report_says_which_aims_were_missed() -> None:
    report = render([row(1.0, 2.0), row(2.0, 1.0)], load=0.5)

    assert "**0.50** | ≤ 1: met" in report
    assert "**2.00** | ≤ 1: missed" in report
    assert "Load average at the beginning: 0.50" in report


@pytest.mark.parametrize(
    ("took", "believed"), [((1.0, 1.01, 0.99, 1.0), True), ((1.0, 1.3, 0.8, 1.0), False)]
)
def test_the_report_says_when_the_machine_was_too_noisy(
    took: tuple[float, ...], believed: bool
) -> None:
    control = replace(row(1.0, 1.0, aim=None), is_control=True)
    control = replace(control, pairs=[(seconds, 1.0) for seconds in took])

    report = render([row(1.0, 2.0), control], load=0.5)

    assert ("quiet enough" in report) is believed
    assert ("too noisy" in report) is not believed
    assert "it is not known how noisy" in render([row(1.0, 2.0)], load=0.5)


def test_a_control_row_with_a_median_off_one_counts_as_noise() -> None:
    control = replace(row(1.2, 1.0, aim=None), is_control=True)

    assert "too noisy" in render([control], load=0.5)


def test_the_plot_has_a_bar_for_each_row_with_an_aim() -> None:
    plot = ElementTree.fromstring(draw([row(1.0, 2.0), row(9.0, 1.0), row(1.0, 1.0, aim=None)]))

    bars = plot.findall("{http://www.w3.org/2000/svg}rect")
    assert [bar.get("class") for bar in bars] == ["met", "missed"]
