"""The scope graph from the Backend API, one caller at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from clerk_m2m import BackendAPIError, BackendUnavailableError, KeyRefusedError, RateLimitedError
from clerk_m2m.backend_api.opening import open_api
from clerk_m2m.graph.live import LiveSource
from harness import API_URL, World

TTL, MAX_STALE = 30.0, 300.0


@pytest_asyncio.fixture
async def live(world: World) -> AsyncIterator[LiveSource]:
    api = open_api(
        secret_key=world.emulator.secret_key,
        machine_secret_key=None,
        api_url=API_URL,
        allow_http=False,
        timeout=5,
        max_inflight=20,
        transport=world.upstream,
    )
    source = LiveSource(api, ttl=TTL, max_stale=MAX_STALE, maxsize=100, clock=world.time.clock)
    yield source
    await source.aclose()
    await api.aclose()


def reads(world: World) -> int:
    return world.emulator.calls["GetMachine"]


async def test_edges_are_read_once_and_then_cached(world: World, live: LiveSource) -> None:
    assert live.allows(world.caller.id, world.callee.id) is None
    assert await live.fetch(world.caller.id, world.callee.id, timeout=1) is True
    assert live.allows(world.caller.id, world.callee.id) is True
    assert live.allows(world.stranger.id, world.callee.id) is None
    assert reads(world) == 1


async def test_many_readers_of_one_caller_share_one_read(world: World, live: LiveSource) -> None:
    answers = await asyncio.gather(
        *(live.fetch(world.caller.id, world.callee.id, timeout=1) for _ in range(50))
    )

    assert set(answers) == {True}
    assert reads(world) == 1


async def test_edges_are_read_again_after_their_ttl(world: World, live: LiveSource) -> None:
    await live.fetch(world.caller.id, world.callee.id, timeout=1)
    world.emulator.cut(world.caller, world.callee)
    world.time.advance(TTL + 0.001)

    assert live.allows(world.caller.id, world.callee.id) is None
    assert await live.fetch(world.caller.id, world.callee.id, timeout=1) is False


async def test_a_deleted_machine_may_call_nobody(world: World, live: LiveSource) -> None:
    await live.fetch(world.caller.id, world.callee.id, timeout=1)
    world.emulator.delete_machine(world.caller)
    live.forget(world.caller.id)

    assert live.allows(world.caller.id, world.callee.id) is None
    assert await live.fetch(world.caller.id, world.callee.id, timeout=1) is False


async def test_forgetting_one_machine_keeps_the_others(world: World, live: LiveSource) -> None:
    await live.fetch(world.caller.id, world.callee.id, timeout=1)
    await live.fetch(world.stranger.id, world.callee.id, timeout=1)
    live.forget(world.caller.id)

    assert live.allows(world.caller.id, world.callee.id) is None
    assert live.allows(world.stranger.id, world.callee.id) is False


@pytest.mark.parametrize(("status", "code"), [(500, "backend_unavailable"), (429, "rate_limited")])
async def test_in_an_outage_the_last_answer_is_used_for_max_stale_only(
    world: World, live: LiveSource, status: int, code: str
) -> None:
    await live.fetch(world.caller.id, world.callee.id, timeout=1)
    world.emulator.fail("GetMachine", status=status, retry_after=9)
    world.time.advance(MAX_STALE - 0.001)

    assert await live.fetch(world.caller.id, world.callee.id, timeout=1) is True
    world.time.advance(0.002)
    with pytest.raises(BackendAPIError) as failed:
        await live.fetch(world.caller.id, world.callee.id, timeout=1)
    assert failed.value.code == code


@pytest.mark.parametrize(
    ("status", "kind"),
    [(500, BackendUnavailableError), (429, RateLimitedError), (401, KeyRefusedError)],
)
async def test_in_an_outage_a_caller_that_was_never_read_raises(
    world: World, live: LiveSource, status: int, kind: type[BackendAPIError]
) -> None:
    world.emulator.fail("GetMachine", status=status, retry_after=9)

    with pytest.raises(kind):
        await live.fetch(world.caller.id, world.callee.id, timeout=1)
    assert live.allows(world.caller.id, world.callee.id) is None


async def test_edges_in_use_are_refreshed_ahead_in_the_background(
    world: World, live: LiveSource
) -> None:
    await live.fetch(world.caller.id, world.callee.id, timeout=1)
    world.emulator.cut(world.caller, world.callee)
    world.time.advance(TTL * 0.8)

    assert live.allows(world.caller.id, world.callee.id) is True
    async with asyncio.timeout(5):
        while live.allows(world.caller.id, world.callee.id) is not False:  # noqa: ASYNC110  no event tells of it
            await asyncio.sleep(0)
    assert reads(world) == 2
