"""Verification of opaque credentials at Clerk: returns an identity or a negative verdict.

A 404, or a 400 for a well-formed credential, is a negative verdict. So is a 200 that says
`revoked`, `expired` or `active: false` (Clerk's contract does not say which of them is used). Every
other answer that contains no identity raises, and is never cached.

The remaining life of an opaque credential is measured by Clerk's clock, never by this host's: it is
the time from the `Date` of the answer to the credential's expiry. If the answer has no `Date`, or
has an `Age` (an HTTP cache sent it), the remaining life is unknown. Then Clerk's `expired: false`
is believed, and the verdict is kept for `cache_ttl` at most, in an outage too.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from functools import lru_cache
from math import inf
from typing import Any, Final, TypeAlias

from clerk_m2m.backend_api.api_keys import verify_api_key
from clerk_m2m.backend_api.calls import Answered, BackendAPI
from clerk_m2m.backend_api.key_source import KeySource
from clerk_m2m.backend_api.m2m_tokens import verify_m2m_token
from clerk_m2m.backend_api.oauth_tokens import verify_oauth_access_token
from clerk_m2m.backend_api.resources import ApiKey, M2MToken, OAuthAccessToken
from clerk_m2m.clock import DATE_RESOLUTION, LEEWAY, Clock, read_date
from clerk_m2m.credentials import OpaqueCredential
from clerk_m2m.errors import InvalidRequestError, NotFoundError
from clerk_m2m.identity import (
    ApiKeyIdentity,
    Identity,
    MachineIdentity,
    OAuthIdentity,
    TokenClass,
    freeze,
    read_claims,
)
from clerk_m2m.lookups.single_flight import Demand
from clerk_m2m.lookups.verdict import Answer, Refused, Verdict
from clerk_m2m.observe.counters import Stats
from clerk_m2m.verification.policy import WRONG_AUDIENCE, matches_audience

_Resource: TypeAlias = M2MToken | ApiKey | OAuthAccessToken
_Verify: TypeAlias = Callable[..., Awaitable[Answered[Any]]]

# One row for each kind of opaque credential: the operation that verifies it.
OPERATIONS: Final[Mapping[TokenClass, _Verify]] = {
    TokenClass.M2M_OPAQUE: verify_m2m_token,
    TokenClass.API_KEY: verify_api_key,
    TokenClass.OAUTH_OPAQUE: verify_oauth_access_token,
}


def verifying_key(api: BackendAPI, kind: TokenClass) -> KeySource:
    """Return the source of the key that authenticates the verification of this token class."""
    return api.verifying_key() if kind is TokenClass.M2M_OPAQUE else api.instance_key()


class OnlineVerification:
    """Asks Clerk to verify opaque credentials of the three types. Clerk bills each call.

    `audience` are the names of this service, compared with those in OAuth tokens (see
    `matches_audience`). `cache_ttl` is the longest time, in seconds, that a verdict is kept if the
    credential's expiry is not known.
    """

    def __init__(
        self,
        api: BackendAPI,
        *,
        audience: frozenset[str],
        cache_ttl: float,
        clock: Clock,
        stats: Stats,
    ) -> None:
        self._api = api
        self._audience = audience
        self._cache_ttl = cache_ttl
        self._now = clock.monotonic
        self._stats = stats

    async def __call__(self, credential: OpaqueCredential, demand: Demand) -> Answer[Verdict]:
        """Return Clerk's verdict; raises `BackendAPIError` if Clerk gives none."""
        verify, asked_at = OPERATIONS[credential.token_class], self._now()
        try:
            answered = await verify(self._api, credential.token, demand=demand)
        except (NotFoundError, InvalidRequestError) as exc:
            if exc.status not in (400, 404):
                raise
            self._stats.paid += 1
            return _no(credential, self._unknown(credential))
        self._stats.paid += 1
        return self._verdict(credential, answered, asked_at)

    def _verdict(
        self, credential: OpaqueCredential, answered: Answered[_Resource | None], asked_at: float
    ) -> Answer[Verdict]:
        found = answered.value
        if found is None:
            return _no(credential, "The credential is not active.")
        remaining = _remaining(found.expires_at, answered.headers)
        detail = why_refused(found, remaining, self._audience)
        if detail is not None:
            return _no(credential, detail)
        return Answer(value=identity_of(found), lifetime=self._lifetime(remaining, asked_at))

    def _unknown(self, credential: OpaqueCredential) -> str:
        if credential.token_class is TokenClass.M2M_OPAQUE and self._api.has_machine_key:
            return "The credential is unknown to Clerk, or minted without access to this service."
        return "Clerk does not know the credential, or it may not be used here."

    def _lifetime(self, remaining: float | None, asked_at: float) -> float:
        """Return for how many seconds a verdict may be used, so that it ends with its credential.

        Clerk may have answered just after the call started, so the duration of the call is
        subtracted.
        """
        if remaining is None:
            return self._cache_ttl
        return max(remaining - DATE_RESOLUTION - (self._now() - asked_at), 0.0)


def why_refused(found: _Resource, remaining: float | None, audience: frozenset[str]) -> str | None:
    """Return why a credential that Clerk described is refused; None if it is accepted.

    `remaining` is the number of seconds to its expiry by Clerk's clock, None if unknown.
    """
    if found.revoked:
        return "The credential was revoked."
    if found.expired or (remaining is not None and remaining <= -LEEWAY):
        return "The credential has expired."
    if isinstance(found, OAuthAccessToken) and not matches_audience(found.audience, audience):
        return WRONG_AUDIENCE
    return None


def _remaining(expires_at: datetime | None, headers: Mapping[str, str]) -> float | None:
    """Return the seconds from the answer's `Date` to expiry; None without a usable `Date`."""
    if expires_at is None:
        return inf
    answered_at = read_date(headers.get("date", ""), headers.get("age", ""))
    return None if answered_at is None else expires_at.timestamp() - answered_at


def _no(credential: OpaqueCredential, detail: str) -> Answer[Verdict]:
    return Answer(value=Refused(detail, credential.token_class), negative=True)


@lru_cache(maxsize=1024)
def _scopes(scopes: tuple[str, ...]) -> frozenset[str]:
    """Return the scopes as a set. Equal scopes share one set, which is 1/4 of a cache entry."""
    return frozenset(scopes)


def identity_of(found: _Resource) -> Identity:
    """Return the identity of the holder of an accepted credential."""
    scopes = _scopes(found.scopes)
    expires_at = found.expires_at.timestamp() if found.expires_at else None
    match found:
        case M2MToken():
            return MachineIdentity(
                token_id=found.id,
                token_format="opaque",
                subject=found.subject,
                scopes=scopes,
                claims=read_claims(found.claims),
                expires_at=expires_at,
            )
        case ApiKey():
            return ApiKeyIdentity(
                token_id=found.id,
                name=found.name,
                subject=found.subject,
                scopes=scopes,
                claims=read_claims(found.claims),
                expires_at=expires_at,
            )
        case OAuthAccessToken():
            return OAuthIdentity(
                token_id=found.id,
                client_id=found.client_id,
                audience=found.audience,
                actor=freeze(found.actor),
                subject=found.subject,
                scopes=scopes,
                expires_at=expires_at,
            )
