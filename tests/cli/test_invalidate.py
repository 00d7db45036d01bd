"""`clerk-m2m invalidate`, against a real Valkey."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator

import pytest
from typer.testing import CliRunner, Result

from bench.own_valkey import own_valkey
from clerk_m2m import Fleet, Settings, TokenInvalidError, Verifier
from clerk_m2m.cli import app
from clerk_m2m.observe import FleetMeasurements
from clerk_m2m.testing import ClerkEmulatorServer

KEY = "f" * 40


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The URL of a Valkey server for this module."""
    server = own_valkey()
    server.start()
    yield f"redis://127.0.0.1:{server.port}"
    server.stop()


def environ(url: str) -> dict[str, str]:
    return {
        "CLERK_M2M_FLEET_URL": url,
        "CLERK_M2M_FLEET_KEY": KEY,
        "CLERK_M2M_FLEET_PREFIX": "test",
    }


def run(env: dict[str, str], *arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, arguments, env=env, input=stdin)


async def is_accepted(verifier: Verifier, token: str) -> bool:
    try:
        await verifier.verify(token)
    except TokenInvalidError:
        return False
    return True


def of_fleet(verifier: Verifier) -> FleetMeasurements:
    fleet = verifier.measure().fleet
    assert fleet is not None
    return fleet


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  only counters show it
            await asyncio.sleep(0.005)


async def test_services_receive_the_invalidations_of_the_command(
    clerk_emulator_server: ClerkEmulatorServer, url: str
) -> None:
    emulator = clerk_emulator_server.emulator
    orders = emulator.add_machine("orders")
    billing = emulator.add_machine("billing", may_call=[orders])
    env = clerk_emulator_server.environ(orders, instance_key=True) | environ(url)
    fleet = Fleet(url, keys=[KEY], prefix="test")
    verifier = Verifier(Settings.from_env(env, fleet=fleet))
    by_id = emulator.mint_m2m_token(billing)
    by_text = emulator.mint_m2m_token(billing, token_format="jwt")
    assert await is_accepted(verifier, by_id.token)
    await until(lambda: of_fleet(verifier).in_sync)
    assert await is_accepted(verifier, by_text.token)
    emulator.revoke_m2m_token(by_id.id)

    done = await asyncio.to_thread(
        run, env, "invalidate", by_id.id, "--token", "--json", stdin=by_text.token
    )

    assert done.exit_code == 0, done.output
    assert len(json.loads(done.stdout)["rows"]) == 2
    assert by_text.token not in done.output
    await until(lambda: of_fleet(verifier).applied == 2)
    assert not await is_accepted(verifier, by_id.token)
    assert not await is_accepted(verifier, by_text.token)
    await verifier.aclose()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "Name what to invalidate"),
        (["ak_" + "x" * 40], "Give ids only"),
        (["orders"], "Give ids only"),
    ],
)
def test_an_argument_that_is_not_an_id_is_rejected_and_not_quoted(
    url: str, arguments: list[str], text: str
) -> None:
    done = run(environ(url), "invalidate", *arguments)

    assert done.exit_code == 2
    assert text in done.stderr
    assert not any(each in done.output for each in arguments if each.startswith("ak_"))


def test_without_a_fleet_or_without_redis_the_command_exits_with_2() -> None:
    nobody = run({}, "invalidate", "mt_" + "0" * 32)
    away = run(environ("redis://127.0.0.1:1"), "invalidate", "mt_" + "0" * 32)

    assert (nobody.exit_code, away.exit_code) == (2, 2)
    assert "there is no fleet" in nobody.stderr
    assert "Not all of it is in the log" in away.stderr
