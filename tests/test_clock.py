"""The clock that measures lifetimes, and this host's skew by the `Date` of Clerk's answers."""

from __future__ import annotations

import logging
import sys
import time
from email.utils import formatdate

import pytest

from clerk_m2m import Clock
from clerk_m2m.clock import ServerClock, read_date, steady_clock
from clerk_m2m.observe.reporter import Reporter
from harness import FakeTime

HOUR = 3600.0


def date(instant: float) -> str:
    return formatdate(instant, usegmt=True)


# The clock that measures lifetimes


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="this system has no CLOCK_BOOTTIME")
def test_the_default_clock_counts_the_time_that_a_linux_host_is_suspended() -> None:
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    now = Clock().monotonic()

    assert before <= now <= time.clock_gettime(time.CLOCK_BOOTTIME)


def test_the_clock_that_runs_during_suspension_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """CLOCK_BOOTTIME on Linux, CLOCK_MONOTONIC on macOS. Here each clock returns its own id."""
    monkeypatch.setattr(time, "clock_gettime", lambda clock_id: float(clock_id), raising=False)
    monkeypatch.setattr(time, "CLOCK_BOOTTIME", 7, raising=False)
    monkeypatch.setattr(time, "CLOCK_MONOTONIC", 6, raising=False)

    monkeypatch.setattr(sys, "platform", "linux")
    assert steady_clock()() == 7.0
    monkeypatch.setattr(sys, "platform", "darwin")
    assert steady_clock()() == 6.0


def test_a_system_without_such_a_clock_uses_time_monotonic(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(clock_id: int) -> float:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(time, "CLOCK_BOOTTIME", 7, raising=False)
    monkeypatch.setattr(time, "clock_gettime", refuse, raising=False)
    assert steady_clock() is time.monotonic
    monkeypatch.delattr(time, "CLOCK_BOOTTIME")
    assert steady_clock() is time.monotonic


# Skew


class Host:
    """A host whose wall clock a test sets, and what it knows of Clerk's clock."""

    def __init__(self, *, ahead: float = 0.0) -> None:
        self.time = FakeTime()
        self.clerks = self.time.wall
        self.time.wall += ahead
        self.server_clock = ServerClock(self.time.clock, Reporter(self.time.clock).skew)

    def advance(self, seconds: float) -> None:
        self.time.advance(seconds)
        self.clerks += seconds

    def answer(self, age: str = "") -> None:
        """Receive an answer from Clerk."""
        self.server_clock.note(date(self.clerks), age)


@pytest.mark.parametrize(
    ("ahead", "told"), [(HOUR, "3600 s ahead of Clerk's"), (-31.0, "31 s behind Clerk's")]
)
def test_a_skew_of_more_than_30_s_is_logged_with_its_seconds_and_direction(
    caplog: pytest.LogCaptureFixture, ahead: float, told: str
) -> None:
    Host(ahead=ahead).answer()

    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert told in record.getMessage()


@pytest.mark.parametrize("ahead", [0.0, 30.0, -30.0])
def test_a_skew_of_up_to_30_s_is_not_logged(caplog: pytest.LogCaptureFixture, ahead: float) -> None:
    with caplog.at_level(logging.INFO):
        host = Host(ahead=ahead)
        host.answer()

    assert caplog.records == []
    assert host.server_clock.judge() == "this host's clock"


def test_a_lasting_skew_is_logged_once_a_minute_and_its_end_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    host = Host(ahead=HOUR)
    with caplog.at_level(logging.INFO):
        for _ in range(120):
            host.answer()
            host.advance(1)
        assert [record.levelname for record in caplog.records] == ["WARNING"] * 2

        host.time.wall -= HOUR
        for _ in range(2):
            host.answer()
        assert [record.levelname for record in caplog.records] == ["WARNING"] * 2 + ["INFO"]


def test_answers_that_disagree_about_the_time_do_not_fill_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    host = Host(ahead=HOUR)
    with caplog.at_level(logging.INFO):
        for _ in range(50):
            host.answer()
            host.server_clock.note(date(host.time.wall))

    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_a_skew_is_measured_against_the_current_wall_clock() -> None:
    host = Host(ahead=HOUR)
    assert host.server_clock.skew() is None
    host.answer()

    host.advance(100)
    assert host.server_clock.skew() == HOUR
    assert host.server_clock.judge() == "this host's clock, which is 3600 s ahead of Clerk's"
    host.time.wall -= HOUR  # the host was synchronized
    assert host.server_clock.skew() == 0.0
    assert host.server_clock.judge() == "this host's clock"


def test_the_date_of_an_answer_from_an_http_cache_is_ignored(
    caplog: pytest.LogCaptureFixture,
) -> None:
    host = Host(ahead=HOUR)

    host.answer(age="0")

    assert host.server_clock.skew() is None
    assert caplog.records == []


@pytest.mark.parametrize(
    ("value", "instant"),
    [
        ("Fri, 15 Jan 2027 08:00:00 GMT", 1_800_000_000.0),
        ("Fri, 15 Jan 2027 08:00:00", 1_800_000_000.0),
        ("", None),
        ("1800000000", None),
        ("Fri, 99 Jan 2027 08:00:00 GMT", None),
    ],
)
def test_a_date_header_is_parsed_or_ignored(value: str, instant: float | None) -> None:
    assert read_date(value) == instant
    assert read_date(value, age="5") is None
