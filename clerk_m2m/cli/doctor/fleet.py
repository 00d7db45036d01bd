"""What is to be known of the fleet's Redis: it answers, it keeps the log, and the keys agree."""

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
    """Check the Redis that services tell each other of revocations through."""
    try:
        access = _access(fleet, await refused_commands(fleet))
        if access.status is Status.FAULT:
            yield access
            return  # what comes next would be refused
        health = await examine(fleet)
    except FleetUnavailableError as exc:
        yield Finding(
            "fleet",
            Status.UNKNOWN,
            f"{exc} What is revoked elsewhere is not heard of here meanwhile.",
            "See that CLERK_M2M_FLEET_URL names a Redis that this host reaches, and has its user "
            "and password.",
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
        f"of {READS}); the log has {health.rows} rows."
    )
    if health.is_replica:
        text = f"{text} It is a replica: nothing can be written to it."
        return Finding("fleet", Status.FAULT, text, "Give the address of the primary.")
    if health.seconds < _SLOW:
        return Finding("fleet", Status.OK, text)
    remedy = "A revocation reaches others that much later. Put Redis nearer to the services."
    return Finding("fleet", Status.WARNING, text, remedy)


def _access(fleet: Fleet, refused: list[str] | None) -> Finding:
    if refused is None:
        text = "This Redis is older than 7.0 and cannot tell what its user may do."
        return Finding("fleet access", Status.WARNING, text, "Compare its ACL with docs/fleet.md.")
    if not refused:
        parts = "the log and the shared verdicts need" if fleet.share_verdicts else "the log needs"
        return Finding("fleet access", Status.OK, f"The user of Redis may do what {parts}.")
    return Finding(
        "fleet access",
        Status.FAULT,
        f"The user of Redis may not do all that the fleet needs. Missing: {', '.join(refused)}.",
        f"Give it the rules in docs/fleet.md by ACL SETUSER; its keys begin with {{{fleet.prefix}}}"
        " (CLERK_M2M_FLEET_PREFIX), braces included.",
    )


def _keys(health: Health) -> Finding:
    if not health.foreign:
        text = (
            f"Our fleet keys have signed the newest {health.looked_at} rows."
            if health.looked_at
            else "The log has no rows yet, so it does not show whether the keys agree."
        )
        return Finding("fleet key", Status.OK, text)
    return Finding(
        "fleet key",
        Status.FAULT,
        f"Of the newest {health.looked_at} rows, {health.foreign} are signed with a key that is "
        "none of ours.",
        "Give all services the same CLERK_M2M_FLEET_KEY; while it is replaced, both keys. Another "
        "Clerk instance needs a prefix of its own (CLERK_M2M_FLEET_PREFIX).",
    )


def _eviction(health: Health) -> Finding:
    if health.eviction is None:
        text = "This user of Redis may not ask for the memory policy."
        remedy = "See that it is noeviction, or let the user ask: +info."
        return Finding("fleet memory", Status.WARNING, text, remedy)
    if health.eviction == "noeviction" or health.eviction.startswith("volatile-"):
        text = f"The memory policy is {health.eviction}: the log is not evicted."
        return Finding("fleet memory", Status.OK, text)
    return Finding(
        "fleet memory",
        Status.WARNING,
        f"The memory policy is {health.eviction}: when memory is full, the log may be "
        "evicted, and everything is verified again.",
        "Set maxmemory-policy noeviction, or give the fleet a Redis of its own.",
    )


def _disk(health: Health) -> Finding:
    if health.persists is None:
        text = "This user of Redis may not ask whether it writes to disk."
        remedy = "See that appendonly is on, or let the user ask: +info."
        return Finding("fleet disk", Status.WARNING, text, remedy)
    if health.persists:
        return Finding("fleet disk", Status.OK, "Redis writes to disk.")
    return Finding(
        "fleet disk",
        Status.WARNING,
        "Redis does not write to disk, or never has since it started: after a restart the services "
        "that run write their denials into the log again, and a denial that none of them knows is "
        "lost.",
        "Turn on appendonly.",
    )
