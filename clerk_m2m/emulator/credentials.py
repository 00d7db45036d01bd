"""The common part of M2M tokens, API keys and OAuth access tokens: expiry and revocation."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from clerk_m2m.emulator.instance import AS_ERROR, Instance
from clerk_m2m.emulator.responses import InvalidField, Refusal
from clerk_m2m.emulator.store import select_one

if TYPE_CHECKING:
    import sqlite3

# The last instant that a JavaScript date can hold; nothing can expire later.
LAST_INSTANT_MS = 8_640_000_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialRow:
    """The columns that every kind of credential has; instants in milliseconds.

    `table` holds the rows of its kind; `value_column` holds the secret that a caller presents.
    """

    table: ClassVar[str]
    value_column: ClassVar[str]

    id: str
    subject: str
    scopes: str
    revoked: int = 0
    revocation_reason: str | None = None
    expires_at: int | None
    created_at: int
    updated_at: int

    def is_expired(self, now: int) -> bool:
        """Whether its lifetime is over."""
        return self.expires_at is not None and self.expires_at <= now

    def is_live(self, now: int) -> bool:
        """Neither revoked nor expired."""
        return not self.revoked and not self.is_expired(now)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackedRow(CredentialRow):
    """The row of a credential whose last use is kept."""

    last_used_at: int | None = None


CredentialT = TypeVar("CredentialT", bound=CredentialRow)
TrackedT = TypeVar("TrackedT", bound=TrackedRow)


def find_by_id(db: sqlite3.Connection, kind: type[CredentialT], id: str) -> CredentialT | None:
    """The credential of this kind with this id."""
    return select_one(db, kind, f"{kind.table} WHERE id = ?", id)


def find_by_value(
    db: sqlite3.Connection, kind: type[CredentialT], value: str
) -> CredentialT | None:
    """The credential of this kind that is presented by this value."""
    return select_one(db, kind, f"{kind.table} WHERE {kind.value_column} = ?", value)


def revoke(
    db: sqlite3.Connection, credential: CredentialT, reason: str | None, now: int
) -> CredentialT:
    """Revoke the credential; one that is revoked already stays as it is."""
    if credential.revoked:
        return credential
    db.execute(
        f"UPDATE {credential.table} SET revoked = 1, revocation_reason = ?, updated_at = ?"  # noqa: S608 - a name from the code
        " WHERE id = ?",
        (reason, now, credential.id),
    )
    return replace(credential, revoked=1, revocation_reason=reason, updated_at=now)


def record_use(
    db: sqlite3.Connection, instance: Instance, credential: TrackedT, now: int
) -> TrackedT:
    """Record a verification; refuse a revoked or expired credential as `refuse_dead` does.

    The last use is written after the answer is known, so a failed write fails no verification.
    """
    refuse_dead(instance, credential, now)
    if not credential.is_live(now):
        return credential
    instance.store.note_last_use(credential.table, credential.id, now)
    return replace(credential, last_used_at=now)


def refuse_dead(instance: Instance, credential: CredentialRow, now: int) -> None:
    """404 for a revoked or expired credential, unless `dead_token_answer` asks for 200 with flags.

    The contract does not say which of the two Clerk does.
    """
    if not credential.is_live(now) and instance.dead_token_answer == AS_ERROR:
        raise Refusal(404, "resource_not_found", "Token not found")


def expires_at(now: int, seconds: float) -> int | None:
    """The instant this many seconds from now; None (never) for infinity."""
    if math.isinf(seconds):
        return None
    instant = now + seconds * 1000
    if instant > LAST_INSTANT_MS:
        name = "seconds_until_expiration"
        raise InvalidField(name, "form_param_value_too_large", f"{name} is too far away")
    return int(instant)


def canonical(value: Any) -> str:
    """JSON text that is the same for equal values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
