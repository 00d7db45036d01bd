"""Thirty minutes of a fleet of three services whose Redis keeps failing."""

from __future__ import annotations

from typing import Any

import pytest
from fleet.soaking import run

pytestmark = [pytest.mark.soak, pytest.mark.timeout(2400)]

MINUTE = 60.0
# Growth that is allowed between two samples, for sockets about to close. Bytes and counts.
MEMORY = 16 * 1024 * 1024
SOCKETS = 4


async def test_thirty_minutes_of_faults_and_revocations_leave_no_stale_accept_and_no_growth() -> (
    None
):
    seen = await run(30 * MINUTE, warm_up=5 * MINUTE, every=5 * MINUTE)
    assert seen.revocations > 1_000
    assert sum(seen.faults.values()) > 60
    assert seen.failed == []
    assert seen.stale == []
    assert seen.refused_in_error == []
    warm, end = seen.at_rest[0], seen.at_rest[-1]
    assert end["connections"] <= warm["connections"] + SOCKETS
    for before, after in zip(warm["services"], end["services"], strict=True):
        _has_not_grown(before, after)


def _has_not_grown(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert after["in_sync"]
    assert after["resident"] <= before["resident"] + MEMORY
    for counted in ("tasks", "background_tasks", "threads"):
        assert after[counted] <= before[counted]
    assert after["files"] <= before["files"] + SOCKETS
