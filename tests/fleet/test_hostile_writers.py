"""An attacker who can write to the fleet's Redis without a key, and a Redis that lost its log."""

from __future__ import annotations

import asyncio
import hmac
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, cast

import pytest
from redis.asyncio import Redis as AsyncRedis

from clerk_m2m import Clock, Fleet, FleetUnavailableError, Verifier
from clerk_m2m.fleet import member as member_module
from clerk_m2m.fleet.follower import PAUSE
from clerk_m2m.fleet.keys import log_key
from clerk_m2m.fleet.log import Log, Page
from clerk_m2m.fleet.member import Member
from clerk_m2m.fleet.rows import MAX_BODY, Row, RowFormat
from clerk_m2m.lookups.invalidation import Invalidation
from clerk_m2m.observe.reporter import Reporter
from clerk_m2m.secret import Secret
from harness import World

from .services import FLEET_KEY, Redis, accepts, in_sync, measured, until

MakeFleet = Callable[..., Fleet]


def has_applied(verifier: Verifier, rows: int) -> bool:
    """Return True if a verifier has applied this number of rows."""
    return measured(verifier).applied == rows


# Appends rows as the log's own program does. ARGV: ten strings for each row; the fourth is
# `previous`.
_APPENDED = """
local number = redis.call('HGET', KEYS[1], 'number')
local nonce = redis.call('HGET', KEYS[1], 'nonce')
for at = 1, #ARGV, 10 do
  number = number + 1
  ARGV[at + 3] = nonce
  redis.call('XADD', KEYS[2], number .. '-0', unpack(ARGV, at, at + 9))
  nonce = ARGV[at + 1]
end
redis.call('HSET', KEYS[1], 'number', number, 'nonce', nonce)
"""


async def follower(world: World, fleet: MakeFleet) -> Verifier:
    """Return a service that follows the log."""
    verifier = world.verifier(world.live_settings(fleet=fleet()))
    await accepts(verifier, world.token())
    await until(lambda: in_sync(verifier))
    return verifier


# A head or ids after which XADD does not take the next number, with as many rows as the head says.
_NO_NEXT = {
    "an id of the same number": """
        redis.call('XADD', KEYS[2], redis.call('HGET', KEYS[1], 'number') .. '-7', 'nonce', 'n')
        redis.call('XDEL', KEYS[2], '1-0')""",
    "an id far above": """
        redis.call('XADD', KEYS[2], '999999-0', 'nonce', 'n')
        redis.call('XDEL', KEYS[2], '1-0')""",
    "the id of a row that is gone": """
        redis.call('XADD', KEYS[2], '999999-0', 'nonce', 'n')
        redis.call('XDEL', KEYS[2], '999999-0')""",
    "the id of a row that was the only one": """
        redis.call('DEL', KEYS[1], KEYS[2])
        redis.call('HSET', KEYS[1], 'epoch', 'e', 'number', 0, 'first', 1, 'nonce', '')
        redis.call('XADD', KEYS[2], '999999-0', 'nonce', 'n')
        redis.call('XDEL', KEYS[2], '999999-0')""",
    "a number below zero": """
        redis.call('DEL', KEYS[2])
        redis.call('HSET', KEYS[1], 'number', -5, 'first', -4)""",
}


@pytest.mark.parametrize("written", _NO_NEXT)
async def test_no_number_that_somebody_writes_stops_revocations(
    world: World, fleet: MakeFleet, redis: Redis, written: str
) -> None:
    one, other = await follower(world, fleet), await follower(world, fleet)
    for _ in range(2):
        await one.invalidate_everywhere(token_id="mt_1")
    jwt = world.jwt()
    assert await accepts(other, jwt)

    redis.call("EVAL", _NO_NEXT[written], 2, redis.head, redis.rows)

    await until(lambda: measured(other).doubts and in_sync(one, other))
    await one.invalidate_everywhere(token=jwt)
    before = measured(other).applied
    await until(lambda: measured(other).applied > before or not in_sync(other))
    assert not await accepts(other, jwt)


async def test_a_server_that_does_not_wait_for_rows_is_not_asked_without_a_pause(
    world: World, fleet: MakeFleet, redis: Redis
) -> None:
    asked = []

    class Hasty(AsyncRedis):
        async def xread(self, *_given: object, **_named: object) -> list[Any]:
            asked.append(1)
            return []

    await follower(world, partial(fleet, server=lambda: Hasty(port=redis.port)))
    asked.clear()
    await asyncio.sleep(0.3)

    assert 0 < len(asked) <= 0.3 / PAUSE + 1


@pytest.mark.parametrize("floor", ["5", "[" * 100_000, "null", '["a"]'])
async def test_a_forged_floor_does_not_stop_a_follower(
    world: World, fleet: MakeFleet, redis: Redis, floor: str
) -> None:
    one, other = await follower(world, fleet), await follower(world, fleet)
    jwt = world.jwt()
    redis.call("HSET", redis.head, "floor", floor)

    await one.invalidate_everywhere(token=jwt)

    await until(lambda: measured(other).applied)
    assert not await accepts(other, jwt)


async def test_an_older_denial_in_the_log_does_not_undo_a_newer_local_one(
    world: World, fleet: MakeFleet, redis: Redis
) -> None:
    one, other = await follower(world, fleet), await follower(world, fleet)
    await one.invalidate_everywhere(machine_id=world.caller.id)
    await until(lambda: measured(other).applied)
    world.time.advance(60)
    jwt = world.jwt()
    assert await accepts(other, jwt)
    other.invalidate(machine_id=world.caller.id)
    assert not await accepts(other, jwt)

    redis.call("HSET", redis.head, "epoch", "another")  # the whole log is read again

    await until(lambda: measured(other).doubts and measured(other).applied == 2)
    assert not await accepts(other, jwt)


async def test_a_row_copied_by_an_attacker_does_not_deny_newer_jwts(
    world: World, fleet: MakeFleet, redis: Redis
) -> None:
    one, other = await follower(world, fleet), await follower(world, fleet)
    for number in (1, 2):
        await one.invalidate_everywhere(machine_id=world.caller.id)
        await until(partial(has_applied, other, number))
        world.time.advance(60)
    jwt = world.jwt()
    rows = redis.call("XRANGE", redis.rows, "-", "+")

    again = [
        text for at in (0, 1, 0) for name, value in rows[at][1].items() for text in (name, value)
    ]
    redis.call("EVAL", _APPENDED, 2, redis.head, redis.rows, *again)

    await until(lambda: measured(other).applied == 5)
    assert await accepts(other, jwt)


async def test_a_closed_service_applies_denials_written_since_it_was_closed(
    world: World, fleet: MakeFleet
) -> None:
    one, other = await follower(world, fleet), await follower(world, fleet)
    jwt = world.jwt()
    await other.aclose()  # the last event loop that used it
    await one.invalidate_everywhere(token=jwt)

    assert not await accepts(other, jwt)


async def test_a_service_that_is_closed_while_rows_are_applied_has_not_read_the_log(
    world: World, fleet: MakeFleet
) -> None:
    one, other = await follower(world, fleet), world.verifier(world.live_settings(fleet=fleet()))
    await one.invalidate_everywhere(token_id="mt_1")
    member, loop, ended = other._fleet, asyncio.get_running_loop(), asyncio.Event()
    assert member is not None
    take, caught_up = member.take, member.caught_up

    def close_and_take(row: Row) -> None:
        asyncio.run_coroutine_threadsafe(other.aclose(), loop).result()
        take(row)

    def noted(is_followed: Callable[[], bool]) -> None:
        caught_up(is_followed)
        loop.call_soon_threadsafe(ended.set)

    member.take, member.caught_up = close_and_take, noted  # type: ignore[method-assign]
    member.start()
    await ended.wait()

    assert not measured(other).in_sync
    assert member.applied.mark is None
    assert not member._first_reading.done()


class Applied:
    """A `Local` that notes the member's position at each call."""

    def __init__(self) -> None:
        self.member: Member | None = None
        self.stood_at: list[int] = []

    def apply(self, invalidation: Invalidation, *, live: bool) -> None:
        assert self.member is not None
        self.stood_at.append(self.member.position.number)

    def void_everything(self, instant: float | None = None) -> None:
        assert self.member is not None
        self.stood_at.append(self.member.position.number)


class Failing:
    """A log whose writes fail while `fails` is True; keeps the written rows."""

    def __init__(self) -> None:
        self.written: list[Row] = []
        self.fails = True

    async def append(self, rows: list[Row]) -> None:
        if self.fails:
            raise FleetUnavailableError("Redis is unreachable.")
        self.written += rows


async def test_a_member_advances_after_applying_a_row_and_retries_a_failed_write_back(
    world: World, fleet: MakeFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    # If the position advanced first, a child forked in between would never apply the row.
    monkeypatch.setattr(member_module, "WRITE_BACK_SPREAD", 0.0)
    local, log, settings = Applied(), Failing(), fleet()
    member = Member(settings, local=local, clock=world.time.clock, reporter=Reporter(Clock()))
    local.member = member
    form = RowFormat((log_key(settings.keys[0]),))
    row = form.write(Invalidation(machine_id=world.caller.id, instant=1.0), ends_at=None)
    page = Page(epoch="e", number=7, first=7, nonce="n", floor=row, rows=(replace(row, number=7),))
    member.begin(page)
    member.take(page.rows[0])
    assert local.stood_at == [-1, 6]
    assert member.position.number == 7

    member.begin(replace(page, rows=(), floor=None))
    with pytest.raises(FleetUnavailableError):
        await member.write_back(cast(Log, log))
    log.fails = False
    await member.write_back(cast(Log, log))
    (written,) = (form.read(each) for each in log.written)
    assert written == Invalidation(machine_id=world.caller.id, instant=1.0, repeated=True)


def test_a_row_with_an_invalid_instant_is_refused() -> None:
    form = RowFormat((b"k" * 32,))
    machine = "mch_" + "m" * 27
    for instant in (math.nan, math.inf, "1"):
        invalidation = Invalidation(machine_id=machine, instant=cast(float, instant))
        assert form.read(form.write(invalidation, ends_at=None)) is None


@pytest.mark.parametrize(
    "fields", ['"instant":null', '"instant":1' + "0" * 400, '"instant":' + "[" * 990]
)
def test_no_row_that_a_key_was_abused_for_stops_a_follower(fields: str) -> None:
    key, body = b"k" * 32, f'{{"v":1,"token_id":"mt_1",{fields}'
    body += "]" * body.count("[") + "}"
    signature = hmac.digest(key, f"n\n{body}".encode(), "sha256").hex()
    row, limit = Row(nonce="n", body=body, signature=signature), sys.getrecursionlimit()
    sys.setrecursionlimit(1_000)  # as outside of tests
    try:
        assert RowFormat((key,)).read(row) is None
    finally:
        sys.setrecursionlimit(limit)


async def test_the_longest_row_is_written_back(
    world: World, fleet: MakeFleet, redis: Redis
) -> None:
    one, other = await follower(world, fleet), await follower(world, fleet)
    length = MAX_BODY
    while length:  # the longest name that is taken
        try:
            await one.invalidate_everywhere(token_id="x" * length)
        except ValueError:
            length -= 1
        else:
            break
    await until(lambda: measured(one).applied == 1 == measured(other).applied)

    redis.call("DEL", redis.head, redis.rows)

    await until(lambda: measured(other).applied > 1 and in_sync(one, other), within=3.0)


async def test_a_row_that_no_row_of_ours_can_repeat_stops_no_follower(
    world: World, fleet: MakeFleet, redis: Redis
) -> None:
    one, jwt = await follower(world, fleet), world.jwt()
    body = f'{{"v":1,"instant":1.0,"token_id":"{"é" * 500}"}}'
    key = log_key(Secret(FLEET_KEY))
    signature = hmac.digest(key, f"n\n{body}".encode(), "sha256").hex()
    row = ("nonce", "n", "previous", "", "body", body, "signature", signature, "ends_at", "0")
    redis.call("EVAL", _APPENDED, 2, redis.head, redis.rows, *row)
    await until(lambda: measured(one).applied == 1)

    redis.call("DEL", redis.head, redis.rows)

    member = one._fleet
    assert member is not None
    await until(lambda: measured(one).doubts and not member._missing, within=3.0)
    other = await follower(world, fleet)
    await other.invalidate_everywhere(token=jwt)
    await until(lambda: measured(one).applied == 2)
    assert not await accepts(one, jwt)


class Lying:
    """A client whose server is not a Redis."""

    def __init__(self, answer: object) -> None:
        self._answer = answer

    async def eval(self, *_: object) -> object:
        """Return the same answer to every command."""
        return self._answer

    async def aclose(self) -> None:
        """Do nothing."""


@pytest.mark.parametrize(
    "answer",
    [
        None,
        5,
        b"[",
        b"[" * 100_000,
        b"{}",
        b'["e", "x", "1", "", ""]',
        b'["e", 1, 1, "", ""]',
        b'["e", "1", "1", "", "", "1"]',
    ],
    ids=["nil", "number", "cut", "deep", "object", "no number", "numbers", "half a row"],
)
async def test_an_unreadable_answer_raises_fleet_unavailable(answer: object) -> None:
    log = Log(Fleet(lambda: Lying(answer), keys=[FLEET_KEY]))

    with pytest.raises(FleetUnavailableError, match="unreadable answer"):
        await log.read(-1)
