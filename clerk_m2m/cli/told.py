"""Describes the state of a credential: live, expired or revoked."""

from __future__ import annotations

from clerk_m2m.backend_api.resources import ApiKey, M2MToken, OAuthAccessToken


def told_life(found: M2MToken | ApiKey | OAuthAccessToken) -> str:
    """Return whether a credential is live, and when it expires or expired, as text."""
    if found.revoked:
        return f"revoked: {found.revocation_reason}" if found.revocation_reason else "revoked"
    end = found.expires_at.isoformat(" ", "seconds") if found.expires_at else None
    if found.expired:
        return f"expired at {end}" if end else "expired"
    return f"live until {end}" if end else "live, without an end"
