"""A pytest plugin for `mutants`: records which test runs which line, or runs chosen tests only.

`MUTANTS_RECORD` names a file for the outcome and the seconds of each test; the lines go to the data
of the `coverage` that pytest runs under. `MUTANTS_SELECT` names a file with the tests to run, in
their order.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import coverage
import pytest

_RECORD = os.environ.get("MUTANTS_RECORD")
_SELECT = os.environ.get("MUTANTS_SELECT")
_passed: dict[str, float] = {}
_failed: set[str] = set()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Name the test in the coverage data of what runs from here on."""
    measured = coverage.Coverage.current() if _RECORD else None
    if measured:
        measured.switch_context(item.nodeid)
    return (yield)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Add up the seconds of a test, and note whether it passed."""
    if report.outcome == "passed":
        _passed[report.nodeid] = _passed.get(report.nodeid, 0) + report.duration
    else:
        _failed.add(report.nodeid)


def pytest_sessionfinish() -> None:
    """Write the seconds of the tests that passed."""
    if _RECORD:
        seconds = {test: each for test, each in _passed.items() if test not in _failed}
        Path(_RECORD).write_text(json.dumps(seconds), "utf-8")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the chosen tests, in the order in which they were chosen."""
    if _SELECT:
        chosen = {test: place for place, test in enumerate(json.loads(Path(_SELECT).read_text()))}
        kept = [item for item in items if item.nodeid in chosen]
        items[:] = sorted(kept, key=lambda item: chosen[item.nodeid])
