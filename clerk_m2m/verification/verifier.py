"""From a token to an identity: the cache, then Clerk or the key set, then the scope policy.

Every policy decision of the package is in this file, but for the audience of an OAuth token, which
is checked with the token. The order never changes: what the credential is, whether it is good,
whether its holder may call this service. What could not be found out raises
`VerificationUnavailableError`: it never passes, and never counts against the caller.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from functools import partial
from hashlib import blake2b
from math import inf
from typing import TYPE_CHECKING, Final

from clerk_m2m.backend_api.client import ClerkClient, Revocation
from clerk_m2m.clock import Clock, ServerClock
from clerk_m2m.credentials import TokenClass, inspect
from clerk_m2m.decision import Decision
from clerk_m2m.environment import require_https
from clerk_m2m.errors import (
    BackendAPIError,
    RateLimitedError,
    RefusalError,
    ScopeDeniedError,
    TokenInvalidError,
    TokenTypeNotAcceptedError,
    UnauthorizedError,
    UnavailableError,
    VerificationUnavailableError,
    VerifierMisconfiguredError,
)
from clerk_m2m.graph.file import FileSource
from clerk_m2m.graph.live import LiveSource
from clerk_m2m.graph.scope_graph import ScopeGraph
from clerk_m2m.graph.source import GraphSource, StaticSource
from clerk_m2m.identity import Identity, TokenType
from clerk_m2m.lookups.cache import VerdictCache
from clerk_m2m.lookups.verdict import Refused, Verdict
from clerk_m2m.observe.counters import Stats
from clerk_m2m.secret import Secret
from clerk_m2m.settings import Settings
from clerk_m2m.transport.breaker import MAX_BACK_OFF, Breaker
from clerk_m2m.verification.online import EndpointVerifier
from clerk_m2m.verification.policy import _ALLOWED, policy

if TYPE_CHECKING:
    import httpx

    from clerk_m2m.verification.offline import OfflineVerifier

logger = logging.getLogger("clerk_m2m")

MISCONFIGURED_LOG_PAUSE: Final = 60.0

_TYPE_OF: Final = {
    TokenClass.M2M_OPAQUE: TokenType.M2M_TOKEN,
    TokenClass.M2M_JWT: TokenType.M2M_TOKEN,
    TokenClass.API_KEY: TokenType.API_KEY,
    TokenClass.OAUTH_OPAQUE: TokenType.OAUTH_TOKEN,
    TokenClass.OAUTH_JWT: TokenType.OAUTH_TOKEN,
}
_JWT_CLASSES: Final = frozenset({TokenClass.M2M_JWT, TokenClass.OAUTH_JWT})


class Verifier:
    """Tells who holds a token and whether they may call this service.

    `MachineAuthMiddleware` makes one; make one yourself to share it between apps, to invalidate, or
    to verify outside of a request. `settings` None reads the environment. `transport` replaces the
    network and `clock` the time, for tests. Raises `ConfigurationError` where the settings cannot
    work. One verifier serves any number of event loops and threads.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.settings = settings = settings or Settings.from_env()
        self.stats = Stats()
        self._clock = clock = clock or Clock()
        if transport is None and settings.jwks_url:
            require_https(
                "jwks_url",
                settings.jwks_url,
                allow_http=settings.allow_http,
                secret_key=settings.secret_key,
            )
        self._server_clock = server_clock = ServerClock(clock)
        self._client = _client(settings, transport, clock, server_clock)
        # The key set has a breaker of its own: `jwks_url` is another host, and whether it answers
        # says nothing of the endpoints.
        self._key_client = _client(settings, transport, clock, server_clock)
        self._graph = _graph_source(settings, self._client, clock)
        self._offline = self._offline_verifier()
        endpoints = EndpointVerifier(
            self._client,
            audience=settings.oauth_audience or frozenset(),
            clock=clock,
            stats=self.stats,
        )
        self._verdicts: VerdictCache[bytes, str | Secret, Verdict] = VerdictCache(
            endpoints.ask,
            ttl=settings.cache_ttl,
            negative_ttl=settings.negative_ttl,
            maxsize=settings.cache_size,
            stale_if_error=settings.stale_if_error,
            clock=clock,
            stats=self.stats,
        )
        self._callee = settings.machine_id
        self._digest_key = _digest_key(settings)
        self._logged_at = -inf

    async def verify(self, token: str) -> Identity:
        """Give the identity of a token's holder, who may call this service.

        Raises a `RefusalError`: `TokenInvalidError`, `TokenTypeNotAcceptedError`,
        `ScopeDeniedError`, or `VerificationUnavailableError` where it could not be found out.
        """
        try:
            key = self._key(token)
            verdict = self._verdicts.lookup(key, token)
            if verdict is not None:
                self.stats.hits += 1
                identity = self._admit(verdict)
                if identity is not None:
                    return identity
            # From here on the token is in no local of a frame, which tracebacks may show.
            return await self._verify_with_calls(key, Secret(token))
        except RefusalError as refusal:
            refusal.from_verifier = True
            raise

    def _admit(self, verdict: Verdict) -> Identity | None:
        """Apply a verdict and the scope policy; None where the caller's edges are not known yet."""
        if isinstance(verdict, Refused):
            raise TokenInvalidError(verdict.detail)
        callees = None
        if self._graph is not None and verdict.subject.startswith("mch_"):
            callees = self._graph.callees(verdict.subject)
            if callees is None:
                return None
        return self._authorize(verdict, callees)

    def _authorize(self, identity: Identity, callees: frozenset[str] | None) -> Identity:
        reason = policy(identity, self._callee, callees)
        if reason is _ALLOWED:
            return identity
        raise ScopeDeniedError(
            Decision(caller=identity.subject, callee=self._callee, reason=reason)
        )

    async def _verify_with_calls(self, key: bytes, token: Secret) -> Identity:
        try:
            return await self._find_out(key, token)
        except VerificationUnavailableError:
            self.stats.unavailable += 1
            raise
        except BackendAPIError as exc:
            self.stats.unavailable += 1
            raise self._unavailable(exc) from exc

    async def _find_out(self, key: bytes, token: Secret) -> Identity:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.settings.timeout
        while True:
            generation = self._verdicts.generation
            verdict = self._verdicts.lookup(key, token)
            if verdict is None:
                verdict = await self._ask(key, token, within=deadline - loop.time())
            identity = self._admit(verdict)
            if identity is not None:
                return identity
            assert self._graph is not None and not isinstance(verdict, Refused)  # noqa: S101, PT018
            callees = await self._graph.learn(verdict.subject, within=deadline - loop.time())
            if generation == self._verdicts.generation:
                return self._authorize(verdict, callees)
            # Something was invalidated while the graph was read: begin again.

    async def _ask(self, key: bytes, token: Secret, *, within: float) -> Verdict:
        credential = inspect(token.reveal())
        self._require_accepted(credential.token_class)
        if credential.token_class in _JWT_CLASSES:
            assert self._offline is not None  # noqa: S101  else it has just been refused
            generation = self._verdicts.generation
            answer = await self._offline.verify(credential, key, within=within)
            self.stats.offline += 1
            self._verdicts.put(key, answer, generation=generation)
            return answer.value
        try:
            return await self._verdicts.obtain(key, token, within=within)
        except (RateLimitedError, UnavailableError, VerificationUnavailableError):
            verdict = self._verdicts.stale(key)
            if verdict is None or isinstance(verdict, Refused):
                raise
            self.stats.stale += 1
            return replace(verdict, stale=True)

    def _require_accepted(self, token_class: TokenClass) -> None:
        """Refuse what this service does not take, before any network call."""
        if token_class in (TokenClass.UNKNOWN, TokenClass.MALFORMED):
            raise TokenInvalidError("The credential has no form that Clerk gives to one.")
        settings, graph = self.settings, self._graph
        token_type = _TYPE_OF.get(token_class)
        if token_type not in settings.accepts:
            accepted = ", ".join(sorted(settings.accepts))
            raise TokenTypeNotAcceptedError(
                f"This service does not accept a credential of the type {token_class}. "
                f"It accepts: {accepted}."
            )
        if token_class is TokenClass.M2M_JWT and graph is None:
            raise TokenTypeNotAcceptedError(
                "This service has no scope graph, and JWTs need one: a JWT carries no scopes that "
                "can be trusted. Send an opaque token."
            )
        if token_class in _JWT_CLASSES:
            if self._offline is None:
                raise TokenTypeNotAcceptedError(
                    "This service has no key set to verify JWTs with. Send an opaque token."
                )
            return
        key = settings.secret_key
        if token_class is TokenClass.M2M_OPAQUE:
            key = settings.machine_secret_key or key
        if key is None:
            raise TokenTypeNotAcceptedError(
                f"This service has no key to verify an {token_class} with. Send a JWT."
            )

    def invalidate(
        self,
        *,
        token: str | None = None,
        token_id: str | None = None,
        machine_id: str | None = None,
    ) -> None:
        """Forget what is known of a token, of a token id, or of all of a machine's credentials.

        Takes exactly one. Nothing that was asked before the call is used after it. JWTs, which
        cannot be revoked at Clerk, are denied by this process for as long as they live: by `token`
        this very one, since what it says of itself may be forged; by `token_id` the one of that id;
        by `machine_id` those minted until now (and for 5 s more, the leeway for clocks).
        """
        if token is not None and token_id is None and machine_id is None:
            ended = self._key(token)
            self._deny_jwt(token, ended)
            self._verdicts.invalidate(lambda key, _verdict: key == ended)
        elif token_id is not None and token is None and machine_id is None:
            if self._offline is not None and not token_id.startswith("ak_"):  # no id of a JWT
                self._offline.deny_token(token_id)
            self._verdicts.invalidate(lambda _key, verdict: _has_id(verdict, token_id))
        elif machine_id is not None and token is None and token_id is None:
            if self._offline is not None:
                self._offline.deny_machine(machine_id)
            if self._graph is not None:
                self._graph.forget(machine_id)
            self._verdicts.invalidate(lambda _key, verdict: _has_subject(verdict, machine_id))
        else:
            raise TypeError("invalidate() takes exactly one of token, token_id and machine_id")

    def watch(self, client: ClerkClient) -> None:
        """Invalidate whatever `client` revokes or deletes from now on."""

        def forget(revocation: Revocation) -> None:
            if revocation.token_id is not None:
                self.invalidate(token_id=revocation.token_id)
            if revocation.machine_id is not None:
                self.invalidate(machine_id=revocation.machine_id)
            if revocation.caller is not None and self._graph is not None:
                self._graph.forget(revocation.caller)

        client.on_revocation(forget)

    async def aclose(self) -> None:
        """Close the connections of this event loop; the next verification opens new ones."""
        await self._verdicts.aclose()
        if self._graph is not None:
            await self._graph.aclose()
        if self._offline is not None:
            await self._offline.aclose()
        await self._client.aclose()
        await self._key_client.aclose()

    def _key(self, token: str) -> bytes:
        # The class of a credential is a function of its text, so equal keys mean equal classes.
        # The key goes before the token: BLAKE2 has no length extension, and needs one block less.
        text = self._digest_key + token.encode("utf-8", "surrogatepass")
        return blake2b(text, digest_size=16).digest()

    def _deny_jwt(self, token: str, digest: bytes) -> None:
        jwt = inspect(token).jwt
        if self._offline is not None and jwt is not None:
            self._offline.deny_jwt(jwt, digest)

    def _unavailable(self, exc: BackendAPIError) -> VerificationUnavailableError:
        if isinstance(exc, UnauthorizedError):
            now = self._clock.monotonic()
            if now - self._logged_at >= MISCONFIGURED_LOG_PAUSE:
                self._logged_at = now
                logger.error("Clerk refused this service's own key, so nobody gets in: %s", exc)
            return VerifierMisconfiguredError()
        return VerificationUnavailableError(
            retry_after=min(exc.retry_after or 1.0, MAX_BACK_OFF),
        )

    def _offline_verifier(self) -> OfflineVerifier | None:
        settings = self.settings
        m2m = TokenType.M2M_TOKEN in settings.accepts and self._graph is not None
        oauth = TokenType.OAUTH_TOKEN in settings.accepts
        if not (settings.verifies_jwts and (m2m or oauth)):
            return None
        # PyJWT and cryptography take a while to import, and a service without JWTs needs neither.
        from clerk_m2m.verification import key_set, offline, signature

        jwks, url = self._key_client.jwks, settings.jwks_url
        fetch = partial(jwks.get_public, url) if url else jwks.get
        fixed = signature.key_from_pem(settings.jwt_key) if settings.jwt_key else None
        keys = key_set.KeySet(fetch, fixed=fixed, clock=self._clock)
        return offline.OfflineVerifier(
            keys,
            audience=settings.oauth_audience or frozenset(),
            clock=self._clock,
            server_clock=self._server_clock,
        )


def _client(
    settings: Settings,
    transport: httpx.AsyncBaseTransport | None,
    clock: Clock,
    server_clock: ServerClock,
) -> ClerkClient:
    return ClerkClient(
        secret_key=settings.secret_key,
        machine_secret_key=settings.machine_secret_key,
        api_url=settings.api_url,
        allow_http=settings.allow_http,
        timeout=settings.timeout,
        max_inflight=settings.max_inflight,
        transport=transport,
        breaker=Breaker(clock.monotonic),
        server_clock=server_clock,
    )


def _graph_source(settings: Settings, client: ClerkClient, clock: Clock) -> GraphSource | None:
    ttl, max_stale = settings.graph_ttl, settings.graph_max_stale
    match settings.graph:
        case None:
            return None
        case ScopeGraph() as graph:
            return StaticSource(graph)
        case "live":
            return LiveSource(
                client, ttl=ttl, max_stale=max_stale, maxsize=settings.cache_size, clock=clock
            )
        case path:
            return FileSource(path, ttl=ttl, max_stale=max_stale, clock=clock)


def _digest_key(settings: Settings) -> bytes:
    """Two verifiers share no verdict unless instance, callee and keys are the same."""
    secrets = (settings.machine_secret_key, settings.secret_key)
    parts = [settings.api_url, settings.machine_id, *(s.reveal() if s else "" for s in secrets)]
    return blake2b("\0".join(parts).encode(), digest_size=32).digest()


def _has_id(verdict: Verdict, token_id: str) -> bool:
    return not isinstance(verdict, Refused) and verdict.token_id == token_id


def _has_subject(verdict: Verdict, subject: str) -> bool:
    return not isinstance(verdict, Refused) and verdict.subject == subject
