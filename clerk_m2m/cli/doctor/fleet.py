"""The checks of the fleet's Redis: it answers, it keeps the log, and the services' keys agree."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from clerk_m2m.cli.doctor.findings import Finding, Status
from clerk_m2m.errors import FleetUnavailableError
from clerk_m2m.fleet.health import READS, Health, examine, refused_commands
from clerk_m2m.fleet_settings import Fleet

# Seconds.
_SLOW: Final = 0.02


async def check_fleet(fleet: Fleet) -> AsyncIterator[Finding]:
    """Check the Redis through which the services share revocations."""
    try:
        access = _access(fleet, await refused_commands(fleet))
        if access.status is Status.FAULT:
            yield access
            return  # Redis would refuse the commands of the next checks
        health = await examine(fleet)
    except FleetUnavailableError as exc:
        yield Finding(
            "fleet",
            Status.UNKNOWN,
            f"{exc} Until it answers, this service does not receive revocations of the others.",
            "Check that CLERK_M2M_FLEET_URL names a Redis that this host reaches, and contains the "
            "right user and password.",
        )
        return
    yield _answers(health)
    yield access
    yield _keys(health)
    yield _eviction(health)
    yield _disk(health)


def _answers(health: Health) -> Finding:
    text = (
        f"{health.server or 'Redis'} answers in {health.seconds * 1000:.1f} ms (median "
        f"of {READS}); rows in the log: {health.rows}."
    )
    if health.is_replica:
        text = f"{text} It is a replica: nothing can be written to it."
        return Finding(
            "fleet", Status.FAULT, text, "Set CLERK_M2M_FLEET_URL to the address of the primary."
        )
    if health.seconds < _SLOW:
        return Finding("fleet", Status.OK, text)
    remedy = "This delays every revocation. Run Redis nearer to the services."
    return Finding("fleet", Status.WARNING, text, remedy)


def _access(fleet: Fleet, refused: list[str] | None) -> Finding:
    if refused is None:
        text = "This Redis is older than 7.0, so the rights of its user cannot be checked."
        return Finding("fleet access", Status.WARNING, text, "Compare its ACL with docs/fleet.md.")
    if not refused:
        parts = "the log and the shared verdicts need" if fleet.share_verdicts else "the log needs"
        return Finding("fleet access", Status.OK, f"The user of Redis has all rights that {parts}.")
    return Finding(
        "fleet access",
        Status.FAULT,
        f"The user of Redis lacks rights that the fleet needs: {', '.join(refused)}.",
        "Give the user the rules in docs/fleet.md by ACL SETUSER. The keys begin with "
        f"{{{fleet.prefix}}} (CLERK_M2M_FLEET_PREFIX), braces included.",
    )


def _keys(health: Health) -> Finding:
    if not health.foreign:
        text = (
            f"Newest rows of the log checked: {health.looked_at}. All are signed with this "
            "service's fleet keys."
            if health.looked_at
            else "The log has no rows yet, so it does not show whether the services' keys agree."
        )
        return Finding("fleet key", Status.OK, text)
    return Finding(
        "fleet key",
        Status.FAULT,
        f"Newest rows of the log checked: {health.looked_at}. Signed with a key that this "
        f"service does not have: {health.foreign}.",
        "Give all services the same CLERK_M2M_FLEET_KEY, or both keys while it is replaced. Each "
        "Clerk instance needs its own prefix (CLERK_M2M_FLEET_PREFIX).",
    )


def _eviction(health: Health) -> Finding:
    if health.eviction is None:
        text = "The user of Redis may not read the memory policy (INFO)."
        remedy = "Check that it is noeviction, or add +info to the user's rules."
        return Finding("fleet memory", Status.WARNING, text, remedy)
    if health.eviction == "noeviction" or health.eviction.startswith("volatile-"):
        text = f"The memory policy is {health.eviction}: the log is not evicted."
        return Finding("fleet memory", Status.OK, text)
    return Finding(
        "fleet memory",
        Status.WARNING,
        f"The memory policy is {health.eviction}: if memory is full, Redis may evict the log. Then "
        "every cached credential must be verified again.",
        "Set maxmemory-policy noeviction, or run a Redis for the fleet alone.",
    )


def _disk(health: Health) -> Finding:
    if health.persists is None:
        text = "The user of Redis may not read whether Redis writes to disk (INFO)."
        remedy = "Check that appendonly is on, or add +info to the user's rules."
        return Finding("fleet disk", Status.WARNING, text, remedy)
    if health.persists:
        return Finding("fleet disk", Status.OK, "Redis writes to disk.")
    return Finding(
        "fleet disk",
        Status.WARNING,
        "Redis does not write to disk, or has not yet done so since it started. After a restart of "
        "Redis, the running services write the denials that they know into the log again. A denial "
        "that none of them knows is lost.",
        "Set appendonly yes.",
    )
