"""One verification at Clerk for all processes of a service, over a real Valkey."""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

import httpx
import pytest
from test_docs import ROOT

from clerk_m2m import Fleet, MachineIdentity, Settings, VerificationUnavailableError, Verifier
from clerk_m2m.fleet import entries, exchange, log, tier
from harness import USER_ID, World

from .proxy import Fault, proxy_to
from .services import FLEET_KEY, OTHER_KEY, Redis, accepts, in_sync, measured, until

MakeFleet = Callable[..., Fleet]


@pytest.fixture(autouse=True)
def patient(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise the limits of 0.1 s, which a busy machine exceeds, in tests that are not about them."""
    if request.node.get_closest_marker("soak") is None:
        monkeypatch.setattr(exchange, "PATIENCE", 5.0)
        monkeypatch.setattr(tier, "PATIENCE", 5.0)
        for each in (log, entries):
            monkeypatch.setattr(each, "COMMAND_TIMEOUT", 5.0)


def settings(world: World, fleet: Fleet, **given: Any) -> Settings:
    """Return the settings of the service under test."""
    return world.live_settings(fleet=fleet, **({"cache_ttl": 60.0} | given))


async def following(world: World, redis: Redis, *made: Settings) -> list[Verifier]:
    """Return a process for each of these settings. They follow the log and share nothing yet."""
    verifiers = [world.verifier(each) for each in made]
    for each in verifiers:
        await each.verify(world.token())
        await until(partial(in_sync, each))
        if measured(each).shared:
            await sharing(world, each)
    asked = sum(measured(each).shared.get("misses", 0) for each in verifiers)
    redis.call("DEL", "none", *await shared(redis, asked))
    for each in verifiers:
        each.stats.sent = 0
    return verifiers


async def sharing(world: World, verifier: Verifier) -> None:
    """Verify new tokens until the verifier has looked for one in Redis."""
    before = measured(verifier).shared["misses"]
    while measured(verifier).shared["misses"] == before:
        await verifier.verify(world.token())


async def workers(
    world: World, redis: Redis, fleet: MakeFleet, count: int = 2, **given: Any
) -> list[Verifier]:
    """Return processes of one service."""
    made = settings(world, fleet(share_verdicts=True), **given)
    return await following(world, redis, *[made] * count)


def sent(*verifiers: Verifier) -> int:
    """Return how many verifications these processes have sent since `following` returned them."""
    return sum(each.stats.sent for each in verifiers)


async def shared(redis: Redis, count: int = 1) -> list[str]:
    """Wait until this number of verdicts is in Redis, and return their keys."""

    def keys() -> list[str]:
        found: list[str] = redis.call("KEYS", f"{{{redis.prefix}}}:verdict:*")
        return [each for each in found if not each.endswith(":probe")]

    await until(lambda: len(keys()) >= count)
    return keys()


def hold_verifications(world: World) -> asyncio.Event:
    """Make verifications hang at Clerk until the returned event is set."""
    held = asyncio.Event()

    async def hold(request: httpx.Request) -> None:
        if request.url.path.endswith("/verify"):
            await held.wait()

    world.upstream.intercept = hold
    return held


async def test_many_processes_verify_each_token_once(
    world: World, redis: Redis, fleet: MakeFleet
) -> None:
    made = await workers(world, redis, fleet, 4)
    tokens = [world.token() for _ in range(50)]

    identities = await asyncio.gather(*(each.verify(token) for token in tokens for each in made))

    assert len({each.token_id for each in identities}) == 50
    assert 50 <= sent(*made) <= 52
    assert sum(measured(each).shared["hits"] for each in made) >= 148


@pytest.mark.parametrize("kind", ["m2m", "api_key", "oauth"])
async def test_a_shared_identity_equals_the_one_from_clerk(
    world: World, fleet: MakeFleet, redis: Redis, kind: str
) -> None:
    one, other = await workers(world, redis, fleet, oauth_audience=["https://a.test"])
    claims = {"deep": [{"a": None}, 1.5, "ü\ud800"], "n": 2**70}
    emulator = world.emulator
    match kind:
        case "m2m":
            token = world.token(claims=claims)
        case "api_key":
            token = emulator.add_api_key(
                "k", subject=USER_ID, claims=claims, scopes=["b", "a"], seconds_until_expiration=600
            ).secret
        case _:
            token = emulator.add_oauth_token(
                subject=USER_ID, scopes=["email"], actor={"sub": "x"}, audience=["https://a.test"]
            ).token
    first = await one.verify(token)
    await shared(redis)

    second = await other.verify(token)

    assert sent(one, other) == 1
    assert second == first
    assert second.as_dict() == first.as_dict()


async def test_refusals_and_failures_are_not_shared_and_leave_no_marker(
    world: World, fleet: MakeFleet, redis: Redis
) -> None:
    one, other = await workers(world, redis, fleet)
    unknown, known = "mt_" + "0" * 32, world.token()

    assert not await accepts(one, unknown)

    async def fail(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(500)

    world.upstream.intercept = fail
    with pytest.raises(VerificationUnavailableError):
        await one.verify(known)
    world.upstream.intercept = None

    began_at = time.monotonic()
    assert not await accepts(other, unknown)
    assert await accepts(other, known)
    assert time.monotonic() - began_at < 0.4  # neither waits for a marker
    assert len(await shared(redis)) == 1
    assert redis.call("KEYS", f"{{{redis.prefix}}}:asking:*") == []


@pytest.mark.parametrize("by", ["token", "token_id", "machine_id"])
async def test_a_revocation_voids_verdicts_shared_before_it(
    world: World, fleet: MakeFleet, redis: Redis, by: str
) -> None:
    one, other, third = await workers(world, redis, fleet, 3)
    minted = world.emulator.mint_m2m_token(world.caller)
    await one.verify(minted.token)
    await shared(redis)
    world.emulator.revoke_m2m_token(minted.id)
    names = {"token": minted.token, "token_id": minted.id, "machine_id": world.caller.id}

    await one.invalidate_everywhere(**{by: names[by]})

    await until(lambda: measured(other).applied and measured(third).applied)
    for each in (one, other, third):
        assert not await accepts(each, minted.token)
    good = world.token()
    assert await accepts(other, good)
    await shared(redis, 2)
    assert await accepts(third, good)
    assert sent(third) == 1  # verdicts asked for after the revocation are shared again


async def test_no_shared_verdict_overrules_a_local_invalidation(
    world: World, fleet: MakeFleet, redis: Redis
) -> None:
    one, other = await workers(world, redis, fleet)
    minted = world.emulator.mint_m2m_token(world.caller)
    await one.verify(minted.token)
    await shared(redis)
    world.emulator.revoke_m2m_token(minted.id)

    other.invalidate(token_id=minted.id)

    assert not await accepts(other, minted.token)


async def test_an_invalidation_during_the_read_of_an_entry_voids_it(
    world: World, redis: Redis, fleet: MakeFleet
) -> None:
    async with proxy_to(redis.port) as proxy:
        (one,) = await workers(world, redis, fleet, 1)
        behind = fleet(server=f"redis://127.0.0.1:{proxy.port}", share_verdicts=True)
        (other,) = await following(world, redis, settings(world, behind))
        minted = world.emulator.mint_m2m_token(world.caller)
        await one.verify(minted.token)
        await shared(redis)
        world.emulator.revoke_m2m_token(minted.id)

        proxy.delay = 0.02
        reading = asyncio.create_task(accepts(other, minted.token))
        await asyncio.sleep(0.01)
        other.invalidate(token_id=minted.id)

        assert not await reading


async def test_entries_from_before_the_log_was_lost_are_not_used(
    world: World, fleet: MakeFleet, redis: Redis
) -> None:
    one, other = await workers(world, redis, fleet)
    minted = world.emulator.mint_m2m_token(world.caller)
    await one.verify(minted.token)
    await shared(redis)
    world.emulator.revoke_m2m_token(minted.id)

    redis.call("DEL", redis.head, redis.rows)
    await until(lambda: measured(one).doubts and measured(other).doubts)
    await sharing(world, other)

    assert not await accepts(other, minted.token)


async def test_a_shared_verdict_expires_with_its_credential_and_after_cache_ttl(
    world: World, fleet: MakeFleet, redis: Redis
) -> None:
    one, other = await workers(world, redis, fleet)
    short, long = world.token(seconds_until_expiration=30), world.token()
    await one.verify(short)
    await one.verify(long)
    keys = await shared(redis, 2)
    for key in keys:
        redis.call("PERSIST", key)  # an attacker who writes to Redis can keep an entry for ever

    world.time.advance(20)
    assert (await other.verify(short)).expires_at is not None
    assert sent(one, other) == 2
    world.time.advance(11)
    assert not await accepts(other, short)
    world.time.advance(24)
    await other.verify(long)
    assert sent(one, other) == 4


async def test_entries_changed_by_an_attacker_are_not_used(
    world: World, fleet: MakeFleet, redis: Redis
) -> None:
    """Forged, swapped, truncated and bit-flipped entries are ignored: Clerk is asked."""
    one, other = await workers(world, redis, fleet)
    revoked = [world.emulator.mint_m2m_token(world.caller) for _ in range(24)]
    for each in revoked:
        await one.verify(each.token)
        world.emulator.revoke_m2m_token(each.id)
    keys = await shared(redis, 24)
    values = [redis.call("GET", key) for key in keys]
    harmed = ["", "x", "{}", "A" * 100_000, "\ud800".encode("utf-8", "surrogatepass"), b"\xff\x00"]
    for at, (key, value) in enumerate(zip(keys, values, strict=True)):
        flipped = value[:30] + ("A" if value[30] != "A" else "B") + value[31:]
        kinds = [*harmed, value[: at % 60], flipped, value + "A", values[at - 1]]
        redis.call("SET", key, kinds[at % len(kinds)])
    redis.call("DEL", keys[0])
    redis.call("LPUSH", keys[0], "another type")

    verdicts = await asyncio.gather(*(accepts(other, each.token) for each in revoked))

    assert not any(verdicts)
    assert measured(other).shared["hits"] == 0
    assert measured(other).shared["refused"] > 10


@pytest.mark.parametrize("differs", ["clerk key", "fleet key", "audience", "kind of key"])
async def test_services_with_other_keys_or_settings_share_no_verdicts(
    world: World, fleet: MakeFleet, redis: Redis, differs: str
) -> None:
    ours = settings(world, fleet(share_verdicts=True))
    match differs:
        case "clerk key":
            callee = world.emulator.add_machine("another callee")
            theirs = world.emulator.settings(callee, fleet=fleet(share_verdicts=True))
        case "fleet key":
            theirs = settings(world, fleet(keys=[OTHER_KEY], share_verdicts=True))
        case "audience":
            theirs = settings(world, fleet(share_verdicts=True), oauth_audience=["https://a.test"])
        case _:
            theirs = settings(world, fleet(share_verdicts=True), machine_secret_key=None)
    (one,) = await following(world, redis, ours)
    token = world.token()
    await one.verify(token)
    await shared(redis)
    other = world.verifier(theirs)
    await accepts(other, world.token())
    await until(lambda: in_sync(other))
    before = measured(other).shared["misses"]
    while measured(other).shared["misses"] == before:
        await accepts(other, world.token())

    await accepts(other, token)

    assert measured(other).shared["misses"] == before + 2
    assert measured(other).shared["hits"] == 0


async def test_replacing_the_fleet_key_causes_no_second_verification(
    world: World, fleet: MakeFleet, redis: Redis
) -> None:
    both = [(FLEET_KEY,), (FLEET_KEY, OTHER_KEY), (OTHER_KEY, FLEET_KEY)]
    made = [settings(world, fleet(keys=each, share_verdicts=True)) for each in both]
    old, middle, new = await following(world, redis, *made)
    first, second = world.token(), world.token()

    await old.verify(first)
    await new.verify(second)
    await shared(redis, 2)
    for each in (middle, new):
        assert await accepts(each, first)
    assert await accepts(middle, second)

    assert sent(old, middle, new) == 2


async def test_no_caller_is_refused_while_the_fleet_key_is_replaced(
    world: World, fleet: MakeFleet, redis: Redis
) -> None:
    """Restart one process after the other, with the keys of each step in docs/fleet.md."""
    steps = [(FLEET_KEY, OTHER_KEY), (OTHER_KEY, FLEET_KEY), (OTHER_KEY,)]
    running = await workers(world, redis, fleet, 3)
    known, revoked = world.token(), world.emulator.mint_m2m_token(world.caller)
    for each in running:
        await each.verify(known)
        await each.verify(revoked.token)

    for keys in steps:
        made = settings(world, fleet(keys=keys, share_verdicts=True))
        for at in range(len(running)):
            await running[at].aclose()
            running[at] = world.verifier(made)
            new = world.token()
            assert [await accepts(each, new) for each in running] == [True] * 3
            assert [await accepts(each, known) for each in running] == [True] * 3

    await until(lambda: in_sync(*running))
    world.emulator.revoke_m2m_token(revoked.id)
    await running[0].invalidate_everywhere(token_id=revoked.id)
    await until(lambda: all(measured(each).applied for each in running))
    assert [await accepts(each, revoked.token) for each in running] == [False] * 3


async def test_no_caller_is_refused_while_processes_restart_with_a_new_clerk_key(
    world: World, fleet: MakeFleet, redis: Redis
) -> None:
    running = await workers(world, redis, fleet, 3)
    known = world.token()
    await running[0].verify(known)
    rotated = await world.emulator.client().machines.rotate_secret_key(
        world.callee.id, previous_token_ttl=60
    )
    made = settings(world, fleet(share_verdicts=True), machine_secret_key=rotated.reveal())

    for at in range(len(running)):
        new = world.token()
        assert [await accepts(each, new) for each in running] == [True] * 3
        await running[at].aclose()
        running[at] = world.verifier(made)
        assert [await accepts(each, new) for each in running] == [True] * 3
        assert [await accepts(each, known) for each in running] == [True] * 3


async def test_no_caller_is_refused_while_running_processes_get_a_new_clerk_key(
    world: World, fleet: MakeFleet, redis: Redis
) -> None:
    key = {"now": world.callee.secret_key}
    made = settings(world, fleet(share_verdicts=True), machine_secret_key=lambda: key["now"])
    one, other = await following(world, redis, made, made)
    before, after = world.token(), world.token()
    await one.verify(before)
    await shared(redis)
    rotated = await world.emulator.client().machines.rotate_secret_key(
        world.callee.id, previous_token_ttl=60
    )
    assert await accepts(other, before)
    key["now"] = rotated.reveal()

    for token in (world.token(), after, world.token()):
        await one.verify(token)
        await other.verify(token)

    # 1 for `before`. Then each process needs one call of its own with the new key (2 for the first
    # token); from then on they share again (1 for each of the other two).
    assert sent(one, other) == 5


@pytest.mark.soak  # depends on tenths of a second, so it fails on a busy machine
@pytest.mark.parametrize("fault", [*Fault, "slow"])
async def test_a_faulty_redis_delays_only_the_first_new_token(
    world: World, redis: Redis, fleet: MakeFleet, fault: Fault | str
) -> None:
    async with proxy_to(redis.port) as proxy:
        behind = fleet(server=f"redis://127.0.0.1:{proxy.port}", share_verdicts=True)
        (one,) = await following(world, redis, settings(world, behind))
        (other,) = await workers(world, redis, fleet, 1)
        tokens = [world.token() for _ in range(8)]
        await one.verify(tokens[0])

        if isinstance(fault, Fault):
            await proxy.break_with(fault)
        else:
            proxy.delay = 0.15

        async def seconds(token: str) -> float:
            began_at = time.monotonic()
            assert await accepts(one, token)
            return time.monotonic() - began_at

        assert await seconds(tokens[0]) < 0.05  # from the cache
        assert await seconds(tokens[1]) < 0.25
        assert sum([await seconds(each) for each in tokens[2:6]]) < 0.25

        proxy.delay = 0.0
        proxy.mend()
        mended_at = time.monotonic()
        while not measured(one).shared["hits"]:
            assert time.monotonic() - mended_at < 2
            token = world.token()
            await other.verify(token)
            await one.verify(token)
            await asyncio.sleep(0.02)


async def test_one_process_refreshes_a_shared_verdict_for_all(
    world: World, redis: Redis, fleet: MakeFleet
) -> None:
    made = await workers(world, redis, fleet, 5)
    token = world.token()
    for each in made:
        await each.verify(token)
    world.time.advance(46)

    for each in made:
        await each.verify(token)
    await until(lambda: sent(*made) + sum(measured(each).shared["hits"] for each in made) == 10)

    asked = sent(*made)
    assert 2 <= asked <= 3
    world.time.advance(35)
    for each in made:
        await each.verify(token)
    assert sent(*made) == asked


async def test_a_request_that_joins_a_refresh_asks_clerk_after_a_quarter_of_the_timeout(
    world: World, fleet: MakeFleet, redis: Redis
) -> None:
    one, other = await workers(world, redis, fleet, timeout=1.0, graph_ttl=300.0)
    token = world.token()
    await one.verify(token)
    await other.verify(token)
    world.time.advance(46)
    held = hold_verifications(world)
    await one.verify(token)  # its refresh hangs at Clerk
    await until(lambda: redis.call("KEYS", f"{{{redis.prefix}}}:asking:*"))
    await other.verify(token)
    await until(lambda: measured(other).shared["waits"])
    world.time.advance(15)

    request = asyncio.create_task(other.verify(token))
    await until(lambda: sent(other) == 1)  # it asks Clerk itself after a quarter of the timeout
    held.set()

    assert isinstance(await request, MachineIdentity)


async def test_a_request_that_joins_a_refresh_looks_for_a_shared_verdict_first(
    world: World, redis: Redis, fleet: MakeFleet
) -> None:
    one, other = await workers(world, redis, fleet, timeout=0.8, graph_ttl=300.0)
    token = world.token()
    await one.verify(token)
    await other.verify(token)
    world.time.advance(46)
    held = hold_verifications(world)
    await one.verify(token)
    await until(lambda: redis.call("KEYS", f"{{{redis.prefix}}}:asking:*"))
    await other.verify(token)
    await until(lambda: measured(other).shared["waits"])
    await asyncio.sleep(0.25)  # longer than a request waits for another process
    held.set()
    await until(lambda: not redis.call("KEYS", f"{{{redis.prefix}}}:asking:*"))
    world.time.advance(15)  # the verdict of this process expires; the shared one is 15 s old

    await other.verify(token)

    assert sent(other) == 0


async def test_sharing_adds_no_call_to_the_path_of_a_cached_token(
    world: World, redis: Redis, fleet: MakeFleet
) -> None:
    without = world.verifier(world.live_settings())
    await without.verify(world.token())  # reads the caller's edges, as the others have done
    (plain,) = await following(world, redis, settings(world, fleet()))
    (sharing,) = await workers(world, redis, fleet, 1)
    token = world.token()

    async def calls(verifier: Verifier) -> Counter[str]:
        await verifier.verify(token)
        seen: Counter[str] = Counter()

        def note(frame: FrameType, event: str, _argument: Any) -> None:
            if event == "call":
                seen[frame.f_code.co_qualname if sys.version_info >= (3, 11) else ""] += 1

        sys.setprofile(note)
        try:
            await verifier.verify(token)
        finally:
            sys.setprofile(None)
        return seen

    assert await calls(sharing) == await calls(plain) == await calls(without)


async def test_the_acl_in_the_docs_is_enough_for_shared_verdicts(
    world: World, redis: Redis, fleet: MakeFleet
) -> None:
    page = (ROOT / "docs" / "fleet.md").read_text("utf-8")
    (of_log,) = re.findall(r"reset on >PASSWORD (~\S+ .*)", page)
    (more,) = re.findall(r"Shared verdicts need more: `([^`]+)`", page)
    user, rules = (
        f"sharing-{redis.prefix[-8:]}",
        f"{of_log} {more}".replace("clerk_m2m", redis.prefix),
    )
    redis.call("ACL", "SETUSER", user, "reset", "on", ">pass", *rules.split())
    address = f"redis://{user}:pass@127.0.0.1:{redis.port}"
    one, other = await following(
        world, redis, *[settings(world, fleet(server=address, share_verdicts=True))] * 2
    )
    token = world.token()

    await one.verify(token)
    await shared(redis)
    await other.verify(token)

    assert sent(one, other) == 1
