"""The table of invalidations alone: what a row voids, what it denies, and when it expires."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import pytest

from clerk_m2m.lookups import invalidations
from clerk_m2m.lookups.digest import digest_of
from clerk_m2m.lookups.invalidations import Invalidations
from harness import FakeTime, World

MACHINE = "mch_" + "m" * 27
DIGEST = b"d" * 16


@pytest.fixture
def time() -> FakeTime:
    return FakeTime()


def denied(table: Invalidations, issued_at: float, digest: bytes = DIGEST) -> bool:
    return table.deny(digest=digest, token_id="mt_jwt", machine_id=MACHINE, issued_at=issued_at)


def test_a_row_voids_answers_requested_before_it_and_none_after_it(time: FakeTime) -> None:
    table = Invalidations(time.clock)
    table.add("mt_1")

    assert table.void(["mt_1"], 0)
    assert table.void(["mt_0", "mt_1"], 0)
    assert not table.void(["mt_1"], 1)
    assert not table.void(["mt_2"], 0)


def test_a_row_expires_after_its_lifetime(time: FakeTime) -> None:
    table = Invalidations(time.clock)
    table.add("mt_1", lifetime=60.0)
    time.advance(59.9)
    table.add("mt_2")
    assert len(table) == 2
    time.advance(0.1)
    table.add("mt_3")

    assert len(table) == 2


def test_invalidating_a_name_again_renews_its_lifetime(time: FakeTime) -> None:
    table = Invalidations(time.clock)
    table.add("mt_1", lifetime=60.0)
    time.advance(30.0)
    table.add("mt_1", lifetime=60.0)
    time.advance(40.0)
    table.add("mt_2")

    assert table.void(["mt_1"], 1)


def test_an_older_invalidation_never_lowers_the_instant_of_a_name(time: FakeTime) -> None:
    table = Invalidations(time.clock)
    table.add(MACHINE, instant=time.wall)
    table.add(MACHINE, instant=time.wall - 60)

    assert denied(table, time.wall)


@pytest.mark.parametrize("name", [MACHINE, DIGEST])
def test_a_repeated_or_displaced_denial_applies_at_every_moment(
    time: FakeTime, name: bytes | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other threads read the table without a lock. So read it before each line that changes it."""
    monkeypatch.setattr(invalidations, "MAX_ROWS", 1)
    table, seen = Invalidations(time.clock), []
    table.add(name)

    def look(frame: FrameType, event: str, _: Any) -> Any:
        if frame.f_code.co_filename != invalidations.__file__:
            return None
        if event == "line" and frame.f_code.co_name in ("add", "_raise_floor"):
            seen.append(denied(table, time.wall))
        return look

    known = sys.gettrace()
    sys.settrace(look)
    try:
        table.add(name)
        table.add("mt_1")
    finally:
        sys.settrace(known)
    assert len(seen) > 10
    assert False not in seen


@pytest.mark.parametrize(
    ("after", "expected"), [(-100, True), (0, True), (5.0, True), (5.1, False)]
)
def test_a_machine_row_denies_jwts_issued_until_five_seconds_after_it(
    time: FakeTime, after: float, expected: bool
) -> None:
    table = Invalidations(time.clock)
    table.add(MACHINE)

    assert denied(table, time.wall + after) is expected


def test_a_denial_may_have_the_instant_of_another_clock(time: FakeTime) -> None:
    table = Invalidations(time.clock)
    table.add(MACHINE, instant=time.wall + 60.0)

    assert denied(table, time.wall + 64.0)
    assert not denied(table, time.wall + 66.0)


def test_a_digest_row_denies_one_jwt_and_its_issue_time_does_not_matter(time: FakeTime) -> None:
    table = Invalidations(time.clock)
    table.add(DIGEST)

    assert denied(table, time.wall + 1e6)
    assert not denied(table, time.wall, digest=b"e" * 16)


def test_the_oldest_row_of_a_full_table_becomes_the_floor(
    time: FakeTime, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(invalidations, "MAX_ROWS", 3)
    table = Invalidations(time.clock)
    for number in range(4):
        table.add(f"mt_{number}")
        time.advance(10.0)

    assert len(table) == 3
    assert table.void(["mt_9"], 0), "asked for before the floor"
    assert not table.void(["mt_9"], 1)
    assert denied(table, 1_800_000_005.0)
    assert not denied(table, 1_800_000_006.0)
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_unproven_denials_displace_only_each_other(
    time: FakeTime, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(invalidations, "MAX_UNPROVEN", 2)
    table = Invalidations(time.clock)
    table.add(DIGEST)
    for number in range(5):
        table.add_unproven(bytes([number]) * 16)

    assert denied(table, time.wall)
    assert denied(table, time.wall, digest=bytes([4]) * 16)
    assert not denied(table, time.wall, digest=bytes([2]) * 16)
    assert not table.void(["mt_9"], 0), "the floor has not moved"
    assert [record.levelname for record in caplog.records] == ["ERROR"]


async def test_two_verifiers_of_one_service_have_different_digests(world: World) -> None:
    token = world.token()

    one, other = (world.verifier()._digest.of(token.encode()) for _ in range(2))
    assert one != other
    assert one != digest_of(world.callee.secret_key.encode(), token)


@pytest.mark.parametrize("other", ["token", "token_id"])
async def test_invalidate_rejects_a_machine_together_with_another_name(
    world: World, other: str
) -> None:
    verifier, token = world.verifier(), world.token()
    await verifier.verify(token)

    with pytest.raises(TypeError, match="exactly one"):
        verifier.invalidate(machine_id=world.caller.id, **{other: "mt_" + "0" * 32})
    assert verifier._invalidations.number == 0


async def test_a_removed_edge_changes_nothing_for_a_verifier_without_a_graph(world: World) -> None:
    verifier, token = world.verifier(), world.token()
    client = world.emulator.client()
    verifier.watch(client)
    await verifier.verify(token)
    await client.machines.delete_scope(world.caller.id, world.callee.id)

    calls = len(world.upstream.requests)
    assert (await verifier.verify(token)).subject == world.caller.id
    assert len(world.upstream.requests) == calls, "an edge voids no verdict"
    await client.aclose()
