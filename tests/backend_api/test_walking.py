"""Reading whole lists while the loop body, other clients or the server change them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from clerk_m2m import BackendUnavailableError, ClerkClient, RateLimitedError
from clerk_m2m.backend_api.walking import MAX_RETURNS
from harness import USER_ID, World


def cut_pages(world: World, size: int) -> None:
    """Make the server return at most `size` items a page, whatever the limit is."""

    async def cut(request: httpx.Request) -> httpx.Response | None:
        if "limit" in (asked := request.url.params) and int(asked["limit"]) > size:
            url = request.url.copy_set_param("limit", str(size))
            smaller = httpx.Request(request.method, url, headers=request.headers)
            return await world.upstream._emulator.handle_async_request(smaller)
        return None

    world.upstream.intercept = cut


def between_pages(world: World, act: Callable[[int], object]) -> None:
    """Call `act(number)` before each page but the first."""
    pages = iter(range(1_000))

    async def before(request: httpx.Request) -> None:
        if "limit" in request.url.params and (number := next(pages)):
            act(number)

    world.upstream.intercept = before


async def test_revoking_450_tokens_while_iterating_misses_none(
    world: World, clerk: ClerkClient
) -> None:
    for _ in range(450):
        world.emulator.mint_m2m_token(world.caller)

    async for token in clerk.m2m_tokens.iter(world.caller.id):
        await clerk.m2m_tokens.revoke(token.id)

    assert (await clerk.m2m_tokens.list(world.caller.id)).total_count == 0
    assert world.emulator.calls["revokeM2MToken"] == 450


async def test_deleting_machines_and_keys_while_iterating_misses_none(
    world: World, clerk: ClerkClient
) -> None:
    for number in range(20):
        world.emulator.add_machine(f"machine {number}")
        world.emulator.add_api_key(f"key {number}", subject=USER_ID)

    async for key in clerk.api_keys.iter(USER_ID, page_size=5):
        await clerk.api_keys.revoke(key.id)
    async for machine in clerk.machines.iter(page_size=5):
        await clerk.machines.delete(machine.id)

    assert (await clerk.api_keys.list(USER_ID)).total_count == 0
    assert (await clerk.machines.list()).total_count == 0


@pytest.mark.parametrize("most", [50, 1])
async def test_a_short_page_is_not_the_end(world: World, clerk: ClerkClient, most: int) -> None:
    count = 1_000 if most == 50 else 7
    for number in range(count - 3):
        world.emulator.add_machine(f"machine {number}")
    cut_pages(world, most)

    walked = [machine.id async for machine in clerk.machines.iter()]

    assert len(walked) == len(set(walked)) == count


async def test_machines_are_iterated_oldest_first(world: World, clerk: ClerkClient) -> None:
    world.time.advance(1)
    youngest = world.emulator.add_machine("a youngest one")
    between_pages(world, lambda number: number < 3 and world.emulator.add_machine("new"))

    walked = [machine.id async for machine in clerk.machines.iter(page_size=2)]

    # Machines that are created during the reading come last, where they move nothing.
    assert walked[:4] == [world.callee.id, world.caller.id, world.stranger.id, youngest.id]
    assert world.upstream.requests[0].url.params["order_by"] == "created_at"


@pytest.mark.parametrize("revoked", [{1: 1, 2: 1, 3: 1}, {3: 20}])
async def test_revocations_by_others_during_the_reading_hide_no_item(
    world: World, clerk: ClerkClient, revoked: dict[int, int]
) -> None:
    """The newest come first, so each revocation moves an item to the page before.

    `revoked` is the number of revocations by page number.
    """
    minted = [world.emulator.mint_m2m_token(world.caller).id for _ in range(40)]

    def revoke(number: int) -> None:
        for _ in range(revoked.get(number, 0)):
            world.emulator.revoke_m2m_token(minted.pop())

    between_pages(world, revoke)
    walked = [token.id async for token in clerk.m2m_tokens.iter(world.caller.id, page_size=5)]

    assert len(walked) == len(set(walked))
    assert set(minted) <= set(walked)


async def test_mints_by_others_during_the_reading_duplicate_no_item(
    world: World, clerk: ClerkClient
) -> None:
    minted = [world.emulator.mint_m2m_token(world.caller).id for _ in range(12)]
    between_pages(world, lambda number: world.emulator.mint_m2m_token(world.caller))

    walked = [token.id async for token in clerk.m2m_tokens.iter(world.caller.id, page_size=5)]

    assert walked == minted[::-1]


def page_of(*names: str, total_count: int) -> httpx.Response:
    """A page of API keys with these ids, newest first."""
    instant = 1_800_000_000_000
    keys = [
        {
            "id": f"ak_{name:0>32}",
            "subject": USER_ID,
            "name": "reports",
            "revoked": False,
            "revocation_reason": None,
            "expired": False,
            "expiration": None,
            "created_at": instant,
            "updated_at": instant,
        }
        for name in names
    ]
    return httpx.Response(200, content=json.dumps({"data": keys, "total_count": total_count}))


async def answer_with(world: World, pages: AsyncIterator[httpx.Response]) -> None:
    """Answer the requests with these pages, in order."""

    async def answer(request: httpx.Request) -> httpx.Response:
        return await anext(pages)

    world.upstream.intercept = answer


async def test_the_list_is_read_again_if_items_change_places_between_pages(
    world: World, clerk: ClerkClient
) -> None:
    """Clerk does not document the order of items with the same instant."""

    async def pages() -> AsyncIterator[httpx.Response]:
        yield page_of("a", "b", total_count=3)
        yield page_of("b", "a", total_count=3)  # c has changed places with a
        yield page_of("c", "b", total_count=3)
        yield page_of("b", "a", total_count=3)

    await answer_with(world, pages())
    walked = [key.id[-1] async for key in clerk.api_keys.iter(USER_ID, page_size=2)]

    assert walked == ["a", "b", "c"]
    assert len(world.upstream.requests) == 4


async def test_an_empty_page_ends_the_list_whatever_total_count_says(
    world: World, clerk: ClerkClient
) -> None:
    async def pages() -> AsyncIterator[httpx.Response]:
        yield page_of("a", "b", total_count=9)
        yield page_of("b", total_count=9)
        yield page_of(total_count=9)

    await answer_with(world, pages())
    assert [key.id[-1] async for key in clerk.api_keys.iter(USER_ID)] == ["a", "b"]


async def test_a_list_that_keeps_changing_raises_instead_of_a_partial_result(
    world: World, clerk: ClerkClient
) -> None:
    async def pages() -> AsyncIterator[httpx.Response]:
        while True:
            yield page_of("a", "a", total_count=2)

    await answer_with(world, pages())
    with pytest.raises(BackendUnavailableError, match="faster than it can be read"):
        _ = [key async for key in clerk.api_keys.iter(USER_ID)]
    assert len(world.upstream.requests) == MAX_RETURNS + 1


async def test_iter_waits_for_the_retry_after_of_a_429(world: World, clerk: ClerkClient) -> None:
    """A call waits once; a walk waits several times, each time at most a minute."""
    for number in range(4):
        world.emulator.add_machine(f"machine {number}")
    given: dict[str, Any] = {"status": 429, "headers": {"retry-after": "0"}}
    world.emulator.fail("ListMachines", times=5, **given)

    assert len([machine async for machine in clerk.machines.iter(page_size=3)]) == 7

    world.emulator.fail("ListMachines", status=429, headers={"retry-after": "61"})
    with pytest.raises(RateLimitedError) as refused:
        _ = [machine async for machine in clerk.machines.iter()]
    assert refused.value.retry_after == 61
