"""Calls whose waiter was cancelled, over a real socket: they are not sent if they still wait.

The emulator counts the calls.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio
from upstreams import eventually

from clerk_m2m import ClerkClient, ConflictError
from harness import World, serve

SLOTS = 20


@pytest_asyncio.fixture
async def origin(world: World) -> AsyncIterator[str]:
    """The address of the world's emulator."""
    async with serve(world.emulator) as served:
        yield served


def client(world: World, origin: str, **given: Any) -> ClerkClient:
    settings: dict[str, Any] = {"secret_key": world.emulator.secret_key, "max_inflight": SLOTS}
    return ClerkClient(api_url=origin, **(settings | given))


async def test_queued_calls_are_not_sent_after_their_task_group_failed(
    world: World, origin: str
) -> None:
    world.emulator.fail("CreateMachine", status=409, times=1)
    world.emulator.fail("CreateMachine", delay=0.2)
    async with client(world, origin) as clerk:
        with pytest.raises(ExceptionGroup) as failed:
            await create_machines(clerk, 300)
        await eventually(lambda: clerk._api.measure().out == 0)
    # One more call got the first one's slot before the error reached the group.
    assert SLOTS <= world.emulator.calls["CreateMachine"] <= SLOTS + 1
    assert failed.group_contains(ConflictError)


async def create_machines(clerk: ClerkClient, count: int) -> None:
    async with asyncio.TaskGroup() as group:
        for number in range(count):
            group.create_task(clerk.machines.create(f"machine-{number}"))


async def test_queued_calls_are_not_sent_after_they_are_cancelled(
    world: World, origin: str
) -> None:
    world.emulator.fail("CreateMachine", delay=0.2)
    async with client(world, origin) as clerk:
        calls = asyncio.gather(*(clerk.machines.create(f"machine-{n}") for n in range(1000)))
        await eventually(lambda: world.emulator.calls["CreateMachine"] == SLOTS)
        calls.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calls
        await eventually(lambda: clerk._api.measure().out == 0)
    assert world.emulator.calls["CreateMachine"] == SLOTS


@pytest.mark.parametrize(
    ("operation", "call", "status"),
    [
        ("ListMachines", lambda clerk: clerk.machines.list(), 503),
        ("ListMachines", lambda clerk: clerk.machines.list(), 429),
        ("CreateMachine", lambda clerk: clerk.machines.create("orders"), 429),
    ],
)
async def test_a_call_cancelled_before_its_retry_is_not_sent_again(
    world: World,
    origin: str,
    operation: str,
    call: Callable[[ClerkClient], Awaitable[object]],
    status: int,
) -> None:
    world.emulator.fail(operation, status=status, retry_after=1)
    async with client(world, origin, max_inflight=1) as clerk:
        waiter = asyncio.ensure_future(call(clerk))
        await eventually(lambda: world.emulator.calls[operation] == 1)
        world.emulator.clear_faults()
        waiter.cancel()
        await eventually(lambda: clerk._api.measure().out == 0, within=0.5)

        assert world.emulator.calls[operation] == 1


async def test_a_call_cancelled_while_its_key_is_read_is_not_sent(
    world: World, origin: str
) -> None:
    answers = asyncio.Event()

    async def fetch() -> str:
        await answers.wait()
        return world.emulator.secret_key

    async with client(world, origin, secret_key=fetch) as clerk:
        waiter = asyncio.create_task(clerk.machines.create("orders"))
        await asyncio.sleep(0)
        waiter.cancel()
        answers.set()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        await clerk.machines.list()  # by now the source has returned the key

    assert world.emulator.calls == {"ListMachines": 1}


async def test_a_call_cancelled_while_it_queues_with_another_key_is_not_sent(
    world: World, origin: str
) -> None:
    keys = iter(["ak_refused", world.callee.secret_key])
    world.emulator.fail("ListMachines", delay=0.2)
    async with client(
        world, origin, machine_secret_key=lambda: next(keys), max_inflight=1
    ) as clerk:
        waiter = asyncio.create_task(clerk.m2m_tokens.create())
        await asyncio.sleep(0)
        other = asyncio.create_task(clerk.machines.list())  # gets the slot after the refusal
        await eventually(
            lambda: (
                world.emulator.calls["ListMachines"] == 1
                and clerk._api.measure().waiting["recent"] == 1
            )
        )
        waiter.cancel()
        await other

    assert world.emulator.calls == {"createM2MToken": 1, "ListMachines": 1}
