"""M2M tokens: minting, the rows of the opaque ones, and their JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from clerk_m2m.emulator.ids import M2M_TOKEN_ID, random_hex, random_secret
from clerk_m2m.emulator.instance import AS_ERROR, ISSUER, JWT, OPAQUE, Instance, TokenFormat
from clerk_m2m.emulator.machines import Machine, callee_ids, find_machine
from clerk_m2m.emulator.responses import InvalidField, Refusal
from clerk_m2m.emulator.signing import CATEGORY_M2M, sign, verified
from clerk_m2m.emulator.store import count, insert, select, select_one

if TYPE_CHECKING:
    import sqlite3

# The last instant that a JavaScript date can hold; nothing can expire later.
LAST_INSTANT_MS = 8_640_000_000_000_000
RESERVED_CLAIMS = frozenset({"iss", "sub", "exp", "nbf", "iat", "jti"})


@dataclass(frozen=True, slots=True, kw_only=True)
class MintRequest:
    """What the caller of createM2MToken asks for; durations are seconds."""

    token_format: TokenFormat = OPAQUE
    seconds_until_expiration: float | None = None
    claims: Any = None
    min_remaining_ttl_seconds: int | None = None


@dataclass(frozen=True, slots=True)
class M2MToken:
    """One row; instants in milliseconds, claims and scopes as JSON text."""

    id: str
    token: str
    subject: str
    claims: str
    scopes: str
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


def canonical(value: Any) -> str:
    """JSON text that is the same for equal values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def expires_at(now: int, seconds: float) -> int | None:
    """The instant this many seconds from now; infinity is never."""
    if math.isinf(seconds):
        return None
    instant = now + seconds * 1000
    if instant > LAST_INSTANT_MS:
        name = "seconds_until_expiration"
        raise InvalidField(name, "form_param_value_too_large", f"{name} is too far away")
    return int(instant)


def mint(
    db: sqlite3.Connection, instance: Instance, machine: Machine, request: MintRequest
) -> M2MToken:
    """A token of this machine: a new one, or a live one where the request lets that be reused."""
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
    db: sqlite3.Connection, now: int, machine: Machine, lifetime: float, claims: Any
) -> M2MToken:
    return M2MToken(
        id=random_hex("mt_"),
        token=random_secret("mt_"),
        subject=machine.id,
        claims=canonical(claims),
        scopes=canonical(callee_ids(db, machine.id)),
        revoked=0,
        revocation_reason=None,
        expires_at=expires_at(now, lifetime),
        last_used_at=None,
        created_at=now,
        updated_at=now,
    )


def _reusable(
    db: sqlite3.Connection, wanted: M2MToken, min_remaining: int, lifetime: float
) -> M2MToken | None:
    name = "min_remaining_ttl_seconds"
    if min_remaining >= lifetime:
        message = f"{name} must be less than the token's lifetime"
        raise InvalidField(name, "form_param_value_invalid", message)
    return select_one(
        db,
        M2MToken,
        "m2m_tokens WHERE subject = ? AND claims = ? AND scopes = ? AND NOT revoked"
        " AND (expires_at IS NULL OR (expires_at > ? AND expires_at >= ?))"
        " ORDER BY expires_at IS NULL DESC, expires_at DESC LIMIT 1",
        wanted.subject,
        wanted.claims,
        wanted.scopes,
        wanted.created_at,
        wanted.created_at + min_remaining * 1000,
    )


def _signed(db: sqlite3.Connection, instance: Instance, token: M2MToken, claims: Any) -> M2MToken:
    """The same token as a JWT; it is stateless, so nothing is stored."""
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


def find_by_token(db: sqlite3.Connection, token: str) -> M2MToken | None:
    """The stored token with this value."""
    return select_one(db, M2MToken, "m2m_tokens WHERE token = ?", token)


def find_by_id(db: sqlite3.Connection, token_id: str) -> M2MToken | None:
    """The stored token with this id."""
    return select_one(db, M2MToken, "m2m_tokens WHERE id = ?", token_id)


def read_jwt(db: sqlite3.Connection, instance: Instance, token: str) -> M2MToken | None:
    """What a live M2M JWT of this instance says; the scopes are none, for nobody attests any."""
    checked = verified(token, instance.keys(db), instance.now())
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
    return M2MToken(
        id=claims["jti"],
        token=token,
        subject=subject,
        claims=canonical(custom or None),
        scopes="[]",
        revoked=0,
        revocation_reason=None,
        expires_at=int(claims["exp"] * 1000),
        last_used_at=None,
        created_at=issued_at,
        updated_at=issued_at,
    )


def list_tokens(
    db: sqlite3.Connection,
    *,
    subject: str,
    revoked: bool,
    expired: bool,
    now: int,
    limit: int,
    offset: int,
) -> tuple[list[M2MToken], int]:
    """A page of a machine's tokens, newest first; dead ones only where asked for."""
    found = (
        "m2m_tokens WHERE subject = ? AND (? OR NOT revoked)"
        " AND (? OR expires_at IS NULL OR expires_at > ?)"
    )
    given = (subject, revoked, expired, now)
    page = f"{found} ORDER BY seq DESC LIMIT {limit} OFFSET {offset}"
    return select(db, M2MToken, page, given), count(db, found, given)


def revoke(db: sqlite3.Connection, token: M2MToken, reason: str | None, now: int) -> M2MToken:
    """Revoke the token; one that is revoked already stays as it is."""
    if token.revoked:
        return token
    db.execute(
        "UPDATE m2m_tokens SET revoked = 1, revocation_reason = ?, updated_at = ? WHERE id = ?",
        (reason, now, token.id),
    )
    return replace(token, revoked=1, revocation_reason=reason, updated_at=now)


def touch(db: sqlite3.Connection, token: M2MToken, now: int) -> M2MToken:
    """Note that the token was used."""
    db.execute("UPDATE m2m_tokens SET last_used_at = ? WHERE id = ?", (now, token.id))
    return replace(token, last_used_at=now)


def refuse_dead(instance: Instance, *, live: bool) -> None:
    """404 for a dead credential, unless the emulator was told to answer 200 with its flags.

    The contract does not settle which of the two the service does.
    """
    if not live and instance.dead_token_answer == AS_ERROR:
        raise Refusal(404, "resource_not_found", "Token not found")
