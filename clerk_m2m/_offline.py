"""Verification without a call: a JWT to an identity. Imported only where JWTs are configured.

A machine's JWT says who minted it, and nothing else that can be relied on: `scopes` and `aud` in it
are custom claims, chosen by the caller. They stay among the claims and never become scopes.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from typing import Any, Final, TypeVar

from clerk_m2m._cache import Answer
from clerk_m2m._clock import LEEWAY, Clock
from clerk_m2m._endpoints import Verdict
from clerk_m2m._jwt import Claims, KeySet, check_signature, check_times, key_id, read_claims
from clerk_m2m.errors import TokenInvalidError
from clerk_m2m.identity import USER_ID, MachineIdentity, OAuthIdentity, freeze
from clerk_m2m.tokens import Credential, TokenClass

logger = logging.getLogger("clerk_m2m")

V = TypeVar("V")

MAX_DENIED: Final = 100_000
# With the key set's 240 s, a key that is taken out is refused within 300 s.
VERDICT_LIFE: Final = 60.0
_REGISTERED: Final = frozenset({"iss", "sub", "exp", "nbf", "iat", "jti"})


class OfflineVerifier:
    """Verifies M2M and OAuth JWTs with the instance's keys, and remembers which are denied.

    A JWT cannot be revoked at Clerk, so this process denies it: by its id for as long as it lives,
    or by its machine for all that were minted until then.
    """

    def __init__(self, keys: KeySet, *, clock: Clock) -> None:
        self._keys = keys
        self._wall = clock.wall
        self._denied_ids: dict[str, None] = {}
        self._denied_machines: dict[str, float] = {}
        self._lock = threading.Lock()

    async def verify(self, credential: Credential, *, within: float) -> Answer[Verdict]:
        """Give the identity of a JWT's holder and how long it may be believed.

        Raises `TokenInvalidError`, or `BackendAPIError` or `VerificationUnavailableError` where the
        keys cannot be had.
        """
        jwt = credential.jwt
        assert jwt is not None  # noqa: S101  the class says that it is one
        # All that can be refused without a key is refused before one is looked up.
        claims = read_claims(credential.claims)
        check_times(claims, self._wall())
        machine = credential.token_class is TokenClass.M2M_JWT
        identity: Verdict = _machine(claims) if machine else _oauth(claims)
        check_signature(jwt, await self._keys.find(key_id(jwt), within=within))
        # From here on nothing waits, so neither the end nor a denial can slip in between.
        now = self._wall()
        check_times(claims, now)
        self._refuse_denied(claims)
        life = min(max(claims.expires_at - now, 0.0), VERDICT_LIFE)
        return Answer(value=identity, life=life, refresh=False)

    def deny_token(self, token_id: str) -> None:
        """Refuse the JWT of this id from now on; the oldest of 100,000 denials gives way."""
        with self._lock:
            _deny(self._denied_ids, token_id, None)

    def deny_machine(self, machine_id: str) -> None:
        """Refuse the JWTs that this machine has minted until now.

        Clerk's clock may be ahead by the leeway, so those of the next 5 s are refused too.
        """
        with self._lock:
            _deny(self._denied_machines, machine_id, self._wall() + LEEWAY)

    async def aclose(self) -> None:
        """End a fetch of the key set under way in this event loop."""
        await self._keys.aclose()

    def _refuse_denied(self, claims: Claims) -> None:
        denied_until = self._denied_machines.get(claims.subject)
        if claims.token_id in self._denied_ids or (
            denied_until is not None and claims.issued_at <= denied_until
        ):
            raise TokenInvalidError("The JWT was invalidated at this service.")


def _deny(denials: dict[str, V], name: str, value: V) -> None:
    denials.pop(name, None)  # a denial that is renewed is the youngest again
    denials[name] = value
    if len(denials) > MAX_DENIED:
        logger.error("More than %d JWTs are denied: the oldest denial was dropped.", MAX_DENIED)
        del denials[next(iter(denials))]


def _machine(claims: Claims) -> MachineIdentity:
    return MachineIdentity(
        token_id=claims.token_id,
        token_format="jwt",
        subject=claims.subject,
        claims=_custom(claims),
        expires_at=claims.expires_at,
    )


def _oauth(claims: Claims) -> OAuthIdentity:
    scope, client_id = claims.all.get("scope", ""), claims.all.get("client_id", "")
    if not (isinstance(scope, str) and isinstance(client_id, str)):
        raise TokenInvalidError("The JWT's scope or client_id is not a string.")
    if not USER_ID.fullmatch(claims.subject):
        raise TokenInvalidError("The JWT's subject is not a user.")
    return OAuthIdentity(
        token_id=claims.token_id,
        client_id=client_id,
        subject=claims.subject,
        scopes=frozenset(scope.split()),
        claims=_custom(claims),
        expires_at=claims.expires_at,
    )


def _custom(claims: Claims) -> Mapping[str, Any]:
    custom: Mapping[str, Any] = freeze(
        {name: value for name, value in claims.all.items() if name not in _REGISTERED}
    )
    return custom
