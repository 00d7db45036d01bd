"""`Verifier`: turns a token into an identity or a refusal.

The order never changes: classify the credential, verify it, check whether its holder may call this
service. A cached verdict replaces the verification. The last check is made on every request, after
the cache. If Clerk cannot be asked, `VerificationUnavailableError` (503) is raised: the request is
not accepted, and the caller is not told that its token is bad.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final, assert_never

from clerk_m2m.clock import Clock, ServerClock
from clerk_m2m.credentials import Headers, JWTCredential, OpaqueCredential, credential_of, parse
from clerk_m2m.errors import (
    BackendAPIError,
    BackendUnavailableError,
    OverloadedError,
    RateLimitedError,
    RefusalError,
    TokenTypeNotAcceptedError,
    VerificationUnavailableError,
    VerifierMisconfiguredError,
)
from clerk_m2m.graph.source import fetched_edge, known_edge
from clerk_m2m.identity import Identity
from clerk_m2m.lookups.digest import TokenDigest, utf8
from clerk_m2m.lookups.invalidations import Invalidations
from clerk_m2m.lookups.verdict import Ask, Refused, Verdict
from clerk_m2m.observe.call_times import CallTimes, OnCall
from clerk_m2m.observe.counters import Stats
from clerk_m2m.observe.events import OnEvent
from clerk_m2m.observe.measurements import Measurements
from clerk_m2m.observe.reporter import Reporter
from clerk_m2m.secret import Secret
from clerk_m2m.settings import Settings
from clerk_m2m.verification import parts
from clerk_m2m.verification.authorization import admit, denied, invalid
from clerk_m2m.verification.outcome import Outcome, Source, refusal_of, source_of
from clerk_m2m.verification.policy import ALLOWED, decide, needs_edge, not_accepted

if TYPE_CHECKING:
    import httpx

    from clerk_m2m.backend_api.client import ClerkClient
    from clerk_m2m.backend_api.sync_client import SyncClerkClient


class Verifier:
    """Verifies who holds a token and whether that caller may call this service.

    `MachineAuthMiddleware` makes one; make one yourself to share it between apps, to invalidate, or
    to verify outside of a request. Any number of event loops and threads can use it. If `settings`
    is None, the environment is read. `transport` replaces the network, for client certificates
    (mTLS) or for tests: you close it, and it must work in each event loop. Without one, proxies and
    certificates are those of the environment (see `ClerkClient`). `clock` replaces the time, for
    tests. `on_event` is called with each `Event`. Raises `ConfigurationError` for invalid settings.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        clock: Clock | None = None,
        on_event: OnEvent | None = None,
    ) -> None:
        self.settings = settings = settings or Settings.from_env()
        self.stats, self._call_times = stats, times = Stats(), CallTimes()
        clock = clock or Clock()
        if transport is None:
            parts.require_https_for_keys(settings)
        self.reporter = reporter = Reporter(clock, on_event=on_event)
        self._server_clock = server_clock = ServerClock(clock, reporter.skew)
        open_api = partial(
            parts.backend_api, settings, transport, clock, server_clock, stats, times, reporter
        )
        self._api = open_api("credentials")
        self._key_api = open_api("keys")  # with its own breaker: `jwks_url` is another host
        self.graph = parts.graph_source(settings, self._api, clock, reporter)
        self._callee = settings.machine_id
        self._not_accepted = not_accepted(settings)
        self._invalidations = invalidations = Invalidations(clock)
        self._offline = parts.offline_verification(
            settings, self._key_api, invalidations, clock, server_clock, reporter
        )
        self._verdicts = parts.verdict_cache(settings, invalidations, clock)
        digest_keys = parts.keys_of_digests(settings)
        self._digest = TokenDigest(digest_keys[0])
        self._invalidator, self._fleet = parts.invalidator(
            settings,
            invalidations,
            self._offline,
            self.graph,
            clock,
            server_clock,
            reporter,
            digest_keys=digest_keys,
        )
        online = parts.online_verification(settings, self._api, clock, self.stats)
        self._ask: Ask = parts.shared(
            settings, self._api, online, self._fleet, clock, digest_keys=digest_keys
        )
        self._ask_again = parts.reported(self._ask, reporter)

    async def verify(
        self, token: str, *, while_waiting: AbstractAsyncContextManager[None] | None = None
    ) -> Identity:
        """Return the identity of a token's holder, who may call this service.

        If the answer is not cached, the verification runs inside the context `while_waiting`.

        Raises a `RefusalError`: `TokenInvalidError`, `TokenTypeNotAcceptedError`,
        `ScopeDeniedError`, or `VerificationUnavailableError` if it could not be verified.
        """
        try:
            digest = self._digest.of(utf8(token))
            found = self._verdicts.read(digest)
            if found is not None:
                verdict, due = found
                if due:
                    self._refresh(digest, Secret(token))
                try:
                    identity = admit(verdict, self.graph, self._callee)
                except RefusalError:
                    self.stats.hits += 1
                    self.stats.refused_hits += 1
                    raise
                if identity is not None:
                    self.stats.hits += 1
                    return identity
            # From here on only a `Secret` is passed: tracebacks may show the locals of a frame.
            async with while_waiting or nullcontext():
                outcome = await self._find_out(digest, Secret(token))
            self.stats.outcomes[outcome.key] += 1
            if outcome.identity is None:
                raise outcome.refusal or VerificationUnavailableError()
            return outcome.identity
        except RefusalError as refusal:
            refusal.from_verifier = True
            raise

    def recall(self, token: bytes) -> Identity | None:
        """Return the identity of a token's holder if it is cached and may call, else None.

        `token` may be any bytes of a header: only a well-formed token can have a cached verdict.
        If this returns None, call `verify`, which refuses the token or asks Clerk.
        """
        verdict = self._verdicts.settled(self._digest.of(token))
        try:
            identity = None if verdict is None else admit(verdict, self.graph, self._callee)
        except RefusalError:
            return None  # the caller then calls `verify`, which refuses and counts
        if identity is not None:
            self.stats.hits += 1
        return identity

    async def verify_headers(self, headers: Headers) -> Identity:
        """Return the identity of the sender of these headers, for frameworks besides Starlette.

        `headers` are pairs or a mapping. They are read as the middleware reads them. Raises what
        `verify` does, and `TokenMissingError` or `TokenMalformedError`; see `refusal_answer`.
        """
        return await self.verify(credential_of(headers, self.settings.api_key_header))

    async def _find_out(self, digest: bytes, token: Secret) -> Outcome:
        """Verify when the verdict is not cached, or the caller's edge is not known yet."""
        if self._fleet is not None:
            self._fleet.start()
        try:
            return await self._verify_and_authorize(digest, token)
        except VerificationUnavailableError as refusal:
            self.stats.unavailable += 1
            return Outcome(refusal=refusal)
        except BackendAPIError as exc:
            self.stats.unavailable += 1
            unavailable = refusal_of(exc)
            if isinstance(unavailable, VerifierMisconfiguredError):
                self.reporter.key_refused(exc)
            return Outcome(refusal=unavailable)
        except RefusalError as refusal:
            return Outcome(refusal=refusal, source=source_of(refusal))

    async def _verify_and_authorize(self, digest: bytes, token: Secret) -> Outcome:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.settings.timeout
        while True:
            number = self._invalidations.number
            verdict, source = await self._verdict(digest, token, timeout=deadline - loop.time())
            if isinstance(verdict, Refused):
                raise invalid(verdict, source)
            graph, edge = self.graph, None
            if graph is not None and needs_edge(verdict):
                edge = known_edge(graph.allows(verdict.subject, self._callee))
                if edge is None:
                    timeout = deadline - loop.time()
                    edge = fetched_edge(
                        await graph.fetch(verdict.subject, self._callee, timeout=timeout)
                    )
                    if number != self._invalidations.number:
                        continue  # something was invalidated while the graph was read
            reason = decide(verdict, self._callee, edge)
            if reason is not ALLOWED:
                raise denied(verdict, self._callee, reason, source)
            return Outcome(identity=verdict, source=source)

    async def _verdict(
        self, digest: bytes, token: Secret, *, timeout: float
    ) -> tuple[Verdict, Source]:
        """Return the verdict on a token: the cached one, or the result of a verification."""
        found = self._verdicts.read(digest)
        if found is not None:
            return found[0], Source.CACHE
        credential = parse(token)
        token_class = credential.token_class
        if token_class in self._not_accepted:
            raise TokenTypeNotAcceptedError(
                self._not_accepted[token_class], token_class=token_class
            )
        match credential:
            case JWTCredential():
                return await self._verify_offline(digest, credential, timeout=timeout)
            case OpaqueCredential():
                return await self._verify_online(digest, credential, timeout=timeout)
            case _:
                assert_never(credential)

    async def _verify_offline(
        self, digest: bytes, credential: JWTCredential, *, timeout: float
    ) -> tuple[Verdict, Source]:
        if self._offline is None:
            raise TokenTypeNotAcceptedError(
                "This service has no key set to verify JWTs with. Send an opaque token.",
                token_class=credential.token_class,
            )
        if self._fleet is not None:
            await self._fleet.ready()  # until then the denied JWTs are not known
        number = self._invalidations.number
        answer = await self._offline.verify(credential, digest, timeout=timeout)
        self.stats.offline += 1
        self._verdicts.put(digest, answer, asked_at=number)
        return answer.value, Source.OFFLINE

    async def _verify_online(
        self, digest: bytes, credential: OpaqueCredential, *, timeout: float
    ) -> tuple[Verdict, Source]:
        try:
            verdict, shared = await self._verdicts.get_or_load(
                digest, partial(self._ask, credential), timeout=timeout
            )
        except (
            RateLimitedError,
            BackendUnavailableError,
            OverloadedError,
            VerificationUnavailableError,
        ) as exc:
            known = self._verdicts.stale(digest)
            if known is None or isinstance(known, Refused) or not self._api.is_outage(exc):
                raise
            self.stats.stale += 1
            self.reporter.stale_used(exc)
            return replace(known, stale=True), Source.STALE
        self.stats.shared += shared
        return verdict, Source.SHARED if shared else Source.ONLINE

    def _refresh(self, digest: bytes, token: Secret) -> None:
        credential = parse(token)
        if isinstance(credential, OpaqueCredential):
            self.stats.refreshes += 1
            self._verdicts.refresh(digest, partial(self._ask_again, credential))

    def invalidate(
        self,
        *,
        token: str | None = None,
        token_id: str | None = None,
        machine_id: str | None = None,
    ) -> None:
        """Invalidate a token, a token id, or all credentials of a machine; takes exactly one.

        No verdict that was requested before the call is used after it. Clerk cannot revoke a JWT,
        so this process denies JWTs until they expire. `token` denies this one token only, because
        its claims may be forged. `token_id` denies the JWT with that id. `machine_id` denies the
        machine's JWTs that were minted until now (and up to 5 s later, the leeway for clocks).
        """
        self._invalidator.here(token=token, token_id=token_id, machine_id=machine_id)

    async def invalidate_everywhere(
        self,
        *,
        token: str | None = None,
        token_id: str | None = None,
        machine_id: str | None = None,
    ) -> None:
        """Like `invalidate`, here and in all services of the fleet.

        Returns when it is in the fleet's log; the other processes apply it some milliseconds later.
        Raises `FleetUnavailableError` if it could not be written within `timeout` seconds. This
        process applies it even then. Raises `ConfigurationError` without a fleet.
        """
        invalidation = self._invalidator.here(token=token, token_id=token_id, machine_id=machine_id)
        await self._invalidator.everywhere(invalidation, timeout=self.settings.timeout)

    def watch(self, client: ClerkClient | SyncClerkClient) -> Callable[[], None]:
        """Invalidate, here and in the fleet, what `client` revokes; returns a function to stop."""
        return client.on_revocation(self._invalidator.revoked)

    def measure(self) -> Measurements:
        """Return the counters and the current state, for an exporter; call it from any thread."""
        return parts.measured(
            stats=self.stats,
            call_times=self._call_times,
            upstreams={"backend_api": self._api, "key_set": self._key_api},
            verdicts=self._verdicts,
            invalidations=self._invalidations,
            graph=self.graph,
            offline=self._offline,
            server_clock=self._server_clock,
            fleet=self._fleet,
        )

    def on_call(self, listener: OnCall) -> None:
        """Call `listener(operation, result, seconds)` after each call to Clerk from now on."""
        self._call_times.on_call(listener)

    async def warm_up(self) -> None:
        """Read the fleet's log before the first request, if there is a fleet; 0.5 s at most."""
        if self._fleet is not None:
            await parts.warm_up(self._fleet, self._ask)

    async def aclose(self) -> None:
        """Close the connections of this event loop; calls in progress may take `timeout` to end."""
        if self._offline is not None:
            await self._offline.aclose()  # first: else a fetch in progress delays the steps below
        await self._api.aclose()
        await self._key_api.aclose()
        await self._verdicts.aclose()
        if self._fleet is not None:
            await self._fleet.leave_loop()
        if (close_graph := getattr(self.graph, "aclose", None)) is not None:
            await close_graph()
        self.reporter.flush()


VERIFY: Final = Verifier.verify  # the original, before other code can replace it
