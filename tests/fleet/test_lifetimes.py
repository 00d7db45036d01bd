"""How long Redis keeps entries and rows, and how much of an entry a process reads."""

from __future__ import annotations

from collections.abc import Callable

from clerk_m2m import Fleet
from clerk_m2m.clock import LEEWAY
from clerk_m2m.fleet.contents import MAX_CONTENTS
from clerk_m2m.fleet.entries import Entries, keep, look
from harness import World

from .services import Redis, accepts


async def test_an_entry_expires_in_redis_after_its_lifetime(
    redis: Redis, fleet: Callable[..., Fleet]
) -> None:
    entries = Entries(fleet())
    await entries.run([keep("a", "", 600.0, "text")])

    left = redis.call("PTTL", f"{{{redis.prefix}}}:verdict:a")

    assert 590_000 < left <= 600_000
    await entries.aclose()


async def test_an_oversized_entry_is_read_only_up_to_the_largest_verdict(
    redis: Redis, fleet: Callable[..., Fleet]
) -> None:
    entries = Entries(fleet())
    await entries.run([keep("a", "", 600.0, "x" * 1_000_000)])

    (found,) = await entries.run([look("a")])

    assert found.startswith("entry:xxx")
    assert MAX_CONTENTS < len(found) < 2 * MAX_CONTENTS
    await entries.aclose()


async def test_the_log_keeps_a_denial_until_the_jwt_has_expired_everywhere(
    world: World, redis: Redis, fleet: Callable[..., Fleet]
) -> None:
    verifier = world.verifier(world.live_settings(fleet=fleet()))
    token = world.jwt(seconds_until_expiration=600)
    assert await accepts(verifier, token)
    end = world.time.clock.wall() + 600 + LEEWAY

    await verifier.invalidate_everywhere(token=token)

    ((_, fields),) = redis.call("XRANGE", redis.rows, "-", "+")
    assert end - 1 <= int(fields["ends_at"]) <= end + 2
