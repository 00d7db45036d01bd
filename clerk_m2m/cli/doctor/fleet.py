"""What is to be known of the fleet's Redis: it answers, it keeps the log, and the keys agree."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from clerk_m2m.cli.doctor.findings import Finding, Status
from clerk_m2m.errors import FleetUnavailableError
from clerk_m2m.fleet.health import Health, examine
from clerk_m2m.fleet_settings import Fleet

_SLOW: Final = 0.02


async def check_fleet(fleet: Fleet) -> AsyncIterator[Finding]:
    """Check the Redis that services tell each other of revocations through."""
    try:
        health = await examine(fleet)
    except FleetUnavailableError as exc:
        yield Finding(
            "fleet",
            Status.UNKNOWN,
            f"{exc} What is revoked elsewhere is not heard of here meanwhile.",
            "See that CLERK_M2M_FLEET_URL names a Redis that this host reaches, and that its user "
            "may run the commands in docs/fleet.md.",
        )
        return
    yield _answers(health)
    yield _keys(health)
    yield _eviction(health)
    yield _disk(health)


def _answers(health: Health) -> Finding:
    text = f"Redis answers in {health.seconds * 1000:.1f} ms; the log has {health.rows} rows."
    if health.seconds < _SLOW:
        return Finding("fleet", Status.OK, text)
    remedy = "A revocation reaches others that much later. Put Redis nearer to the services."
    return Finding("fleet", Status.WARNING, text, remedy)


def _keys(health: Health) -> Finding:
    if not health.foreign:
        return Finding("fleet key", Status.OK, "Our fleet keys have signed the newest rows.")
    return Finding(
        "fleet key",
        Status.FAULT,
        f"Of the newest rows, {health.foreign} are signed with a key that is none of ours.",
        "Give all services the same CLERK_M2M_FLEET_KEY; while it is replaced, both keys. Another "
        "Clerk instance needs a prefix of its own (CLERK_M2M_FLEET_PREFIX).",
    )


def _eviction(health: Health) -> Finding:
    if health.eviction is None:
        text = "This user of Redis may not ask for the memory policy."
        return Finding("fleet memory", Status.WARNING, text, "See that it is noeviction.")
    if health.eviction == "noeviction" or health.eviction.startswith("volatile-"):
        text = f"The memory policy is {health.eviction}: the log is not evicted."
        return Finding("fleet memory", Status.OK, text)
    return Finding(
        "fleet memory",
        Status.WARNING,
        f"The memory policy is {health.eviction}: when memory is full, the log may be evicted, and "
        "everything is verified again.",
        "Set maxmemory-policy noeviction, or give the fleet a Redis of its own.",
    )


def _disk(health: Health) -> Finding:
    if health.persists is not False:
        known = "writes" if health.persists else "may not be asked whether it writes"
        return Finding("fleet disk", Status.OK, f"Redis {known} to disk.")
    return Finding(
        "fleet disk",
        Status.WARNING,
        "Redis does not write to disk: after a restart the services that run write their denials "
        "into the log again, and a denial that none of them knows is lost.",
        "Turn on appendonly.",
    )
