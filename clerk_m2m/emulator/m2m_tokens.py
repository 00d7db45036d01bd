"""M2M tokens: minting, the rows of the opaque ones, and their JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from clerk_m2m.emulator.credentials import TrackedRow, canonical, expires_at
from clerk_m2m.emulator.ids import M2M_TOKEN_ID, random_hex, random_secret
from clerk_m2m.emulator.instance import ISSUER, JWT, OPAQUE, Instance, TokenFormat
from clerk_m2m.emulator.machines import MachineRow, callee_ids, find_machine
from clerk_m2m.emulator.responses import InvalidField
from clerk_m2m.emulator.signing import CATEGORY_M2M, made_signing_keys, sign, verified
from clerk_m2m.emulator.store import count, insert, select, select_one

if TYPE_CHECKING:
    import sqlite3

RESERVED_CLAIMS = frozenset({"iss", "sub", "exp", "nbf", "iat", "jti"})


@dataclass(frozen=True, slots=True, kw_only=True)
class MintRequest:
    """The body of a createM2MToken request; durations are seconds."""

    token_format: TokenFormat = OPAQUE
    seconds_until_expiration: float | None = None
    claims: Any = None
    min_remaining_ttl_seconds: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class M2MTokenRow(TrackedRow):
    """One row; instants in milliseconds, claims and scopes as JSON text."""

    table: ClassVar[str] = "m2m_tokens"
    value_column: ClassVar[str] = "token"

    token: str
    claims: str

    def as_json(self, now: int) -> dict[str, Any]:
        """The contract's M2M token, without the token itself."""
        return {
            "object": "machine_to_machine_token",
            "id": self.id,
            "subject": self.subject,
            "claims": json.loads(self.claims),
            "scopes": json.loads(self.scopes),
            "revoked": bool(self.revoked),
            "revocation_reason": self.revocation_reason,
            "expired": self.is_expired(now),
            "expiration": self.expires_at,
            "last_used_at": self.last_used_at,
            "created_at": self.created_at,
            "updated_at": self.updated_at,
        }


def mint(
    db: sqlite3.Connection, instance: Instance, machine: MachineRow, request: MintRequest
) -> M2MTokenRow:
    """A token of this machine: a new one, or a live one if the request allows its reuse."""
    lifetime = request.seconds_until_expiration
    if lifetime is None:
        lifetime = machine.default_token_ttl
    token = _unsigned(db, instance.now_ms(), machine, lifetime, request.claims)
    if request.token_format == JWT:
        return _signed(db, instance, token, request.claims)
    if request.min_remaining_ttl_seconds is not None:
        reused = _reusable(db, token, request.min_remaining_ttl_seconds, lifetime)
        if reused is not None:
            return reused
    insert(db, "m2m_tokens", token)
    return token


def _unsigned(
    db: sqlite3.Connection, now: int, machine: MachineRow, lifetime: float, claims: Any
) -> M2MTokenRow:
    return M2MTokenRow(
        id=random_hex("mt_"),
        token=random_secret("mt_"),
        subject=machine.id,
        claims=canonical(claims),
        scopes=canonical(callee_ids(db, machine.id)),
        expires_at=expires_at(now, lifetime),
        created_at=now,
        updated_at=now,
    )


def _reusable(
    db: sqlite3.Connection, wanted: M2MTokenRow, min_remaining: int, lifetime: float
) -> M2MTokenRow | None:
    name = "min_remaining_ttl_seconds"
    if min_remaining >= lifetime:
        message = f"{name} must be less than the token's lifetime"
        raise InvalidField(name, "form_param_value_invalid", message)
    return select_one(
        db,
        M2MTokenRow,
        "m2m_tokens WHERE subject = ? AND claims = ? AND scopes = ? AND NOT revoked"
        " AND (expires_at IS NULL OR (expires_at > ? AND expires_at >= ?))"
        " ORDER BY expires_at IS NULL DESC, expires_at DESC LIMIT 1",
        wanted.subject,
        wanted.claims,
        wanted.scopes,
        wanted.created_at,
        wanted.created_at + min_remaining * 1000,
    )


def _signed(
    db: sqlite3.Connection, instance: Instance, token: M2MTokenRow, claims: Any
) -> M2MTokenRow:
    """The same token as a JWT. A JWT is stateless, so nothing is stored."""
    if claims is not None and not isinstance(claims, Mapping):
        message = "claims must be an object where token_format is jwt"
        raise InvalidField("claims", "form_param_format_invalid", message)
    custom = dict(claims or {})
    taken = RESERVED_CLAIMS & custom.keys()
    if taken:
        message = f"claims must not contain {', '.join(sorted(taken))}"
        raise InvalidField("claims", "form_param_value_invalid", message)
    issued_at = token.created_at // 1000
    if token.expires_at is None:
        raise ValueError("a JWT cannot live for ever")
    registered = {
        "iss": ISSUER,
        "sub": token.subject,
        "exp": math.ceil(token.expires_at / 1000),
        "nbf": issued_at,
        "iat": issued_at,
        "jti": token.id,
    }
    key = instance.keys(db)[0]
    encoded = sign(key, custom | registered, {"cat": CATEGORY_M2M})
    return replace(token, token=encoded)


def read_jwt(db: sqlite3.Connection, instance: Instance, token: str) -> M2MTokenRow | None:
    """The answer for a live M2M JWT. It has no scopes, because Clerk attests none for a JWT."""
    checked = verified(token, made_signing_keys(db), instance.now())
    if checked is None:
        return None
    header, claims = checked
    subject = claims["sub"]
    known = isinstance(subject, str) and find_machine(db, subject) is not None
    right_kind = header.get("cat", CATEGORY_M2M) == CATEGORY_M2M
    if not (known and right_kind and M2M_TOKEN_ID.fullmatch(str(claims["jti"]))):
        return None
    custom = {name: value for name, value in claims.items() if name not in RESERVED_CLAIMS}
    issued_at = int(claims.get("iat", 0)) * 1000
    return M2MTokenRow(
        id=claims["jti"],
        token=token,
        subject=subject,
        claims=canonical(custom or None),
        scopes="[]",
        expires_at=int(claims["exp"] * 1000),
        created_at=issued_at,
        updated_at=issued_at,
    )


def select_tokens(
    db: sqlite3.Connection,
    *,
    subject: str,
    revoked: bool,
    expired: bool,
    now: int,
    limit: int,
    offset: int,
) -> tuple[list[M2MTokenRow], int]:
    """A page of a machine's tokens, newest first. Revoked and expired ones only on request."""
    found = (
        "m2m_tokens WHERE subject = ? AND (? OR NOT revoked)"
        " AND (? OR expires_at IS NULL OR expires_at > ?)"
    )
    given = (subject, revoked, expired, now)
    page = f"{found} ORDER BY seq DESC LIMIT {limit} OFFSET {offset}"
    return select(db, M2MTokenRow, page, given), count(db, found, given)
