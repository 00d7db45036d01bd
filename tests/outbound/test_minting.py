"""Mints: how many are made, who shares them, and when a token is renewed."""

from __future__ import annotations

import asyncio
import inspect
import json
import math
import re
import threading
from pathlib import Path

import httpx
import pytest
from outbound_calls import MINT, Callee, Gate, mint_bodies, minted, mints, outbound, settle
from upstreams import answering, eventually, http_answer, raw_upstream

from clerk_m2m import Clock, MachineTokenAuth, TokenUnavailableError
from clerk_m2m.outbound.minting import Bearer
from clerk_m2m.secret import Secret
from harness import World, protected, serve

# A live token


async def test_a_call_is_made_as_the_machine_whose_key_it_has(world: World) -> None:
    transport = httpx.ASGITransport(app=protected(world.verifier()))
    async with httpx.AsyncClient(
        transport=transport, base_url="http://callee.test", auth=outbound(world)
    ) as client:
        answer = await client.get("/")

    assert answer.json() == {"subject": world.caller.id}


async def test_token_format_jwt_mints_a_jwt(world: World) -> None:
    verifier = world.verifier(world.live_settings())
    auth = outbound(world, token_format="jwt")
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=protected(verifier)),
        base_url="http://callee.test",
        auth=auth,
    ) as client:
        answer = await client.get("/")

    assert answer.json() == {"subject": world.caller.id}
    assert verifier.stats.offline == 1


async def test_the_options_are_sent_with_the_mint(world: World) -> None:
    auth = outbound(
        world,
        seconds_until_expiration=120,
        claims={"on_behalf_of": "mch_a", "tags": ["x"]},
        min_remaining_ttl_seconds=60,
    )
    async with Callee().client(auth) as client:
        await client.get("/")

    assert mint_bodies(world) == [
        {
            "token_format": "opaque",
            "seconds_until_expiration": 120,
            "claims": {"on_behalf_of": "mch_a", "tags": ["x"]},
            "min_remaining_ttl_seconds": 60,
        }
    ]


async def test_the_defaults_match_the_docs_page(world: World) -> None:
    await outbound(world).token()
    options = inspect.signature(MachineTokenAuth).parameters
    page = (Path(__file__).parents[2] / "docs/calling.md").read_text("utf-8")
    said = re.findall(r"^\| `(\w+)` \| (`\"\w+\"`|[\d.]+) \|", page, re.MULTILINE)

    assert {name: json.loads(text.strip("`")) for name, text in said} == {
        name: option.default
        for name, option in options.items()
        if option.default not in (None, option.empty)
    }


async def test_the_environment_gives_the_key_and_the_address(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLERK_MACHINE_SECRET_KEY", world.caller.secret_key)
    monkeypatch.setenv("CLERK_API_URL", "http://elsewhere.test")
    async with Callee().client(MachineTokenAuth(transport=world.upstream)) as client:
        await client.get("/")

    assert [request.url.host for request in world.upstream.requests] == ["elsewhere.test"]


async def test_a_hundred_concurrent_first_calls_share_one_mint(world: World) -> None:
    callee = Callee()
    async with callee.client(outbound(world)) as client:
        await asyncio.gather(*(client.get("/") for _ in range(100)))

    assert mints(world) == 1
    assert len(callee.credentials) == 100
    assert len(set(callee.credentials)) == 1


async def test_ten_thousand_calls_over_ten_minutes_cost_eleven_mints_of_sixty_second_tokens(
    world: World,
) -> None:
    callee = Callee()
    async with callee.client(outbound(world, seconds_until_expiration=60)) as client:
        for _ in range(10_000):
            await client.get("/")
            world.time.advance(0.06)
    await settle()

    assert len(callee.credentials) == 10_000
    assert mints(world) == 11


async def test_calls_use_the_old_token_while_it_is_renewed(world: World) -> None:
    callee, answer_mint = Callee(), Gate()
    async with callee.client(outbound(world, seconds_until_expiration=60)) as client:
        await client.get("/")
        world.time.advance(56)

        world.upstream.intercept = answer_mint.hold
        await client.get("/")
        await client.get("/")
        answer_mint.open()
        await settle()
        await client.get("/")

    first, second, third, fourth = callee.credentials
    assert first == second == third != fourth
    assert mints(world) == 2


async def test_a_token_that_never_expires_is_minted_once(world: World) -> None:
    endless = world.emulator.mint_m2m_token(world.caller, seconds_until_expiration=math.inf)

    async def without_end(request: httpx.Request) -> httpx.Response:
        answer = minted(world, token=endless.token, life=None)
        return httpx.Response(201, json=answer)

    world.upstream.intercept = without_end
    callee = Callee()
    async with callee.client(outbound(world)) as client:
        for _ in range(3):
            await client.get("/")
            world.time.advance(365 * 86_400)

    assert callee.credentials == [f"Bearer {endless.token}"] * 3
    assert len(world.upstream.requests) == 1


@pytest.mark.parametrize("skew", [-7200.0, 7200.0])
async def test_a_wrong_wall_clock_causes_no_extra_mint(world: World, skew: float) -> None:
    time = world.time
    clock = Clock(monotonic=lambda: time.monotonic, wall=lambda: time.wall + skew)
    callee = Callee()
    async with callee.client(outbound(world, seconds_until_expiration=60, clock=clock)) as client:
        for _ in range(60):
            await client.get("/")
            time.advance(1)
        await settle()

    assert mints(world) == 2


async def test_cancelling_a_waiter_does_not_cancel_the_mint(world: World) -> None:
    callee, answer_mint = Callee(), Gate()

    world.upstream.intercept = answer_mint.hold
    async with callee.client(outbound(world)) as client:
        calls = [asyncio.create_task(client.get("/")) for _ in range(5)]
        await eventually(lambda: len(world.upstream.requests) == 1)
        calls[0].cancel()
        answer_mint.open()
        answers = await asyncio.gather(*calls, return_exceptions=True)

    assert isinstance(answers[0], asyncio.CancelledError)
    assert [answer.status_code for answer in answers[1:] if isinstance(answer, httpx.Response)] == [
        200
    ] * 4
    assert mints(world) == 1


def test_event_loops_one_after_the_other_share_the_token() -> None:
    from harness import open_world

    async def open_and_call() -> tuple[MachineTokenAuth, World]:
        async with open_world() as world:
            auth = outbound(world)
            async with Callee().client(auth) as client:
                await client.get("/")
            assert mints(world) == 1
            return auth, world

    async def call_again(auth: MachineTokenAuth) -> None:
        async with callee.client(auth) as client:
            await client.get("/")

    callee = Callee()
    auth, _closed = asyncio.run(open_and_call())
    asyncio.run(call_again(auth))  # the emulator is closed: another mint would fail

    assert callee.credentials[0] is not None


def test_event_loops_in_threads_share_one_mint() -> None:
    from harness import open_world

    async def call(auth: MachineTokenAuth, callee: Callee) -> None:
        async with callee.client(auth) as client:
            await asyncio.gather(*(client.get("/") for _ in range(50)))

    async def main() -> None:
        async with open_world() as world, serve(world.emulator) as origin:
            auth = outbound(world, api_url=origin, transport=None)
            callees = [Callee() for _ in range(4)]
            threads = [
                threading.Thread(target=asyncio.run, args=(call(auth, callee),))
                for callee in callees
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                await asyncio.to_thread(thread.join)
            assert all(len(callee.credentials) == 50 for callee in callees)
            assert mints(world) == 1

    asyncio.run(main())


async def test_a_renewal_in_progress_serves_other_event_loops(world: World) -> None:
    callee, answer_mint = Callee(), Gate()
    auth = outbound(world, seconds_until_expiration=60)

    async def call() -> int:
        async with callee.client(auth) as client:
            await client.get("/")
        return len(asyncio.all_tasks()) - 1

    await call()
    world.time.advance(56)
    world.upstream.intercept = answer_mint.hold
    await call()
    renewing_elsewhere = await asyncio.to_thread(asyncio.run, call())
    answer_mint.open()
    await settle()

    assert renewing_elsewhere == 0
    assert len(callee.credentials) == 3
    assert mints(world) == 2


async def test_no_connection_to_clerk_is_left_open(world: World) -> None:
    answer = http_answer(minted(world, token="mt_" + "x" * 40, life=60))
    async with raw_upstream(answering(answer)) as clerk:
        auth = outbound(world, api_url=clerk.origin, transport=None)
        async with Callee().client(auth) as client:
            await client.get("/")
        await eventually(lambda: clerk.open == 0)

    assert clerk.connections == 1


async def test_a_users_transport_is_not_closed(world: World) -> None:
    closed = 0

    class Counting(httpx.ASGITransport):
        async def aclose(self) -> None:
            nonlocal closed
            closed += 1

    auth = outbound(world, transport=Counting(app=world.emulator), seconds_until_expiration=60)
    async with auth, Callee().client(auth) as client:
        for _ in range(3):
            await client.get("/")
            world.time.advance(60)
        await settle()

    assert closed == 0


# Reuse of a token that Clerk has


async def test_a_restarted_worker_reuses_the_existing_token(world: World) -> None:
    callee = Callee()
    for _ in range(3):
        auth = outbound(world, seconds_until_expiration=3600, min_remaining_ttl_seconds=600)
        async with callee.client(auth) as client:
            await client.get("/")
        world.time.advance(60)

    assert len(set(callee.credentials)) == 1


async def test_a_reused_token_is_renewed_by_its_remaining_life(world: World) -> None:
    callee = Callee()

    def worker() -> httpx.AsyncClient:
        auth = outbound(world, seconds_until_expiration=3600, min_remaining_ttl_seconds=600)
        return callee.client(auth)

    async with worker() as client:
        await client.get("/")
    world.time.advance(2900)
    async with worker() as client:
        await client.get("/")
        world.time.advance(699)
        await client.get("/")

    assert callee.credentials[0] == callee.credentials[1] != callee.credentials[2]


@pytest.mark.parametrize(("skew", "life"), [(7200.0, 600.0), (-7200.0, 3600.0)])
async def test_with_a_wrong_wall_clock_a_reused_token_is_used_only_for_the_life_that_clerk_promised(
    world: World, skew: float, life: float
) -> None:
    time = world.time
    clock = Clock(monotonic=lambda: time.monotonic, wall=lambda: time.wall + skew)
    options = {"seconds_until_expiration": 3600, "min_remaining_ttl_seconds": 600, "clock": clock}
    auth = outbound(world, **options)
    first = await auth.token()
    measured = auth.measure().remaining
    world.emulator.fail(MINT, status=500)
    time.advance(life - 5.1)  # less the margin
    assert await auth.token() == first
    await settle()
    time.advance(0.2)
    with pytest.raises(TokenUnavailableError) as unavailable:
        await auth.token()

    assert measured is not None
    assert unavailable.value.code == "token_unavailable"
    assert measured < life


async def test_a_renewal_never_returns_the_token_that_it_replaces(world: World) -> None:
    callee = Callee()
    # Clerk would return the same token while at least one second of its life is left.
    auth = outbound(world, seconds_until_expiration=60, min_remaining_ttl_seconds=1)
    async with callee.client(auth) as client:
        await client.get("/")
        world.time.advance(56)
        await client.get("/")
        await settle()
        await client.get("/")

    assert callee.credentials[0] == callee.credentials[1] != callee.credentials[2]


def test_a_token_is_replaced_only_by_one_that_expires_later() -> None:
    """Clerk may return an older token that was minted for another worker of this machine."""
    kept = Bearer(Secret("mt_kept"), 0.0, 60.0)

    assert not Bearer(Secret("mt_other"), 0.0, 60.0).betters(kept)
    assert not Bearer(Secret("mt_kept"), 1.0, 60.0).betters(kept)
    assert Bearer(Secret("mt_other"), 1.0, 60.0).betters(kept)
