"""Makes the parts of a verifier from its settings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from secrets import token_bytes
from typing import TYPE_CHECKING

from clerk_m2m.backend_api.calls import BackendAPI
from clerk_m2m.backend_api.jwks import get_jwks
from clerk_m2m.backend_api.opening import open_api
from clerk_m2m.clock import Clock, ServerClock
from clerk_m2m.credentials import OpaqueCredential
from clerk_m2m.environment import key_of_file, require_https
from clerk_m2m.errors import BackendAPIError
from clerk_m2m.graph.scope_graph import ScopeGraph
from clerk_m2m.graph.source import GraphSource, StaticSource
from clerk_m2m.identity import TokenClass, TokenType
from clerk_m2m.lookups.cache import Cache
from clerk_m2m.lookups.invalidations import Invalidations, Name
from clerk_m2m.lookups.single_flight import Demand
from clerk_m2m.lookups.verdict import Answer, Ask, Refused, Verdict
from clerk_m2m.observe.call_times import CallResult, CallTimes
from clerk_m2m.observe.counters import SharedVerdicts, Stats
from clerk_m2m.observe.measurements import Measurements
from clerk_m2m.observe.reporter import Reporter
from clerk_m2m.secret import Secret
from clerk_m2m.settings import Settings
from clerk_m2m.transport.admission import UnknownRate
from clerk_m2m.transport.breaker import Breakers
from clerk_m2m.transport.call import Call
from clerk_m2m.verification.invalidating import Effects, Invalidator
from clerk_m2m.verification.online import OnlineVerification, verifying_key

if TYPE_CHECKING:
    import httpx

    from clerk_m2m.fleet.member import Member
    from clerk_m2m.verification.offline import OfflineVerification


def backend_api(
    settings: Settings,
    transport: httpx.AsyncBaseTransport | None,
    clock: Clock,
    server_clock: ServerClock,
    stats: Stats,
    call_times: CallTimes,
    reporter: Reporter,
    upstream: str,
) -> BackendAPI:
    """Open the Backend API with the keys of a service and new circuit breakers."""

    def count(call: Call) -> None:
        stats.sent += call.billed

    def record(call: Call, result: CallResult, seconds: float) -> None:
        call_times.record(call.operation, result, seconds)

    return open_api(
        secret_key=settings.secret_key,
        machine_secret_key=settings.machine_secret_key,
        api_url=settings.api_url,
        allow_http=settings.allow_http,
        timeout=settings.timeout,
        max_inflight=settings.max_inflight,
        transport=transport,
        breakers=Breakers(clock.monotonic, upstream=upstream, reporter=reporter),
        unknown_rate=UnknownRate(settings.unknown_rate),
        server_clock=server_clock,
        on_sent=count,
        reporter=reporter,
        on_ended=record,
        clock=clock,
    )


def graph_source(
    settings: Settings, api: BackendAPI, clock: Clock, reporter: Reporter
) -> GraphSource | None:
    """Make the source of the scope graph's edges; None for a service without a graph."""
    ttl, max_stale = settings.graph_ttl, settings.graph_max_stale
    match settings.graph:
        case None:
            return None
        case ScopeGraph() as graph:
            return StaticSource(graph)
        case "live":
            from clerk_m2m.graph.live import LiveSource  # imported only where it is used

            return LiveSource(
                api,
                ttl=ttl,
                max_stale=max_stale,
                maxsize=settings.cache_size,
                clock=clock,
                reporter=reporter,
            )
        case Path() as path:
            from clerk_m2m.graph.file import FileSource  # imported only where it is used

            return FileSource(path, ttl=ttl, max_stale=max_stale, clock=clock, reporter=reporter)
        case source:
            return source


def online_verification(
    settings: Settings, api: BackendAPI, clock: Clock, stats: Stats
) -> OnlineVerification:
    """Make the verification of opaque credentials, which asks Clerk."""
    return OnlineVerification(
        api,
        audience=settings.oauth_audience or frozenset(),
        cache_ttl=settings.cache_ttl,
        clock=clock,
        stats=stats,
    )


def offline_verification(
    settings: Settings,
    api: BackendAPI,
    invalidations: Invalidations,
    clock: Clock,
    server_clock: ServerClock,
    reporter: Reporter,
) -> OfflineVerification | None:
    """Make the verification of JWTs; None if the service accepts none, or has no keys for them."""
    m2m = TokenType.M2M_TOKEN in settings.accepts and settings.graph is not None
    oauth = TokenType.OAUTH_TOKEN in settings.accepts
    if not (settings.verifies_jwts and (m2m or oauth)):
        return None
    # PyJWT and cryptography are slow to import, and a service without JWTs needs neither.
    from clerk_m2m.verification import key_set, offline, signature

    fetch = partial(get_jwks, api, settings.jwks_url)
    fixed = signature.key_from_pem(settings.jwt_key) if settings.jwt_key else None
    return offline.OfflineVerification(
        key_set.KeySet(fetch, fixed=fixed, clock=clock, reporter=reporter),
        audience=settings.oauth_audience or frozenset(),
        clock=clock,
        server_clock=server_clock,
        invalidations=invalidations,
    )


def keys_of_digests(settings: Settings) -> tuple[bytes, ...]:
    """Return the keys under which tokens are digested. The verdict cache uses the first one.

    Without a fleet the key is random, because no other process compares digests with this one.
    """
    if settings.fleet is None:
        return (token_bytes(32),)
    from clerk_m2m.fleet.publishing import digest_keys  # imported only where it is used

    return digest_keys(settings.fleet, settings.api_url)


def invalidator(
    settings: Settings,
    invalidations: Invalidations,
    offline: OfflineVerification | None,
    graph: GraphSource | None,
    clock: Clock,
    server_clock: ServerClock,
    reporter: Reporter,
    *,
    digest_keys: tuple[bytes, ...],
) -> tuple[Invalidator, Member | None]:
    """Make the invalidator, and the verifier's membership of a fleet if the service has one."""
    effects = Effects(
        invalidations,
        offline,
        graph,
        digest_keys=digest_keys,
        opaque_lifetime=settings.timeout + max(settings.cache_ttl, settings.stale_if_error),
        clock=clock,
        server_clock=server_clock,
    )
    member = None
    if settings.fleet is not None:
        from clerk_m2m.fleet.member import Member  # imported only where it is used

        member = Member(settings.fleet, local=effects, clock=clock, reporter=reporter)
    return Invalidator(effects, member, reporter, patience=settings.cache_ttl), member


def shared(
    settings: Settings,
    api: BackendAPI,
    ask: Ask,
    member: Member | None,
    clock: Clock,
    *,
    digest_keys: tuple[bytes, ...],
) -> Ask:
    """Wrap `ask` so that one process asks for all, if the fleet shares verdicts; else return it."""
    fleet = settings.fleet
    if member is None or fleet is None or not (fleet.share_verdicts and settings.cache_ttl):
        return ask
    from clerk_m2m.fleet.tier import Tier  # imported only where it is used

    def key_at_hand(kind: TokenClass) -> Secret | None:
        return verifying_key(api, kind).at_hand()

    # A verdict also depends on these, besides the credential and the key that verified it.
    context = [settings.api_url, settings.machine_id, *sorted(settings.oauth_audience or ())]
    member.shared = SharedVerdicts()
    return Tier(
        ask,
        fleet,
        member,
        digest_keys=digest_keys,
        key_at_hand=key_at_hand,
        context=json.dumps(context),
        cache_ttl=settings.cache_ttl,
        timeout=settings.timeout,
        clock=clock,
        counted=member.shared,
    )


async def warm_up(member: Member, ask: Ask) -> None:
    """Connect to Redis and read the fleet's log before the first request, for 0.5 s at most."""
    from clerk_m2m.fleet.tier import Tier  # imported only where it is used

    await (ask if isinstance(ask, Tier) else member).warm_up()


def measured(
    *,
    stats: Stats,
    call_times: CallTimes,
    upstreams: Mapping[str, BackendAPI],
    verdicts: Cache[bytes, Verdict],
    invalidations: Invalidations,
    graph: GraphSource | None,
    offline: OfflineVerification | None,
    server_clock: ServerClock,
    fleet: Member | None,
) -> Measurements:
    """Read the counters and the state of a verifier's parts."""
    # Imported only where they are used.
    from clerk_m2m.graph.file import FileSource
    from clerk_m2m.graph.live import LiveSource

    return Measurements(
        verifications=stats.verifications(),
        refusals=dict(stats.refusals),
        would_refuse=dict(stats.would_refuse),
        sent=stats.sent,
        paid=stats.paid,
        refreshes=stats.refreshes,
        calls=call_times.read(),
        upstreams={name: api.measure() for name, api in upstreams.items()},
        cached=verdicts.sizes(),
        invalidations=len(invalidations),
        graph_age=graph.age() if isinstance(graph, FileSource | LiveSource) else None,
        key_set_age=None if offline is None else offline.key_set_age(),
        clock_skew=server_clock.skew(),
        fleet=None if fleet is None else fleet.measure(),
    )


def require_https_for_keys(settings: Settings) -> None:
    """Reject a `jwks_url` over plain http: an attacker in the network could replace the keys."""
    key = settings.secret_key
    if isinstance(key, Path):
        key = key_of_file("secret_key", "sk_", key)
    if settings.jwks_url:
        require_https(
            "jwks_url",
            settings.jwks_url,
            allow_http=settings.allow_http,
            secret_key=key if isinstance(key, Secret) else None,
        )


def verdict_cache(
    settings: Settings, invalidations: Invalidations, clock: Clock
) -> Cache[bytes, Verdict]:
    """Make the cache of verdicts, keyed by the digest of the credential."""
    return Cache(
        ttl=settings.cache_ttl,
        negative_ttl=settings.negative_ttl,
        maxsize=settings.cache_size,
        stale_if_error=settings.stale_if_error,
        clock=clock,
        invalidations=invalidations,
        names=names,
        has_strangers=True,
    )


def names(digest: bytes, verdict: Verdict) -> tuple[Name, ...]:
    """Return the names by which a verdict can be invalidated."""
    if isinstance(verdict, Refused):
        return (digest,)
    return digest, verdict.token_id, verdict.subject


def reported(ask: Ask, reporter: Reporter) -> Ask:
    """Wrap `ask` for refreshes: no request sees their failure, so it is reported instead."""

    async def ask_again(credential: OpaqueCredential, demand: Demand) -> Answer[Verdict]:
        try:
            return await ask(credential, demand)
        except BackendAPIError as exc:
            reporter.refresh_failed(exc)
            raise

    return ask_again
