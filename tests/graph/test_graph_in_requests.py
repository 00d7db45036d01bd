"""The scope graph: edges read live or from a file, in time and in an outage."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from outcomes import denied, unavailable
from upstreams import quiet

from harness import World


async def test_a_removed_edge_takes_effect_within_graph_ttl_for_a_busy_caller(
    world: World,
) -> None:
    verifier, token = world.verifier(world.live_settings(graph_ttl=30.0)), world.token()
    await verifier.verify(token)
    known = asyncio.all_tasks()
    world.time.advance(21.0)
    await verifier.verify(token)
    world.emulator.cut(world.caller, world.callee)

    seconds = 0
    while not await denied(verifier, token):
        await quiet(known)
        world.time.advance(1.0)
        seconds += 1
        assert seconds <= 30
    assert await denied(verifier, token)


async def test_in_an_outage_the_last_known_edges_are_used_for_graph_max_stale(world: World) -> None:
    verifier = world.verifier(world.live_settings(graph_max_stale=300.0, cache_ttl=3_600.0))
    token = world.token()
    await verifier.verify(token)
    world.emulator.fail("GetMachine", status=500)

    for _ in range(299):
        world.time.advance(1.0)
        assert not await denied(verifier, token)
    world.time.advance(1.0)
    await unavailable(verifier, token)
    world.emulator.clear_faults()
    world.time.advance(1.0)
    assert not await denied(verifier, token)


async def test_in_an_outage_a_removed_edge_stays_removed(world: World) -> None:
    verifier, token = world.verifier(world.live_settings()), world.token()
    world.emulator.cut(world.caller, world.callee)
    assert await denied(verifier, token)
    world.emulator.fail("GetMachine", status=500)

    world.time.advance(31.0)
    assert await denied(verifier, token)


async def test_requests_of_a_deleted_machine_are_refused(world: World) -> None:
    verifier, jwt = world.verifier(world.live_settings()), world.jwt()
    assert not await denied(verifier, jwt)
    world.emulator.delete_machine(world.caller)

    world.time.advance(30.0)
    assert await denied(verifier, jwt)


async def test_concurrent_requests_of_one_caller_read_its_edges_once(world: World) -> None:
    verifier = world.verifier(world.live_settings())
    await asyncio.gather(*(verifier.verify(world.token()) for _ in range(50)))

    assert world.emulator.calls["GetMachine"] == 1


def write_graph(path: Path, world: World, *callers: str) -> None:
    tables = [f'[machines.m{n}]\nid = "{caller}"\n' for n, caller in enumerate(callers)]
    edges = f'may_call = ["{world.callee.id}"]\n'
    callee = f'[machines.callee]\nid = "{world.callee.id}"\n'
    path.write_text(callee + "".join(table + edges for table in tables))
    settle(path, world)


def settle(path: Path, world: World) -> None:
    """Set the modification time of a file to a minute ago."""
    os.utime(path, (world.time.wall - 60, world.time.wall - 60))


async def test_a_graph_file_is_read_again_when_it_changes(world: World, tmp_path: Path) -> None:
    path = tmp_path / "graph.toml"
    write_graph(path, world, world.caller.id)
    verifier = world.verifier(world.settings(graph=path, graph_ttl=30.0))
    token = world.token()
    assert not await denied(verifier, token)
    write_graph(path, world)

    world.time.advance(29.0)
    assert not await denied(verifier, token)
    world.time.advance(1.0)
    assert await denied(verifier, token)


@pytest.mark.parametrize("spoil", ["bad", "gone", "not text"])
async def test_with_an_invalid_graph_file_the_last_graph_is_used_for_graph_max_stale(
    world: World, tmp_path: Path, spoil: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "graph.toml"
    write_graph(path, world, world.caller.id)
    verifier = world.verifier(
        world.settings(graph=path, graph_ttl=30.0, graph_max_stale=300.0, cache_ttl=3_600.0)
    )
    token = world.token()
    assert not await denied(verifier, token)
    match spoil:
        case "bad":
            path.write_text("[machines")
            settle(path, world)
        case "gone":
            path.unlink()
        case _:
            path.write_bytes(b"\xff\xfe")
            settle(path, world)

    for _ in range(10):
        world.time.advance(30.0)
        assert not await denied(verifier, token)
    assert "cannot be read" in caplog.text
    world.time.advance(31.0)
    await unavailable(verifier, token)
    write_graph(path, world, world.caller.id)
    world.time.advance(30.0)
    assert not await denied(verifier, token)


async def test_a_graph_file_is_read_again_after_an_invalidation(
    world: World, tmp_path: Path
) -> None:
    path = tmp_path / "graph.toml"
    write_graph(path, world, world.caller.id)
    verifier, token = world.verifier(world.settings(graph=path)), world.token()
    assert not await denied(verifier, token)

    write_graph(path, world)
    verifier.invalidate(machine_id=world.caller.id)
    assert await denied(verifier, token)


async def test_a_caller_with_an_edge_is_accepted_while_the_graph_file_is_written(
    world: World, tmp_path: Path
) -> None:
    path = tmp_path / "graph.toml"
    write_graph(path, world, world.caller.id)
    verifier, token = world.verifier(world.settings(graph=path, graph_ttl=30.0)), world.token()
    assert not await denied(verifier, token)

    world.time.advance(30.0)
    write_graph(path, world)  # without its last table a file is valid TOML
    os.utime(path, (world.time.wall, world.time.wall))
    assert not await denied(verifier, token)
    write_graph(path, world, world.caller.id)
    world.time.advance(0.1)
    assert not await denied(verifier, token)
