"""What a verifier is put together from, made from its settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from clerk_m2m.backend_api.calls import BackendAPI
from clerk_m2m.backend_api.jwks import get_jwks
from clerk_m2m.backend_api.opening import open_api
from clerk_m2m.backend_api.revocations import Revocation
from clerk_m2m.clock import Clock, ServerClock
from clerk_m2m.credentials import jwt_of
from clerk_m2m.environment import key_of_file, require_https
from clerk_m2m.errors import TokenInvalidError
from clerk_m2m.graph.file import FileSource
from clerk_m2m.graph.live import LiveSource
from clerk_m2m.graph.scope_graph import ScopeGraph
from clerk_m2m.graph.source import GraphSource, StaticSource
from clerk_m2m.identity import TokenType
from clerk_m2m.lookups.cache import Cache
from clerk_m2m.lookups.invalidations import Invalidations, Name
from clerk_m2m.lookups.verdict import Refused, Verdict
from clerk_m2m.observe.call_times import CallResult, CallTimes
from clerk_m2m.observe.counters import Stats
from clerk_m2m.observe.measurements import Measurements
from clerk_m2m.observe.reporter import Reporter
from clerk_m2m.secret import Secret
from clerk_m2m.settings import Settings
from clerk_m2m.transport.admission import UnknownRate
from clerk_m2m.transport.breaker import Breakers
from clerk_m2m.transport.call import Call
from clerk_m2m.verification.online import OnlineVerification
from clerk_m2m.verification.outcome import Source

if TYPE_CHECKING:
    import httpx

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
    """Open the Backend API with the keys of a service, and breakers."""

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
    """Make the source of the edges; None for a service without a graph."""
    ttl, max_stale = settings.graph_ttl, settings.graph_max_stale
    match settings.graph:
        case None:
            return None
        case ScopeGraph() as graph:
            return StaticSource(graph)
        case "live":
            return LiveSource(
                api,
                ttl=ttl,
                max_stale=max_stale,
                maxsize=settings.cache_size,
                clock=clock,
                reporter=reporter,
            )
        case Path() as path:
            return FileSource(path, ttl=ttl, max_stale=max_stale, clock=clock, reporter=reporter)
        case source:
            return source


def online_verification(
    settings: Settings, api: BackendAPI, clock: Clock, stats: Stats
) -> OnlineVerification:
    """Make what asks Clerk about opaque credentials."""
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
    """Make what verifies JWTs; None for a service that takes none, or has no keys for them."""
    m2m = TokenType.M2M_TOKEN in settings.accepts and settings.graph is not None
    oauth = TokenType.OAUTH_TOKEN in settings.accepts
    if not (settings.verifies_jwts and (m2m or oauth)):
        return None
    # PyJWT and cryptography take a while to import, and a service without JWTs needs neither.
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


def invalidate_token(
    invalidations: Invalidations,
    offline: OfflineVerification | None,
    token: str,
    digest: bytes,
    lifetime: float,
) -> None:
    """Void what is known of a token, and deny it where it is a JWT; `lifetime` is in seconds."""
    jwt = jwt_of(token)
    if offline is None or jwt is None:
        invalidations.add(digest, lifetime=lifetime)
        return
    left = offline.remaining(jwt)
    if left is None:
        invalidations.add_unproven(digest)
    else:
        invalidations.add(digest, lifetime=max(left, lifetime))


def forget(graph: GraphSource | None, caller: str) -> None:
    """Have a graph that can do so read the edges of `caller` again."""
    forget_caller = getattr(graph, "forget", None)
    if forget_caller is not None:
        forget_caller(caller)


def revoked(
    invalidate: Callable[..., None], graph: GraphSource | None, revocation: Revocation
) -> None:
    """Invalidate what a client has revoked or deleted."""
    if revocation.token_id is not None:
        invalidate(token_id=revocation.token_id)
    if revocation.machine_id is not None:
        invalidate(machine_id=revocation.machine_id)
    if revocation.token is not None:
        invalidate(token=revocation.token.reveal())
    if revocation.caller is not None:
        forget(graph, revocation.caller)


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
) -> Measurements:
    """Read the counters and the state of a verifier's parts."""
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
    )


def require_https_for_keys(settings: Settings) -> None:
    """Refuse a `jwks_url` over plain http: whoever is on the way could forge tokens."""
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
    """Make the store of verdicts, by the digest of the credential."""
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
    """Give the names by which a verdict is invalidated."""
    if isinstance(verdict, Refused):
        return (digest,)
    return digest, verdict.token_id, verdict.subject


def invalid(verdict: Refused, source: Source) -> TokenInvalidError:
    """Give the refusal that a verdict means."""
    refusal = TokenInvalidError(verdict.detail, token_class=verdict.token_class)
    refusal.source = source
    return refusal
