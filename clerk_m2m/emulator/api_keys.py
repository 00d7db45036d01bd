"""API keys: their rows and their JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from clerk_m2m.emulator.ids import random_hex, random_secret
from clerk_m2m.emulator.m2m_tokens import canonical
from clerk_m2m.emulator.store import count, insert, select, select_one

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One row; instants in milliseconds, claims and scopes as JSON text."""

    id: str
    secret: str
    type: str
    subject: str
    name: str
    description: str | None
    claims: str
    scopes: str
    created_by: str | None
    revoked: int
    revocation_reason: str | None
    expires_at: int | None
    last_used_at: int | None
    created_at: int
    updated_at: int

    def is_expired(self, now: int) -> bool:
        """Whether its life is over."""
        return self.expires_at is not None and self.expires_at <= now

    def is_live(self, now: int) -> bool:
        """Neither revoked nor expired."""
        return not self.revoked and not self.is_expired(now)

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
) -> ApiKey:
    """A key that is not stored yet."""
    return ApiKey(
        id=key_id or random_hex("ak_"),
        secret=secret or random_secret("ak_"),
        type=type,
        subject=subject,
        name=name,
        description=description,
        claims=canonical(claims),
        scopes=canonical(list(scopes)),
        created_by=created_by,
        revoked=0,
        revocation_reason=None,
        expires_at=expires_at,
        last_used_at=None,
        created_at=now,
        updated_at=now,
    )


def insert_key(db: sqlite3.Connection, key: ApiKey) -> None:
    """Store a new key."""
    insert(db, "api_keys", key, folded_name=key.name.casefold())


def find_by_id(db: sqlite3.Connection, key_id: str) -> ApiKey | None:
    """The key with this id."""
    return select_one(db, ApiKey, "api_keys WHERE id = ?", key_id)


def find_by_secret(db: sqlite3.Connection, secret: str) -> ApiKey | None:
    """The key with this secret."""
    return select_one(db, ApiKey, "api_keys WHERE secret = ?", secret)


def list_keys(
    db: sqlite3.Connection,
    *,
    subject: str,
    type: str,
    query: str,
    include_invalid: bool,
    now: int,
    limit: int,
    offset: int,
) -> tuple[list[ApiKey], int]:
    """A page of a subject's keys, newest first; dead ones only where asked for."""
    found = (
        "api_keys WHERE subject = ? AND type = ?"
        " AND (? = '' OR id = ? OR instr(folded_name, ?) > 0)"
        " AND (? OR (NOT revoked AND (expires_at IS NULL OR expires_at > ?)))"
    )
    given = (subject, type, query, query, query.casefold(), include_invalid, now)
    page = f"{found} ORDER BY seq DESC LIMIT {limit} OFFSET {offset}"
    return select(db, ApiKey, page, given), count(db, found, given)


def change_key(db: sqlite3.Connection, key: ApiKey, changes: Mapping[str, Any], now: int) -> ApiKey:
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


def delete_key(db: sqlite3.Connection, key: ApiKey) -> None:
    """Remove the key."""
    db.execute("DELETE FROM api_keys WHERE id = ?", (key.id,))


def revoke(db: sqlite3.Connection, key: ApiKey, reason: str | None, now: int) -> ApiKey:
    """Revoke the key; one that is revoked already stays as it is."""
    if key.revoked:
        return key
    db.execute(
        "UPDATE api_keys SET revoked = 1, revocation_reason = ?, updated_at = ? WHERE id = ?",
        (reason, now, key.id),
    )
    return replace(key, revoked=1, revocation_reason=reason, updated_at=now)


def touch(db: sqlite3.Connection, key: ApiKey, now: int) -> ApiKey:
    """Note that the key was used."""
    db.execute("UPDATE api_keys SET last_used_at = ? WHERE id = ?", (now, key.id))
    return replace(key, last_used_at=now)
