"""Rows that Redis loses or refuses: denials are written back, and no other caller is refused."""

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
from clerk_m2m.fleet import denials as denials_module
from clerk_m2m.fleet import log as log_module
from clerk_m2m.fleet import member as member_module
from clerk_m2m.fleet.keys import log_key
from clerk_m2m.fleet.log import READ_TIMEOUT, Log, Page
from clerk_m2m.fleet.member import Member
from clerk_m2m.fleet.outbox import Outbox
from clerk_m2m.fleet.rows import Row, RowFormat
from clerk_m2m.lookups.invalidation import Invalidation, TokenKind
from clerk_m2m.lookups.invalidations import Invalidations
from clerk_m2m.observe.reporter import Reporter
from harness import World

from .proxy import Fault, proxy_to
from .services import Redis, accepts, in_sync, measured, until

MakeFleet = Callable[..., Fleet]
PASSWORD = "hunter22-of-redis"
# The commands that the log needs, and no more.
SMALLEST_ACL = (
    "+eval +xread +xlen +xrange +xrevrange +xadd +xdel +del +hget +hmget +hset +time +xinfo|stream "
    "+client|setname"
)


def row() -> Row:
    """Return a row about a token id."""
    return RowFormat((b"k" * 32,)).write(Invalidation(token_id="mt_1", instant=1.5), ends_at=None)


@pytest.mark.parametrize("lost", ["the newest row", "all rows"])
async def test_rows_can_be_appended_after_the_newest_row_was_deleted(
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


async def test_outbox_returns_written_rows_that_the_log_lacks(
    redis: Redis, fleet: MakeFleet
) -> None:
    outbox, written = Outbox(lambda: Log(fleet())), row()
    outbox.put(written, patience=1)
    outbox.reading()
    await outbox.write()
    assert outbox.lost() == []  # the read began before the row was written

    outbox.reading()
    assert outbox.lost() == [written]
    outbox.read(written)
    assert outbox.lost() == []


def page(*, epoch: str = "e", number: int, first: int = 1) -> Page:
    """Return a page with the head of a log and no rows."""
    return Page(epoch=epoch, number=number, first=first, nonce="", floor=None, rows=())


def token(number: int, kind: TokenKind) -> Invalidation:
    """Return an invalidation of a token by its text."""
    return Invalidation(digests=(bytes([number]) * 16,), token_kind=kind, instant=float(number))


async def test_dropped_rows_of_unverified_jwts_do_not_become_the_floor(
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

    # A row that denies something becomes the floor: tokens issued up to its instant are denied.
    await append(Invalidation(token_id="mt_1", instant=50.0))
    for number in range(2):
        await append(token(number, TokenKind.UNPROVEN))
    seen = await append(token(2, TokenKind.UNPROVEN))
    assert seen.floor is not None
    assert form.read(seen.floor) == Invalidation(token_id="mt_1", instant=50.0)
    await log.aclose()


class Nowhere:
    """A `Local` that ignores invalidations."""

    def apply(self, invalidation: Invalidation, *, live: bool) -> None:
        """Do nothing."""

    def void_everything(self, instant: float | None = None) -> None:
        """Do nothing."""


async def test_unverified_jwts_displace_no_denial_that_is_written_back(
    fleet: MakeFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(denials_module, "MAX_ROWS", 3)
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

    member.begin(page(number=0))  # Redis has lost all rows
    await member.write_back(log)

    read = [form.read(each) for each in (await log.read(-1)).rows]
    assert {each.name for each in read if each} == {given[at].name for at in (0, 5, 6)}
    await log.aclose()


def test_an_older_invalidation_does_not_replace_a_newer_one() -> None:
    table = Invalidations(Clock(monotonic=lambda: 0.0, wall=lambda: 500.0))
    table.add("mch_1", instant=100.0)
    table.add("mch_1", instant=50.0)

    assert table.deny(digest=b"d", token_id="mt_1", machine_id="mch_1", issued_at=99.0)


async def test_a_blocked_process_reads_an_answer_that_arrived_in_time(
    redis: Redis, fleet: MakeFleet
) -> None:
    log = Log(fleet())
    await log.append([row()])
    waiting = asyncio.create_task(log.wait(0, timeout=0.4))
    await asyncio.sleep(0)
    time.sleep(READ_TIMEOUT + 0.1)  # noqa: ASYNC251  blocks the whole process

    assert len(await waiting) == 1
    await log.aclose()


async def test_waiting_for_a_hung_server_fails_after_the_read_timeout(
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


async def test_a_denial_written_back_does_not_deny_newer_jwts(
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


async def test_a_client_without_an_event_loop_publishes_revocations(
    world: World, fleet: MakeFleet
) -> None:
    one, other = (world.verifier(world.live_settings(fleet=fleet())) for _ in range(2))
    await accepts(other, world.token())
    await until(lambda: in_sync(other))

    await asyncio.to_thread(one._invalidator.revoked, Revocation(token_id="mt_1"))

    await until(lambda: measured(other).applied == 1)


async def test_a_closed_verifier_refuses_jwts_until_it_has_read_the_log_again(
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


async def test_closing_the_verifier_fails_waiters_for_unwritten_rows(
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


async def test_an_id_too_long_for_a_row_is_rejected(world: World, fleet: MakeFleet) -> None:
    with pytest.raises(ValueError, match="too long"):
        await world.verifier(world.live_settings(fleet=fleet())).invalidate_everywhere(
            token_id="x" * 3_000
        )


def locals_of(exc: BaseException) -> Iterator[str]:
    """Yield the texts of an error and its causes, and the locals of frames outside this file."""
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
async def test_an_address_that_redis_py_rejects_is_a_configuration_error(
    world: World, fleet: MakeFleet, options: str
) -> None:
    refused = fleet(server=f"redis://:{PASSWORD}@redis.internal/0?{options}")
    with pytest.raises(ConfigurationError, match="redis-py rejects the address") as caught:
        world.verifier(world.live_settings(fleet=refused))
    assert not any(PASSWORD in text for text in locals_of(caught.value))


async def test_no_error_contains_the_password_that_redis_refused(
    redis: Redis, fleet: MakeFleet
) -> None:
    log = Log(fleet(server=f"redis://nobody:{PASSWORD}@127.0.0.1:{redis.port}"))
    with pytest.raises(FleetUnavailableError, match="AuthenticationError") as caught:
        await log.read(-1)
    assert not any(PASSWORD in text for text in locals_of(caught.value))
    await log.aclose()


async def test_the_log_works_with_the_smallest_acl(redis: Redis, fleet: MakeFleet) -> None:
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
