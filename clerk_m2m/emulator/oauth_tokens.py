"""OAuth access tokens: their rows and their JSON. The contract cannot create them.

The contract says that all other instants are milliseconds. It does not say so for these, and its
example is in seconds. So `Emulator(oauth_instants=…)` is a choice. The contract's schema has no
`aud` and no `act` and is closed, so the answer has them only for a token that was made with them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from clerk_m2m.emulator.credentials import CredentialRow, canonical, expires_at
from clerk_m2m.emulator.ids import random_hex, random_secret
from clerk_m2m.emulator.instance import ISSUER, JWT, SECONDS, Instance, OAuthInstants
from clerk_m2m.emulator.signing import sign
from clerk_m2m.emulator.store import insert

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class OAuthTokenRow(CredentialRow):
    """One row; instants in milliseconds, scopes, audience and actor as JSON text."""

    table: ClassVar[str] = "oauth_tokens"
    value_column: ClassVar[str] = "token"

    token: str
    token_format: str
    client_id: str
    audience: str | None
    actor: str | None

    def as_json(self, now: int, instants: OAuthInstants) -> dict[str, Any]:
        """The contract's OAuth access token, plus `aud` and `act` if the token has them."""
        unit = 1000 if instants == SECONDS else 1
        end = self.expires_at
        return {
            "object": "clerk_idp_oauth_access_token",
            "id": self.id,
            "client_id": self.client_id,
            "subject": self.subject,
            "scopes": json.loads(self.scopes),
            "revoked": bool(self.revoked),
            "revocation_reason": self.revocation_reason,
            "expired": self.is_expired(now),
            "expiration": None if end is None else end // unit,
            "created_at": self.created_at // unit,
            "updated_at": self.updated_at // unit,
            **self.claims(),
        }

    @property
    def oauth_application_id(self) -> str:
        """The OAuth application that the token was issued to: each application has one client."""
        return f"oauthapp_{self.client_id.removeprefix('client_')}"

    def claims(self) -> dict[str, Any]:
        """Audience (RFC 7519) and actor (RFC 8693), each only if the token has one."""
        given = {"aud": self.audience, "act": self.actor}
        return {name: json.loads(text) for name, text in given.items() if text is not None}


def issue(
    db: sqlite3.Connection,
    instance: Instance,
    *,
    subject: str,
    scopes: Sequence[str],
    client_id: str,
    token_format: str,
    seconds_until_expiration: float,
    audience: str | Sequence[str] | None,
    actor: Mapping[str, Any] | None,
) -> OAuthTokenRow:
    """A new token, stored."""
    now = instance.now_ms()
    token = OAuthTokenRow(
        id=random_hex("oat_"),
        token=random_secret("oat_"),
        token_format=token_format,
        client_id=client_id,
        subject=subject,
        scopes=canonical(list(scopes)),
        audience=_audience_text(audience),
        actor=_actor_text(actor),
        expires_at=expires_at(now, seconds_until_expiration),
        created_at=now,
        updated_at=now,
    )
    if token_format == JWT:
        token = replace(token, token=_jwt(db, instance, token))
    insert(db, "oauth_tokens", token)
    return token


def _audience_text(audience: object) -> str | None:
    if audience is None:
        return None
    items = [audience] if isinstance(audience, str) else audience
    if not isinstance(items, list | tuple) or not all(isinstance(item, str) for item in items):
        raise ValueError("audience must be a string or a list of strings")
    return canonical(audience)


def _actor_text(actor: object) -> str | None:
    if actor is None:
        return None
    if not isinstance(actor, Mapping):
        raise ValueError("actor must be an object")
    return canonical(dict(actor))


def _jwt(db: sqlite3.Connection, instance: Instance, token: OAuthTokenRow) -> str:
    if token.expires_at is None:
        raise ValueError("a JWT cannot live for ever")
    now = int(instance.now())
    claims = {
        "iss": ISSUER,
        "sub": token.subject,
        "client_id": token.client_id,
        "scope": " ".join(json.loads(token.scopes)),
        "jti": token.id,
        "exp": math.ceil(token.expires_at / 1000),
        "iat": now,
        "nbf": now,
        **token.claims(),
    }
    return sign(instance.keys(db)[0], claims, {"typ": "at+jwt"})
