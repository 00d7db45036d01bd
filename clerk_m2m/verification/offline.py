"""Verification of JWTs without a call to Clerk. Imported only where JWTs are configured.

A machine's JWT proves which machine minted it, and nothing else. Its `scopes` and `aud` are custom
claims, whose values the caller chooses. They stay among the claims and never become scopes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeAlias

from clerk_m2m.clock import LEEWAY, Clock, ServerClock
from clerk_m2m.credentials import JWTCredential, UnverifiedJWT, load_object
from clerk_m2m.errors import TokenInvalidError
from clerk_m2m.identity import (
    USER_ID,
    Identity,
    MachineIdentity,
    OAuthIdentity,
    TokenClass,
    freeze,
    read_audience,
)
from clerk_m2m.lookups.invalidations import Invalidations
from clerk_m2m.lookups.verdict import Answer, Verdict
from clerk_m2m.verification.key_set import KeySet
from clerk_m2m.verification.policy import WRONG_AUDIENCE, matches_audience
from clerk_m2m.verification.signature import (
    Claims,
    check_signature,
    check_times,
    key_id,
    read_claims,
)

# After at most 240 s the key set is fetched again, after 60 s more the last verdict has expired: a
# JWT whose key was removed from the set is refused within 300 s.
VERDICT_LIFETIME: Final = 60.0
_REGISTERED: Final = frozenset({"iss", "sub", "exp", "nbf", "iat", "jti"})


class OfflineVerification:
    """Verifies M2M and OAuth JWTs with the instance's keys.

    A JWT cannot be revoked at Clerk, so this process denies those that were invalidated.
    `audience` are the names of this service, compared with those in OAuth tokens (see
    `matches_audience`). This host's clock decides whether a JWT is valid now. `server_clock` adds
    to a refusal how far this host's clock differs from Clerk's.
    """

    def __init__(
        self,
        keys: KeySet,
        *,
        audience: frozenset[str],
        clock: Clock,
        server_clock: ServerClock,
        invalidations: Invalidations,
    ) -> None:
        self._keys = keys
        self._audience = audience
        self._wall = clock.wall
        self._judge = server_clock.judge
        self._invalidations = invalidations

    async def verify(
        self, credential: JWTCredential, digest: bytes, *, timeout: float
    ) -> Answer[Verdict]:
        """Return the identity of a JWT's holder, and how long the verdict may be cached.

        `digest` is that of the whole token. Raises `TokenInvalidError` for an invalid token, and
        `BackendAPIError` or `VerificationUnavailableError` if the keys cannot be fetched.
        """
        jwt = credential.jwt
        # These checks need no key, so they run before a key set is fetched.
        claims = read_claims(credential.claims)
        check_times(claims, self._wall(), self._judge)
        make_identity = READERS[credential.token_class](claims, self._audience)
        check_signature(jwt, await self._keys.find(key_id(jwt), timeout=timeout))
        # The fetch may have taken time: check again. Nothing below awaits, so the token cannot
        # expire or be denied between these checks and the return.
        now = self._wall()
        check_times(claims, now, self._judge)
        self._refuse_denied(claims, digest)
        # Done last: copying the claims of an unverified token costs more than all checks above.
        identity = make_identity()
        lifetime = min(max(claims.expires_at - now, 0.0), VERDICT_LIFETIME)
        return Answer(value=identity, lifetime=lifetime, refresh=False)

    def remaining(self, jwt: UnverifiedJWT) -> float | None:
        """Return for how many seconds a JWT may still be accepted, using the keys in memory only.

        None if none of them verifies its signature: its claims cannot be trusted then.
        """
        try:
            check_signature(jwt, self._keys.at_hand(key_id(jwt)))
            claims = read_claims(load_object(jwt.payload))
        except TokenInvalidError:
            return None
        return claims.expires_at + LEEWAY - self._wall()

    def key_set_age(self) -> float | None:
        """Return the seconds since the key set was last fetched; None if it never was."""
        return self._keys.age()

    async def aclose(self) -> None:
        """Cancel a fetch of the key set that is in progress in this event loop."""
        await self._keys.aclose()

    def _refuse_denied(self, claims: Claims, digest: bytes) -> None:
        if self._invalidations.deny(
            digest=digest,
            token_id=claims.token_id,
            machine_id=claims.subject,
            issued_at=claims.issued_at,
        ):
            raise TokenInvalidError("The JWT was invalidated at this service.")


def _read_machine(claims: Claims, _audience: frozenset[str]) -> _MakeIdentity:
    return partial(_machine, claims)


def _read_oauth(claims: Claims, audience: frozenset[str]) -> _MakeIdentity:
    grant = _read_grant(claims)
    if not matches_audience(grant.audience, audience):
        raise TokenInvalidError(WRONG_AUDIENCE)
    return partial(_oauth, claims, grant)


def _machine(claims: Claims) -> MachineIdentity:
    return MachineIdentity(
        token_id=claims.token_id,
        token_format="jwt",
        subject=claims.subject,
        claims=_custom(claims),
        expires_at=claims.expires_at,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Grant:
    """The grant in an OAuth access token; each claim's type is checked (RFC 9068 section 2.2)."""

    client_id: str
    scopes: frozenset[str]
    audience: tuple[str, ...]
    actor: dict[str, Any] | None


def _read_grant(claims: Claims) -> _Grant:
    client_id, actor = claims.all.get("client_id", ""), claims.all.get("act")
    if not isinstance(client_id, str):
        raise TokenInvalidError("The JWT's client_id is not a string.")
    if not USER_ID.fullmatch(claims.subject):
        raise TokenInvalidError("The JWT's subject is not a user.")
    if "act" in claims.all and not isinstance(actor, dict):  # RFC 8693 section 4.1
        raise TokenInvalidError("The JWT's act is not an object.")
    return _Grant(
        client_id=client_id, scopes=_scopes(claims), audience=_audience(claims), actor=actor
    )


def _scopes(claims: Claims) -> frozenset[str]:
    """Read `scp` (a string or a list) first, as Clerk's SDK does; else `scope` (a string)."""
    if "scp" in claims.all:
        value = claims.all["scp"]
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return frozenset(value)
    else:
        value = claims.all.get("scope", "")
    if not isinstance(value, str):
        raise TokenInvalidError("The JWT's scp or scope claim has the wrong type.")
    return frozenset(value.split())


def _audience(claims: Claims) -> tuple[str, ...]:
    if "aud" not in claims.all:
        return ()
    audience = read_audience(claims.all["aud"])
    if audience is None:
        raise TokenInvalidError("The JWT's aud is neither a string nor a list of strings.")
    return audience


def _oauth(claims: Claims, grant: _Grant) -> OAuthIdentity:
    return OAuthIdentity(
        token_id=claims.token_id,
        client_id=grant.client_id,
        subject=claims.subject,
        scopes=grant.scopes,
        audience=grant.audience,
        actor=freeze(grant.actor),
        claims=_custom(claims),
        expires_at=claims.expires_at,
    )


def _custom(claims: Claims) -> Mapping[str, Any]:
    custom: Mapping[str, Any] = freeze(
        {name: value for name, value in claims.all.items() if name not in _REGISTERED}
    )
    return custom


_MakeIdentity: TypeAlias = Callable[[], Identity]

# One row for each kind of JWT: a function that checks its claims before a key is fetched. It
# returns the function that makes the identity after the signature is verified.
READERS: Final[Mapping[TokenClass, Callable[[Claims, frozenset[str]], _MakeIdentity]]] = {
    TokenClass.M2M_JWT: _read_machine,
    TokenClass.OAUTH_JWT: _read_oauth,
}
