"""How the life of a credential is told."""

from __future__ import annotations

from clerk_m2m.backend_api.resources import ApiKey, M2MToken, OAuthAccessToken


def told_life(found: M2MToken | ApiKey | OAuthAccessToken) -> str:
    """Say whether a credential is live, and until when or since when not."""
    if found.revoked:
        return f"revoked: {found.revocation_reason}" if found.revocation_reason else "revoked"
    end = found.expires_at.isoformat(" ", "seconds") if found.expires_at else None
    if found.expired:
        return f"expired at {end}" if end else "expired"
    return f"live until {end}" if end else "live, without an end"
