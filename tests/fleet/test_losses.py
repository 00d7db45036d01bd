"""What Redis may lose, and when: nothing of it is forgotten, and nobody else pays for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import TracebackType

import pytest
import redis as redis_py

from clerk_m2m import (
    Clock,
    ConfigurationError,
    Fleet,
    FleetUnavailableError,
    VerificationUnavailableError,
)
from clerk_m2m.backend_api.revocations import Revocation
from clerk_m2m.fleet import log as log_module
from clerk_m2m.fleet import member as member_module
from clerk_m2m.fleet.keys import log_key
from clerk_m2m.fleet.log import READ_TIMEOUT, Log, Page
from clerk_m2m.fleet.member import Member
from clerk_m2m.fleet.outbox import Outbox
from clerk_m2m.fleet.position import Position
from clerk_m2m.fleet.rows import Row, RowFormat
from clerk_m2m.lookups.invalidation import Invalidation, TokenKind
from clerk_m2m.lookups.invalidations import Invalidations
from clerk_m2m.observe.reporter import Reporter
from harness import World

from .proxy import Fault, proxy_to
from .services import Redis, accepts, in_sync, measured, until

MakeFleet = Callable[..., Fleet]
PASSWORD = "hunter22-of-redis"
# Whoever may do this can run the log, and nothing else.
SMALLEST_ACL = (
    "+eval +xread +xlen +xrange +xrevrange +xadd +xdel +del +hget +hmget +hset +time +xinfo|stream "
    "+client|setname"
)


def row() -> Row:
    """A row about a token id."""
    return RowFormat((b"k" * 32,)).write(Invalidation(token_id="mt_1", instant=1.5), ends_at=None)


@pytest.mark.parametrize("lost", ["the newest row", "all rows"])
async def test_rows_are_appended_after_somebody_has_deleted_the_newest(
    redis: Redis, fleet: MakeFleet, lost: str
) -> None:
    log = Log(fleet())
    await log.append([row(), row()])
    if lost == "all rows":
        redis.call("XTRIM", redis.rows, "MAXLEN", 0)
    else:
        redis.call("XDEL", redis.rows, "2-0")

    await log.append([row()])

    page = await log.read(-1)
    assert page.number == page.rows[-1].number
    await log.aclose()


async def test_a_row_that_was_lost_before_it_was_read_is_given_again(
    redis: Redis, fleet: MakeFleet
) -> None:
    outbox, written = Outbox(lambda: Log(fleet())), row()
    outbox.put(written, patience=1)
    outbox.reading()
    await outbox.write()
    assert outbox.lost() == []  # that reading began before it was written

    outbox.reading()
    assert outbox.lost() == [written]
    outbox.read(written)
    assert outbox.lost() == []


def page(*, epoch: str = "e", number: int, first: int = 1) -> Page:
    """The head of a log."""
    return Page(epoch=epoch, number=number, first=first, nonce="", floor=None, rows=())


def test_only_who_finds_rows_lost_ends_the_epoch() -> None:
    fell, new, overtaken = (Position(epoch="e", number=5) for _ in range(3))

    fell.give_up(page(number=4))
    new.give_up(page(epoch="f", number=9))
    overtaken.give_up(page(number=900, first=7))

    assert (fell.ending, new.ending, overtaken.ending) == ("e", "", "")
    assert not Position(epoch="e", number=5).is_continued_by(page(number=900, first=7))
    assert not Position(epoch="e", number=5, history_to=9).is_continued_by(page(number=9, first=7))


def token(number: int, kind: TokenKind) -> Invalidation:
    """An invalidation of a token by its text."""
    return Invalidation(digests=(bytes([number]) * 16,), token_kind=kind, instant=float(number))


async def test_jwts_that_nobody_has_verified_fill_the_log_without_a_trace(
    redis: Redis, fleet: MakeFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_module, "MAX_ROWS", 3)
    form, log = RowFormat((b"k" * 32,)), Log(fleet())

    async def append(invalidation: Invalidation) -> Page:
        await log.append([form.write(invalidation, ends_at=None)])
        return await log.read(-1)

    for number in range(4):
        await append(token(number, TokenKind.UNPROVEN))
    seen = await append(token(4, TokenKind.UNPROVEN))
    assert (seen.floor, len(seen.rows), seen.first) == (None, 3, 3)

    # One that denies something is not lost: what was issued until then is denied.
    await append(Invalidation(token_id="mt_1", instant=50.0))
    for number in range(2):
        await append(token(number, TokenKind.UNPROVEN))
    seen = await append(token(2, TokenKind.UNPROVEN))
    assert seen.floor is not None
    assert form.read(seen.floor) == Invalidation(token_id="mt_1", instant=50.0)
    await log.aclose()


class Nowhere:
    """A process in which nothing is invalidated."""

    def apply(self, invalidation: Invalidation, *, live: bool) -> None:
        """Do nothing."""

    def void_everything(self, instant: float | None = None) -> None:
        """Do nothing."""


async def test_jwts_that_nobody_has_verified_displace_no_denial_that_is_written_again(
    fleet: MakeFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(member_module, "MAX_ROWS", 3)
    monkeypatch.setattr(member_module, "WRITE_BACK_SPREAD", 0.0)
    settings, log = fleet(), Log(fleet())
    member = Member(settings, local=Nowhere(), clock=Clock(), reporter=Reporter(Clock()))
    form = RowFormat((log_key(settings.keys[0]),))
    given = [
        Invalidation(token_id="mt_1", instant=50.0),
        *(token(number, TokenKind.UNPROVEN) for number in range(5)),
        Invalidation(machine_id="mch_1", instant=50.0),
    ]
    member.begin(page(number=0))
    for number, each in enumerate(given, start=1):
        member.take(replace(form.write(each, ends_at=None), number=number))

    member.begin(page(number=0))  # everything was lost
    await member.write_back(log)

    read = [form.read(each) for each in (await log.read(-1)).rows]
    assert {each.name for each in read if each} == {given[at].name for at in (0, 5, 6)}
    await log.aclose()


def test_an_older_invalidation_that_comes_later_takes_nothing_back() -> None:
    table = Invalidations(Clock(monotonic=lambda: 0.0, wall=lambda: 500.0))
    table.add("mch_1", instant=100.0)
    table.add("mch_1", instant=50.0)

    assert table.deny(digest=b"d", token_id="mt_1", machine_id="mch_1", issued_at=99.0)


async def test_a_process_that_is_held_up_takes_no_server_for_one_that_does_not_answer(
    redis: Redis, fleet: MakeFleet
) -> None:
    log = Log(fleet())
    await log.append([row()])
    waiting = asyncio.create_task(log.wait(0, timeout=0.4))
    await asyncio.sleep(0)
    time.sleep(READ_TIMEOUT + 0.1)  # noqa: ASYNC251  the whole process stands still

    assert len(await waiting) == 1
    await log.aclose()


async def test_a_server_that_does_not_answer_is_given_up_in_time(
    redis: Redis, fleet: MakeFleet
) -> None:
    async with proxy_to(redis.port) as proxy:
        log = Log(fleet(server=f"redis://127.0.0.1:{proxy.port}"))
        await log.read(-1)
        await proxy.break_with(Fault.HUNG)
        began_at = time.monotonic()
        with pytest.raises(FleetUnavailableError, match="did not answer in time"):
            await log.wait(0, timeout=0.4)
        assert READ_TIMEOUT - 0.1 < time.monotonic() - began_at < READ_TIMEOUT + 0.5
        await log.aclose()


async def test_a_denial_that_is_written_again_denies_no_younger_jwt(
    world: World, redis: Redis, fleet: MakeFleet
) -> None:
    one, other = (world.verifier(world.live_settings(fleet=fleet())) for _ in range(2))
    for each in (one, other):
        await accepts(each, world.token())
    await until(lambda: in_sync(one, other))
    await one.invalidate_everywhere(machine_id=world.caller.id)
    await until(lambda: measured(other).applied == 1 == measured(one).applied)
    world.time.advance(60)
    younger = world.jwt()
    assert await accepts(other, younger)

    redis.call("DEL", redis.head, redis.rows)

    await until(lambda: measured(other).applied > 1 and measured(one).applied > 1)
    late = world.verifier(world.live_settings(fleet=fleet()))
    for each in (one, other, late):
        assert await accepts(each, younger)


async def test_a_client_without_an_event_loop_spreads_too(world: World, fleet: MakeFleet) -> None:
    one, other = (world.verifier(world.live_settings(fleet=fleet())) for _ in range(2))
    await accepts(other, world.token())
    await until(lambda: in_sync(other))

    await asyncio.to_thread(one._invalidator.revoked, Revocation(token_id="mt_1"))

    await until(lambda: measured(other).applied == 1)


async def test_who_was_closed_reads_the_log_before_it_takes_a_jwt_again(
    world: World, redis: Redis, fleet: MakeFleet
) -> None:
    async with proxy_to(redis.port) as proxy:
        behind = fleet(server=f"redis://127.0.0.1:{proxy.port}")
        verifier = world.verifier(world.live_settings(fleet=behind))
        await accepts(verifier, world.token())
        await until(lambda: in_sync(verifier))
        assert await accepts(verifier, world.jwt())

        await verifier.aclose()
        await proxy.break_with(Fault.KILLED)

        with pytest.raises(VerificationUnavailableError):
            await verifier.verify(world.jwt())


async def test_who_waits_for_a_row_is_told_when_the_verifier_is_closed(
    world: World, redis: Redis, fleet: MakeFleet
) -> None:
    async with proxy_to(redis.port) as proxy:
        await proxy.break_with(Fault.KILLED)
        behind = fleet(server=f"redis://127.0.0.1:{proxy.port}")
        verifier = world.verifier(world.live_settings(fleet=behind, timeout=30))
        waiting = asyncio.create_task(verifier.invalidate_everywhere(token_id="mt_1"))
        await asyncio.sleep(0)

        await verifier.aclose()

        with pytest.raises(FleetUnavailableError, match="was closed before"):
            await asyncio.wait_for(waiting, 2)


async def test_a_name_that_no_reader_would_take_is_refused(world: World, fleet: MakeFleet) -> None:
    with pytest.raises(ValueError, match="too long"):
        await world.verifier(world.live_settings(fleet=fleet())).invalidate_everywhere(
            token_id="x" * 3_000
        )


def locals_of(exc: BaseException) -> Iterator[str]:
    """The texts of an error and its causes, and what the frames below this file hold."""
    cause: BaseException | None = exc
    while cause is not None:
        yield repr(cause)
        trace: TracebackType | None = cause.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code.co_filename != __file__:
                yield repr(trace.tb_frame.f_locals)
            trace = trace.tb_next
        cause = cause.__cause__ or cause.__context__


@pytest.mark.parametrize("options", ["max_connections=abc", "none_such=1", "protocol=7"])
async def test_an_address_that_redis_py_does_not_take_is_refused_at_once(
    world: World, fleet: MakeFleet, options: str
) -> None:
    refused = fleet(server=f"redis://:{PASSWORD}@redis.internal/0?{options}")
    with pytest.raises(ConfigurationError, match="redis-py does not take") as caught:
        world.verifier(world.live_settings(fleet=refused))
    assert not any(PASSWORD in text for text in locals_of(caught.value))


async def test_a_password_that_redis_refuses_is_in_no_error(redis: Redis, fleet: MakeFleet) -> None:
    log = Log(fleet(server=f"redis://nobody:{PASSWORD}@127.0.0.1:{redis.port}"))
    with pytest.raises(FleetUnavailableError, match="AuthenticationError") as caught:
        await log.read(-1)
    assert not any(PASSWORD in text for text in locals_of(caught.value))
    await log.aclose()


async def test_the_smallest_acl_is_enough(redis: Redis, fleet: MakeFleet) -> None:
    user = f"clerk-{redis.prefix[-8:]}"
    keys = f"~{{{redis.prefix}}}:log:*"
    given = ("reset", "on", f">{PASSWORD}", keys, *SMALLEST_ACL.split())
    redis.call("ACL", "SETUSER", user, *given)
    log = Log(fleet(server=f"redis://{user}:{PASSWORD}@127.0.0.1:{redis.port}"))

    await log.append([row(), row()])
    redis.call("DEL", redis.head)
    read = await log.read(-1)
    redis.call("XTRIM", redis.rows, "MAXLEN", 0)
    await log.append([row()])
    await log.wait(0, timeout=0.1)

    assert [each.number for each in read.rows] == [1, 2]
    assert len((await log.read(0)).rows) == 1
    with (
        redis_py.Redis(port=redis.port, username=user, password=PASSWORD) as client,
        pytest.raises(redis_py.exceptions.NoPermissionError),
    ):
        client.get("of somebody else")
    await log.aclose()
