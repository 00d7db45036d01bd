"""OAuth access tokens: their rows and their JSON. The contract can verify but not create them."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ._ids import random_hex, random_secret
from ._instance import ISSUER, JWT, Instance
from ._m2m_tokens import canonical, expires_at
from ._signing import sign
from ._store import insert, select_one

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class OAuthToken:
    """One row; instants in milliseconds, scopes as JSON text."""

    id: str
    token: str
    token_format: str
    client_id: str
    subject: str
    scopes: str
    revoked: int
    revocation_reason: str | None
    expires_at: int | None
    created_at: int
    updated_at: int

    def is_expired(self, now: int) -> bool:
        """Whether its life is over."""
        return self.expires_at is not None and self.expires_at <= now

    def is_live(self, now: int) -> bool:
        """Neither revoked nor expired."""
        return not self.revoked and not self.is_expired(now)

    def as_json(self, now: int) -> dict[str, Any]:
        """The contract's OAuth access token."""
        return {
            "object": "clerk_idp_oauth_access_token",
            "id": self.id,
            "client_id": self.client_id,
            "subject": self.subject,
            "scopes": json.loads(self.scopes),
            "revoked": bool(self.revoked),
            "revocation_reason": self.revocation_reason,
            "expired": self.is_expired(now),
            "expiration": self.expires_at,
            "created_at": self.created_at,
            "updated_at": self.updated_at,
        }


def issue(
    db: sqlite3.Connection,
    instance: Instance,
    *,
    subject: str,
    scopes: Sequence[str],
    client_id: str,
    token_format: str,
    seconds_until_expiration: float,
) -> OAuthToken:
    """A new token, stored."""
    now = instance.now_ms()
    token_id, end = random_hex("oat_"), expires_at(now, seconds_until_expiration)
    value = random_secret("oat_")
    if token_format == JWT:
        value = _jwt(db, instance, token_id, end, subject, scopes, client_id)
    token = OAuthToken(
        token_id, value, token_format, client_id, subject, canonical(list(scopes)),
        0, None, end, now, now,
    )  # fmt: skip
    insert(db, "oauth_tokens", token)
    return token


def _jwt(
    db: sqlite3.Connection,
    instance: Instance,
    token_id: str,
    end: int | None,
    subject: str,
    scopes: Sequence[str],
    client_id: str,
) -> str:
    if end is None:
        raise ValueError("a JWT cannot live for ever")
    now = int(instance.now())
    claims = {
        "iss": ISSUER,
        "sub": subject,
        "client_id": client_id,
        "scope": " ".join(scopes),
        "jti": token_id,
        "exp": math.ceil(end / 1000),
        "iat": now,
        "nbf": now,
    }
    return sign(instance.keys(db)[0], claims, {"typ": "at+jwt"})


def find_by_token(db: sqlite3.Connection, token: str) -> OAuthToken | None:
    """The token with this value."""
    return select_one(db, OAuthToken, "oauth_tokens WHERE token = ?", token)


def revoke(db: sqlite3.Connection, token_id: str, reason: str | None, now: int) -> bool:
    """Revoke the token; false when there is none with this id."""
    done = db.execute(
        "UPDATE oauth_tokens SET revoked = 1, revocation_reason = ?, updated_at = ? WHERE id = ?",
        (reason, now, token_id),
    )
    return done.rowcount > 0
