"""Verdicts: how long they are cached, who shares them, and what a flood does to them."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from flooding import flood, little_memory
from outcomes import accepts, at_once
from upstreams import record

from clerk_m2m import (
    MachineIdentity,
    ScopeGraph,
    TokenInvalidError,
    TokenMalformedError,
    TokenTypeNotAcceptedError,
    VerificationUnavailableError,
    Verifier,
)
from clerk_m2m.emulator import Emulator
from clerk_m2m.lookups.cache import Cache
from clerk_m2m.lookups.invalidations import Invalidations
from clerk_m2m.lookups.single_flight import Demand
from clerk_m2m.lookups.verdict import Answer, Refused, Verdict
from clerk_m2m.transport.admission import Priority
from harness import SIGNING_KEY, USER_ID, FakeTime, World, bearer, calling, protected

TOKEN = "mt_" + "t" * 40

# Lifetimes


@pytest.mark.parametrize(
    ("left", "accepted_for"),
    [
        (None, math.inf),
        (86_400, math.inf),
        (61, 61),
        (30, 30),
        (1, 1),
        (0.5, 0.5),
        (0, 0),
        (-4, 0),
        (-6, None),
        (-86_400, None),
    ],
)
async def test_a_verdict_is_cached_no_longer_than_its_token_and_its_ttl(
    world: World, left: float | None, accepted_for: float | None
) -> None:
    """`left` is the token's remaining life in seconds. Clerk's answer is a fixed one."""
    verifier = world.verifier()
    expires_at = math.inf if left is None else world.time.wall + left
    expiration = None if left is None else int(expires_at * 1000)
    world.emulator.fail("verifyM2MToken", body=record(world, expiration=expiration))

    assert await accepts(verifier, TOKEN) is (accepted_for is not None)
    for _ in range(150):
        world.time.advance(0.5)
        calls = len(world.upstream.requests)
        accepted = await accepts(verifier, TOKEN)
        assert not (accepted and world.time.wall > expires_at + 5)
        if world.time.wall >= expires_at and accepted:
            # Within the leeway only a new answer of Clerk's counts.
            assert len(world.upstream.requests) > calls


@pytest.mark.parametrize("cache_ttl", [0.0, 1.0, 60.0])
async def test_no_verdict_outlives_the_ttl(world: World, cache_ttl: float) -> None:
    verifier, token = world.verifier(world.settings(cache_ttl=cache_ttl)), world.token()
    await verifier.verify(token)
    world.emulator.fail("verifyM2MToken", status=500)

    world.time.advance(cache_ttl)
    with pytest.raises(VerificationUnavailableError) as refused:
        await verifier.verify(token)
    assert refused.value.code == "verification_unavailable"


async def test_verdicts_cached_at_the_same_time_expire_at_different_times(world: World) -> None:
    verifier, tokens = world.verifier(), [world.token() for _ in range(100)]
    await asyncio.gather(*(verifier.verify(token) for token in tokens))
    world.time.advance(57.0)
    world.emulator.fail("verifyM2MToken", status=500)

    answers = await asyncio.gather(
        *(verifier.verify(token) for token in tokens), return_exceptions=True
    )
    alive = sum(isinstance(answer, MachineIdentity) for answer in answers)
    assert 20 < alive < 80


@pytest.mark.parametrize("jump", [3600.0, -3600.0])
async def test_a_jump_of_the_wall_clock_does_not_change_cached_verdicts(
    world: World, jump: float
) -> None:
    verifier = world.verifier()
    good, short = world.token(), world.token(seconds_until_expiration=20)
    unknown = "mt_" + "x" * 40
    for token in (good, short):
        assert await accepts(verifier, token)
    assert not await accepts(verifier, unknown)
    calls = len(world.upstream.requests)

    world.time.wall += jump
    world.emulator.travel(-jump)  # Clerk's own clock did not jump
    world.time.advance(9.0)
    assert await accepts(verifier, good)
    assert await accepts(verifier, short)
    assert not await accepts(verifier, unknown)
    assert len(world.upstream.requests) == calls
    world.time.advance(11.0)
    assert not await accepts(verifier, short)


@pytest.mark.parametrize(
    "exp",
    [None, 0, -1, 1e30, float("inf"), 1_800_000_060_000, "1800000060", True, 1_799_999_990],
    ids=str,
)
async def test_a_jwt_with_an_invalid_expiry_is_refused(world: World, exp: Any) -> None:
    verifier = world.verifier(world.live_settings())
    claims = {"sub": world.caller.id, "jti": "mt_" + "0" * 32, "iat": 1_799_999_000, "exp": exp}

    assert not await accepts(verifier, world.emulator.sign_jwt(claims))


@pytest.mark.parametrize("left", [1, 20, 59])
async def test_a_jwt_is_accepted_no_longer_than_five_seconds_past_its_expiry(
    world: World, left: int
) -> None:
    verifier = world.verifier(world.live_settings())
    token = world.jwt(seconds_until_expiration=left)

    assert await accepts(verifier, token)
    world.time.advance(left + 4.5)
    assert await accepts(verifier, token)
    world.time.advance(0.5)
    assert not await accepts(verifier, token)


async def test_a_cached_jwt_is_not_accepted_past_its_expiry_when_the_wall_clock_jumps_back(
    world: World,
) -> None:
    verifier = world.verifier(world.live_settings())
    token = world.jwt(seconds_until_expiration=20)
    assert await accepts(verifier, token)
    offline = verifier.stats.offline

    world.time.wall -= 5.0
    world.time.advance(19.5)
    assert await accepts(verifier, token)
    assert verifier.stats.offline == offline
    world.time.advance(0.5)
    await accepts(verifier, token)
    assert verifier.stats.offline == offline + 1  # verified again, not read from the cache


# Who shares a verdict


async def test_two_instances_never_share_a_verdict_for_equal_tokens(world: World) -> None:
    other = Emulator(clock=world.time.now, signing_key=SIGNING_KEY)
    theirs = other.add_machine("callee", id=world.callee.id)
    here = world.verifier()
    there = Verifier(
        world.settings(machine_secret_key=theirs.secret_key, api_url="http://other.test"),
        transport=httpx.ASGITransport(app=other),
        clock=world.time.clock,
    )
    token = world.token()

    for _ in range(2):
        assert await accepts(here, token)
        assert not await accepts(there, token)
    assert here._digest.of(b"mt_1") != there._digest.of(b"mt_1")
    await there.aclose()
    other.close()


async def test_two_services_with_their_own_keys_never_share_a_verdict(world: World) -> None:
    other = world.emulator.add_machine("other callee")
    here = world.verifier()
    there = world.verifier(world.settings(machine_id=other.id, machine_secret_key=other.secret_key))
    token = world.token()

    for _ in range(2):
        assert await accepts(here, token)
        assert not await accepts(there, token)


async def test_two_instances_never_share_a_key_set_for_equal_kids(world: World) -> None:
    other = Emulator(clock=world.time.now)
    graph = ScopeGraph({world.caller.id: [world.callee.id]})
    claims = {"sub": world.caller.id, "jti": "mt_1", "iat": 1_799_999_999, "exp": 1_800_000_060}
    verifiers, tokens = [], []
    for name, emulator in (("here", world.emulator), ("there", other)):
        settings = world.live_settings(graph=graph, api_url=f"http://{name}.test")
        keys = [key | {"kid": "ins_same"} for key in emulator.jwks()["keys"]]
        transport = httpx.MockTransport(
            lambda _, keys=keys: httpx.Response(200, json={"keys": keys})
        )
        verifiers.append(Verifier(settings, transport=transport, clock=world.time.clock))
        tokens.append(emulator.sign_jwt(claims, headers={"kid": "ins_same"}))
    other.close()
    world.verifiers += verifiers

    for _ in range(2):
        accepted = [[await accepts(verifier, token) for token in tokens] for verifier in verifiers]
        assert accepted == [[True, False], [False, True]]


async def test_a_credential_accepted_as_one_type_is_never_accepted_as_another(world: World) -> None:
    """The type of a credential depends only on its text, so no text has two types."""
    verifier = world.verifier(world.live_settings(api_key_header="x-api-key"))
    opaque, jwt = world.token(), world.jwt()
    key = world.emulator.add_api_key("key", subject=USER_ID).secret
    async with calling(protected(verifier)) as client:
        for token in (opaque, jwt, key):
            assert (await client.get("/", headers=bearer(token))).status_code == 200
        for token in (opaque, jwt):
            answer = await client.get("/", headers={"x-api-key": token})
            assert answer.json()["code"] == TokenTypeNotAcceptedError.code
        assert (await client.get("/", headers={"x-api-key": key})).status_code == 200

    assert len(verifier._verdicts) == 3


async def test_a_handler_cannot_change_the_identity_of_another_request(world: World) -> None:
    verifier, token = world.verifier(), world.token(claims={"list": [1], "nested": {"a": [{}]}})
    first = await verifier.verify(token)
    attempts: list[Callable[[], Any]] = [
        lambda: setattr(first, "subject", world.stranger.id),
        lambda: setattr(first, "scopes", frozenset()),
        lambda: first.claims.update(x=1),  # type: ignore[attr-defined]
        lambda: first.claims["list"].append(2),
        lambda: first.claims["nested"].update(x=1),
        lambda: first.claims["nested"]["a"][0].update(x=1),
        lambda: first.scopes.add("x"),  # type: ignore[attr-defined]
    ]

    for attempt in attempts:
        with pytest.raises((AttributeError, TypeError)):
            attempt()
    second = await verifier.verify(token)
    assert (second.subject, second.claims["list"]) == (world.caller.id, (1,))
    assert second.claims["nested"]["a"][0] == {}


# Floods


async def test_a_flood_of_unknown_tokens_does_not_affect_known_callers(world: World) -> None:
    await flood(world, garbage=2_000, cache_size=1_000)


def test_a_default_cache_full_of_negative_verdicts_uses_less_than_20_megabytes() -> None:
    time = FakeTime()

    cache: Cache[bytes, Verdict] = open_cache(time, maxsize=10_000)
    with little_memory():
        for number in range(30_000):
            refused = Refused("Clerk does not know the credential.")
            cache.put(number.to_bytes(16, "big"), Answer(value=refused, negative=True), asked_at=0)
        assert len(cache) == 10_000


async def test_negative_verdicts_evict_no_positive_ones(world: World) -> None:
    verifier = world.verifier(world.settings(cache_size=10))
    tokens = [world.token() for _ in range(10)]
    for token in tokens:
        await verifier.verify(token)
    for number in range(50):
        assert not await accepts(verifier, f"mt_garbage{number:040}")

    assert len(verifier._verdicts) == 20
    for token in tokens:
        at_once(verifier.verify(token))


async def test_a_full_store_evicts_the_least_recently_used_verdict(world: World) -> None:
    verifier = world.verifier(world.settings(cache_size=3))
    first, *others = [world.token() for _ in range(5)]
    for token in (first, *others):
        await verifier.verify(token)
        at_once(verifier.verify(first))

    calls = world.emulator.calls["verifyM2MToken"]
    await verifier.verify(others[0])
    assert world.emulator.calls["verifyM2MToken"] == calls + 1


@pytest.mark.parametrize(
    "token",
    ["mt_", "mt_short", "mt_" + "x" * 40 + ".", "ak_~", "oat_+", "x", "a.b.c", "..", "eyJ.e30.x"],
)
async def test_an_ill_formed_token_costs_no_call_and_is_not_cached(
    world: World, token: str
) -> None:
    verifier = world.verifier(world.live_settings())

    with pytest.raises((TokenInvalidError, TokenMalformedError)) as refused:
        await verifier.verify(token)
    assert refused.value.code == "token_invalid"
    assert world.upstream.requests == []
    assert len(verifier._verdicts) == 0


async def test_a_token_in_use_is_refreshed_and_not_evicted_from_a_full_cache(world: World) -> None:
    verifier, token = world.verifier(world.settings(cache_size=2)), world.token()
    await accepts(verifier, token)
    for _ in range(4):
        at_once(verifier.verify(token))
        await accepts(verifier, world.token())

    world.time.advance(50.0)  # due for a refresh, and fresh still
    paid = verifier.stats.paid
    identity = at_once(verifier.verify(token))
    for _ in range(100):
        await asyncio.sleep(0)  # lets the refresh in the background run to its end

    assert identity.subject == world.caller.id
    assert verifier.stats.refreshes == 1
    assert verifier.stats.paid == paid + 1


def open_cache(
    time: FakeTime,
    maxsize: int = 10,
    stale_if_error: float = 0.0,
    *,
    has_strangers: bool = False,
) -> Cache[Any, Any]:
    """A cache with its own table of invalidations; the name of a value is its key."""
    return Cache(
        ttl=60.0,
        negative_ttl=10.0,
        maxsize=maxsize,
        stale_if_error=stale_if_error,
        clock=time.clock,
        invalidations=Invalidations(time.clock),
        names=lambda key, _value: (key,),
        has_strangers=has_strangers,
    )


def test_an_answer_of_another_process_expires_earlier_by_its_age() -> None:
    time = FakeTime()
    cache = open_cache(time, stale_if_error=90.0)
    cache.put("key", Answer(value="value", age=30.0), asked_at=0)

    time.advance(10.0)
    assert cache.read("key") == ("value", False)
    time.advance(6.0)
    assert cache.read("key") == ("value", True)  # due three quarters of its lifetime after asking
    time.advance(15.0)
    assert cache.read("key") is None
    assert cache.stale("key") == "value"
    time.advance(30.0)
    assert cache.stale("key") is None


def test_a_replaced_or_invalidated_value_is_not_read_again() -> None:
    cache = open_cache(FakeTime())
    for value, negative in (("old", False), ("new", False), ("no", True), ("yes", False)):
        cache.put("key", Answer(value=value, negative=negative), asked_at=0)
        assert cache.read("key") == (value, False)
    cache._invalidations.add("key")
    assert cache.read("key") is None
    assert cache.stale("key") is None
    assert len(cache) == 0


def test_an_answer_requested_before_an_invalidation_replaces_no_newer_one() -> None:
    cache = open_cache(FakeTime())
    cache._invalidations.add("key")
    cache.put("key", Answer(value="new"), asked_at=1)
    cache.put("key", Answer(value="old"), asked_at=0)

    assert cache.read("key") == ("new", False)


def test_an_invalidation_by_another_thread_while_an_answer_is_stored_voids_it() -> None:
    time = FakeTime()
    cache, table = open_cache(time), Invalidations(time.clock)
    cache._invalidations = table
    threads: list[threading.Thread] = []

    def now_after_invalidation() -> float:
        """Called between the check of an answer and its storing."""
        if not threads:
            threads.append(threading.Thread(target=table.add, args=("key",)))
            threads[0].start()
            threads[0].join()
        return time.monotonic

    cache._now = now_after_invalidation
    cache.put("key", Answer(value="old"), asked_at=0)

    assert cache.read("key") is None
    assert cache.stale("key") is None


def test_an_invalidation_of_another_name_voids_nothing() -> None:
    cache = open_cache(FakeTime())
    cache.put("key", Answer(value="value"), asked_at=0)
    cache._invalidations.add("other")

    assert cache.read("key") == ("value", False)


async def test_the_priority_of_a_look_up_depends_on_what_is_known_of_its_key() -> None:
    time, priorities = FakeTime(), list[Priority]()

    async def load(demand: Demand) -> Answer[str]:
        priorities.append(demand.priority)
        return Answer(value="new")

    cache = open_cache(time, stale_if_error=600.0, has_strangers=True)
    await cache.get_or_load("key", load, timeout=5.0)
    time.advance(61.0)  # stale
    await cache.get_or_load("key", load, timeout=5.0)
    time.advance(700.0)  # no longer cached, but good within the last hour
    await cache.get_or_load("key", load, timeout=5.0)
    cache.put("key", Answer(value="no", negative=True), asked_at=0)
    await cache.get_or_load("key", load, timeout=5.0)
    cache.refresh("key", load)
    await asyncio.sleep(0)

    assert priorities == [
        Priority.STRANGER,
        Priority.KEPT,
        Priority.RECENT,
        Priority.STRANGER,
        Priority.REFRESH,
    ]


async def test_a_refresh_with_a_waiter_gets_a_higher_priority() -> None:
    time, let_go, demands = FakeTime(), asyncio.Event(), list[Demand]()

    async def load(demand: Demand) -> Answer[str]:
        demands.append(demand)
        await let_go.wait()
        return Answer(value="new")

    cache = open_cache(time)
    cache.put("key", Answer(value="old"), asked_at=0)
    cache.refresh("key", load)
    await asyncio.sleep(0)
    assert [each.priority for each in demands] == [Priority.REFRESH]

    waiter = asyncio.ensure_future(cache.get_or_load("key", load, timeout=5.0))
    await asyncio.sleep(0)
    assert demands[0].priority is Priority.KEPT
    waiter.cancel()
    await asyncio.sleep(0)
    assert (demands[0].priority, demands[0].given_up) == (Priority.REFRESH, False)
    let_go.set()
    await asyncio.sleep(0)
    assert cache.read("key") == ("new", False)
