"""Verification at Clerk's endpoints: a credential to an identity, or a definitive no.

A 404, or a 400 for a well-formed credential, is a definitive no; so is a 200 that says `revoked`,
`expired` or `active: false` (the contract leaves open which of them comes). Everything else that is
not an identity raises, and is never kept.
"""

from __future__ import annotations

from collections.abc import Awaitable
from datetime import datetime
from math import inf

from clerk_m2m.backend_api.client import ClerkClient
from clerk_m2m.backend_api.resources import ApiKey, M2MToken, OAuthAccessToken
from clerk_m2m.clock import LEEWAY, Clock
from clerk_m2m.credentials import TokenClass, classify
from clerk_m2m.errors import InvalidRequestError, NotFoundError
from clerk_m2m.identity import ApiKeyIdentity, Identity, MachineIdentity, OAuthIdentity
from clerk_m2m.lookups.verdict import Answer, Refused, Verdict
from clerk_m2m.observe.counters import Stats
from clerk_m2m.secret import Secret
from clerk_m2m.verification.policy import WRONG_AUDIENCE, matches_audience


class EndpointVerifier:
    """Asks Clerk about opaque credentials of the three types. Each question is billed.

    `audience` is whom OAuth tokens must be meant for.
    """

    def __init__(
        self, client: ClerkClient, *, audience: frozenset[str], clock: Clock, stats: Stats
    ) -> None:
        self._client = client
        self._audience = audience
        self._clock = clock
        self._stats = stats

    def ask(self, token: str | Secret, refresh: bool) -> Awaitable[Answer[Verdict]]:
        """Give Clerk's verdict; raises `BackendAPIError` where there is none."""
        # A refresh brings the text itself. Nothing below may have it in the locals of a frame.
        return self._verdict(Secret(token), refresh)

    async def _verdict(self, token: Secret, refresh: bool) -> Answer[Verdict]:
        try:
            record = await self._ask(token, refresh)
        except (NotFoundError, InvalidRequestError) as exc:
            if exc.status not in (400, 404):
                raise
            self._stats.paid += 1
            return _no("Clerk does not know the credential, or it may not be used here.")
        self._stats.paid += 1
        if record is None:
            return _no("The credential is not active.")
        if record.revoked:
            return _no("The credential was revoked.")
        remaining = self._remaining(record.expires_at)
        if record.expired or remaining <= -LEEWAY:
            return _no("The credential has expired.")
        if not self._is_meant_for_us(record):
            return _no(WRONG_AUDIENCE)
        return Answer(value=_identity(record), life=max(remaining, 0.0))

    async def _ask(
        self, token: Secret, refresh: bool
    ) -> M2MToken | ApiKey | OAuthAccessToken | None:
        match classify(token.reveal()):
            case TokenClass.M2M_OPAQUE:
                return await self._client.m2m_tokens.verify(token, background=refresh)
            case TokenClass.API_KEY:
                return await self._client.api_keys.verify(token, background=refresh)
            case _:
                return await self._client.oauth_access_tokens.verify(token, background=refresh)

    def _is_meant_for_us(self, record: M2MToken | ApiKey | OAuthAccessToken) -> bool:
        if not isinstance(record, OAuthAccessToken):
            return True
        return matches_audience(record.audience, self._audience)

    def _remaining(self, expires_at: datetime | None) -> float:
        """Seconds of life left by the wall clock, read this once."""
        return inf if expires_at is None else expires_at.timestamp() - self._clock.wall()


def _no(detail: str) -> Answer[Verdict]:
    return Answer(value=Refused(detail), negative=True)


def _identity(record: M2MToken | ApiKey | OAuthAccessToken) -> Identity:
    scopes = frozenset(record.scopes)
    expires_at = record.expires_at.timestamp() if record.expires_at else None
    match record:
        case M2MToken():
            return MachineIdentity(
                token_id=record.id,
                token_format="opaque",
                subject=record.subject,
                scopes=scopes,
                claims=record.claims,
                expires_at=expires_at,
            )
        case ApiKey():
            return ApiKeyIdentity(
                token_id=record.id,
                name=record.name,
                subject=record.subject,
                scopes=scopes,
                claims=record.claims,
                expires_at=expires_at,
            )
        case OAuthAccessToken():
            return OAuthIdentity(
                token_id=record.id,
                client_id=record.client_id,
                audience=record.audience,
                actor=record.actor,
                subject=record.subject,
                scopes=scopes,
                expires_at=expires_at,
            )
