"""Verifies a credential at Clerk, or a JWT with the instance's key set.

Does not decide which machine may call which.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, assert_never

from clerk_m2m.backend_api.client import ClerkClient
from clerk_m2m.backend_api.jwks import get_jwks
from clerk_m2m.backend_api.opening import open_api
from clerk_m2m.backend_api.resources import ApiKey, M2MToken, OAuthAccessToken
from clerk_m2m.cli.instance import TIMEOUT, Instance
from clerk_m2m.cli.program import CommandError
from clerk_m2m.cli.told import told_life
from clerk_m2m.clock import Clock, ServerClock
from clerk_m2m.credentials import JWTCredential, OpaqueCredential, parse
from clerk_m2m.errors import InvalidRequestError, NotFoundError, TokenInvalidError
from clerk_m2m.identity import Identity, TokenClass, read_audience
from clerk_m2m.lookups.invalidations import Invalidations
from clerk_m2m.lookups.verdict import Refused
from clerk_m2m.observe.reporter import Reporter
from clerk_m2m.secret import Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The result for a credential; `id` and `subject` are None if they are not verified."""

    what: str
    live: bool
    life: str
    id: str | None = None
    subject: str | None = None
    scopes: tuple[str, ...] = ()
    expires_at: datetime | None = None

    @property
    def scope_text(self) -> str:
        """Return the scopes as one line."""
        return ", ".join(self.scopes) or "none"

    def as_json(self) -> dict[str, Any]:
        """Return the result as the members of a JSON object."""
        return {
            "what": self.what,
            "live": self.live,
            "life": self.life,
            "id": self.id,
            "subject": self.subject,
            "scopes": list(self.scopes),
            "expires_at": self.expires_at.isoformat() if self.expires_at else None,
        }


async def verify_credential(instance: Instance, token: Secret) -> Found:
    """Verify a credential; raises `CommandError` or `BackendAPIError` if that is not possible."""
    try:
        credential = parse(token)
    except TokenInvalidError as exc:
        return Found(what=str(exc.token_class), live=False, life="not a Clerk credential")
    match credential:
        case OpaqueCredential():
            return await _verify_opaque(instance, credential)
        case JWTCredential():
            return await _verify_jwt(instance, credential)
        case _:
            assert_never(credential)


async def ask_clerk(
    clerk: ClerkClient, credential: OpaqueCredential
) -> M2MToken | ApiKey | OAuthAccessToken | None:
    """Ask Clerk about an opaque credential, billed; None if Clerk does not know it."""
    try:
        match credential.token_class:
            case TokenClass.M2M_OPAQUE:
                return await clerk.m2m_tokens.verify(credential.token)
            case TokenClass.API_KEY:
                return await clerk.api_keys.verify(credential.token)
            case _:
                return await clerk.oauth_access_tokens.verify(credential.token)
    except (NotFoundError, InvalidRequestError):
        return None


async def _verify_opaque(instance: Instance, credential: OpaqueCredential) -> Found:
    what = str(credential.token_class)
    if credential.token_class is not TokenClass.M2M_OPAQUE and instance.secret_key is None:
        raise CommandError(
            f"Clerk verifies an {what} with the instance's key: set CLERK_SECRET_KEY."
        )
    async with instance.client() as clerk:
        found = await ask_clerk(clerk, credential)
    if found is None:
        life = "unknown to this instance, revoked or expired: Clerk does not tell which"
        if instance.machine_secret_key is not None:
            life = (
                "unknown, revoked, expired, or minted without access to the machine of "
                "CLERK_MACHINE_SECRET_KEY: with CLERK_SECRET_KEY more can be told"
            )
        return Found(what=what, live=False, life=life)
    return Found(
        what=what,
        live=found.live,
        life=told_life(found),
        id=found.id,
        subject=found.subject,
        scopes=found.scopes,
        expires_at=found.expires_at,
    )


async def _verify_jwt(instance: Instance, credential: JWTCredential) -> Found:
    # PyJWT and cryptography are slow to import, and no other command needs them.
    from clerk_m2m.verification.offline import READERS

    what = str(credential.token_class)
    if credential.token_class not in READERS:
        return Found(what=what, live=False, life="not a machine credential")
    if instance.secret_key is None:
        raise CommandError(
            "The keys that verify JWTs need the instance's key: set CLERK_SECRET_KEY."
        )
    try:
        identity = await _verified(instance, credential)
    except TokenInvalidError as exc:
        return Found(what=what, live=False, life=exc.detail)
    end = None
    if identity.expires_at is not None:
        end = datetime.fromtimestamp(identity.expires_at, UTC)
    return Found(
        what=what,
        live=True,
        life=f"live until {end.isoformat(' ', 'seconds')}" if end else "live",
        id=identity.token_id,
        subject=identity.subject,
        scopes=tuple(sorted(identity.scopes)),
        expires_at=end,
    )


async def _verified(instance: Instance, credential: JWTCredential) -> Identity:
    from clerk_m2m.verification.key_set import KeySet
    from clerk_m2m.verification.offline import OfflineVerification

    clock = Clock()
    server_clock, reporter = ServerClock(clock), Reporter(clock)
    api = open_api(
        secret_key=instance.secret_key,
        machine_secret_key=None,
        api_url=instance.api_url,
        allow_http=instance.allow_http,
        timeout=TIMEOUT,
        max_inflight=2,
        transport=None,
        server_clock=server_clock,
        reporter=reporter,
    )
    offline = OfflineVerification(
        KeySet(partial(get_jwks, api), clock=clock, reporter=reporter),
        # Any audience is accepted, because this command does not decide about access.
        audience=frozenset(read_audience(credential.claims.get("aud")) or ()),
        clock=clock,
        server_clock=server_clock,
        invalidations=Invalidations(clock),
    )
    try:
        verdict = (await offline.verify(credential, b"", timeout=TIMEOUT)).value
    finally:
        await offline.aclose()
        await api.aclose()
    if isinstance(verdict, Refused):
        raise TokenInvalidError(verdict.detail)
    return verdict
