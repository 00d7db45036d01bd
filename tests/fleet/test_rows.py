"""The format of a row, and rows that no holder of the fleet's key has written."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable

import pytest

from clerk_m2m import ConfigurationError, Fleet, Verifier
from clerk_m2m.fleet.rows import RowFormat
from clerk_m2m.lookups.invalidation import Invalidation, TokenKind
from harness import World

from .services import FLEET_KEY, OTHER_KEY, Redis, accepts, measured, until

MakeFleet = Callable[..., Fleet]

INVALIDATIONS = [
    Invalidation(digests=(b"d" * 16, b"e" * 16), token_kind=TokenKind.OPAQUE, instant=1.5),
    Invalidation(digests=(b"d" * 16,), token_kind=TokenKind.JWT, ends_at=99.25, instant=1.5),
    Invalidation(digests=(b"d" * 16,), token_kind=TokenKind.UNPROVEN, instant=1.5),
    Invalidation(token_id="mt_1", instant=1.5),
    Invalidation(machine_id="mch_1", instant=1.5),
    Invalidation(caller="mch_1", instant=1.5),
]


@pytest.mark.parametrize("invalidation", INVALIDATIONS)
def test_a_row_is_read_as_it_was_written(invalidation: Invalidation) -> None:
    row = RowFormat((b"k" * 32,)).write(invalidation, ends_at=None)

    assert RowFormat((b"other" * 8, b"k" * 32)).read(row) == invalidation
    assert "d" * 16 not in row.body


def test_changed_rows_are_refused() -> None:
    made = random.Random(1)
    form = RowFormat((b"k" * 32,))
    rows = [form.write(each, ends_at=None) for each in INVALIDATIONS]
    for _ in range(2_000):
        row = made.choice(rows)
        name = made.choice(["nonce", "body", "signature"])
        text = list(getattr(row, name))
        at = made.randrange(len(text))
        text[at] = chr(made.choice([ord(text[at]) ^ 1, 0, 0x20AC, 0xDC80]))
        changed = dataclasses.replace(row)
        object.__setattr__(changed, name, "".join(text))
        assert changed == row or form.read(changed) is None
        swapped = dataclasses.replace(row, signature=made.choice(rows).signature)
        assert swapped == row or form.read(swapped) is None


async def services(world: World, *fleets: Fleet) -> list[Verifier]:
    """Return one service for each of these fleets; each follows the log."""
    verifiers = [world.verifier(world.live_settings(fleet=each)) for each in fleets]
    for each in verifiers:
        await accepts(each, world.token())
    await until(lambda: all(measured(each).in_sync for each in verifiers))
    return verifiers


async def test_a_row_of_another_fleet_key_is_ignored_and_logged(
    world: World, fleet: MakeFleet, caplog: pytest.LogCaptureFixture
) -> None:
    ours, theirs = await services(world, fleet(), fleet(keys=[OTHER_KEY]))
    jwt = world.jwt()

    await theirs.invalidate_everywhere(machine_id=world.caller.id)

    await until(lambda: measured(ours).refused == 1)
    assert await accepts(ours, jwt)
    assert not await accepts(theirs, jwt)
    assert "none of this service's fleet keys has signed it" in caplog.text


async def test_services_recover_from_a_row_written_without_a_key(
    world: World, fleet: MakeFleet, redis: Redis
) -> None:
    one, other = await services(world, fleet(), fleet())
    jwt = world.jwt()
    redis.call("XADD", redis.rows, "1-0", "nonce", "x", "previous", "", "body", "{}", "z", "9")

    # The chain of the log is broken, so both services read it from the start.
    await until(lambda: measured(one).doubts and measured(other).doubts)
    await one.invalidate_everywhere(token=jwt)
    await until(lambda: measured(other).applied)
    assert not await accepts(other, jwt)


@pytest.mark.parametrize(
    ("writer", "reader"),
    [
        ([FLEET_KEY], [FLEET_KEY, OTHER_KEY]),
        ([FLEET_KEY, OTHER_KEY], [FLEET_KEY]),
        ([FLEET_KEY, OTHER_KEY], [OTHER_KEY, FLEET_KEY]),
        ([OTHER_KEY, FLEET_KEY], [OTHER_KEY]),
    ],
)
async def test_revocations_reach_every_service_while_the_fleet_key_is_replaced(
    world: World, fleet: MakeFleet, writer: list[str], reader: list[str]
) -> None:
    one, other = await services(world, fleet(keys=writer), fleet(keys=reader))
    jwt, minted = world.jwt(), world.emulator.mint_m2m_token(world.caller)
    assert await accepts(other, minted.token)
    world.emulator.revoke_m2m_token(minted.id)

    await one.invalidate_everywhere(token=jwt)
    await one.invalidate_everywhere(token=minted.token)

    await until(lambda: measured(other).applied == 2)
    assert not await accepts(other, jwt)
    assert not await accepts(other, minted.token)


async def test_an_edge_deleted_by_a_watched_client_is_refused_at_other_services(
    world: World, fleet: MakeFleet
) -> None:
    one, other = await services(world, fleet(), fleet())
    client = world.emulator.client()
    one.watch(client)
    jwt = world.jwt()
    assert await accepts(other, jwt)

    await client.machines.delete_scope(world.caller.id, world.callee.id)

    await until(lambda: measured(other).applied == 1)
    with pytest.raises(Exception, match="may not call") as caught:
        await other.verify(jwt)
    assert getattr(caught.value, "code", None) == "scope_denied"


async def test_invalidate_everywhere_needs_a_fleet(world: World) -> None:
    with pytest.raises(ConfigurationError, match=r"needs Settings\(fleet"):
        await world.verifier().invalidate_everywhere(token_id="mt_1")


def test_the_end_of_a_row_is_rounded_up() -> None:
    assert RowFormat((b"k" * 32,)).write(INVALIDATIONS[0], ends_at=12.2).ends_at == 13
