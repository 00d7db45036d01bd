"""API keys: their rows and their JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from clerk_m2m.emulator.credentials import TrackedRow, canonical
from clerk_m2m.emulator.ids import random_hex, random_secret
from clerk_m2m.emulator.store import count, insert, select

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKeyRow(TrackedRow):
    """One row; instants in milliseconds, claims and scopes as JSON text."""

    table: ClassVar[str] = "api_keys"
    value_column: ClassVar[str] = "secret"

    secret: str
    type: str
    name: str
    description: str | None
    claims: str
    created_by: str | None

    def as_json(self, now: int) -> dict[str, Any]:
        """The contract's API key, without the secret."""
        return {
            "object": "api_key",
            "id": self.id,
            "type": self.type,
            "subject": self.subject,
            "name": self.name,
            "description": self.description,
            "claims": json.loads(self.claims),
            "scopes": json.loads(self.scopes),
            "revoked": bool(self.revoked),
            "revocation_reason": self.revocation_reason,
            "expired": self.is_expired(now),
            "expiration": self.expires_at,
            "created_by": self.created_by,
            "last_used_at": self.last_used_at,
            "created_at": self.created_at,
            "updated_at": self.updated_at,
        }


def new_key(
    *,
    name: str,
    subject: str,
    now: int,
    expires_at: int | None = None,
    scopes: Sequence[str] = (),
    claims: Any = None,
    type: str = "api_key",
    description: str | None = None,
    created_by: str | None = None,
    key_id: str | None = None,
    secret: str | None = None,
) -> ApiKeyRow:
    """A key that is not stored yet."""
    return ApiKeyRow(
        id=key_id or random_hex("ak_"),
        secret=secret or random_secret("ak_"),
        type=type,
        subject=subject,
        name=name,
        description=description,
        claims=canonical(claims),
        scopes=canonical(list(scopes)),
        created_by=created_by,
        expires_at=expires_at,
        created_at=now,
        updated_at=now,
    )


def insert_key(db: sqlite3.Connection, key: ApiKeyRow) -> None:
    """Store a new key."""
    insert(db, "api_keys", key, folded_name=key.name.casefold())


def select_keys(
    db: sqlite3.Connection,
    *,
    subject: str,
    type: str,
    query: str,
    include_invalid: bool,
    now: int,
    limit: int,
    offset: int,
) -> tuple[list[ApiKeyRow], int]:
    """A page of a subject's keys, newest first. Revoked and expired ones only on request."""
    found = (
        "api_keys WHERE subject = ? AND type = ?"
        " AND (? = '' OR id = ? OR instr(folded_name, ?) > 0)"
        " AND (? OR (NOT revoked AND (expires_at IS NULL OR expires_at > ?)))"
    )
    given = (subject, type, query, query, query.casefold(), include_invalid, now)
    page = f"{found} ORDER BY seq DESC LIMIT {limit} OFFSET {offset}"
    return select(db, ApiKeyRow, page, given), count(db, found, given)


def change_key(
    db: sqlite3.Connection, key: ApiKeyRow, changes: Mapping[str, Any], now: int
) -> ApiKeyRow:
    """The key with some fields changed, stored."""
    changed = replace(key, **changes, updated_at=now)
    db.execute(
        "UPDATE api_keys SET subject = ?, description = ?, claims = ?, scopes = ?,"
        " expires_at = ?, updated_at = ? WHERE id = ?",
        (
            changed.subject,
            changed.description,
            changed.claims,
            changed.scopes,
            changed.expires_at,
            now,
            key.id,
        ),
    )
    return changed


def remove_key(db: sqlite3.Connection, key: ApiKeyRow) -> None:
    """Remove the key."""
    db.execute("DELETE FROM api_keys WHERE id = ?", (key.id,))
