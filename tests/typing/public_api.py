"""The types that a user's editor sees. Checked by mypy strict; never run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, assert_type

import httpx
import httpx2
from fastapi import Depends, FastAPI, WebSocket
from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, Response

from clerk_m2m import (
    ApiKeyIdentity,
    BackendAPIError,
    ClerkClient,
    Clock,
    CredentialVerifier,
    Decision,
    FieldError,
    GraphSource,
    Guard,
    Identity,
    MachineAuthMiddleware,
    MachineIdentity,
    MachineTokenAuth,
    OAuthIdentity,
    OnError,
    PermissionDeniedError,
    Reason,
    RefusalError,
    ScopeDeniedError,
    ScopeGraph,
    Secret,
    Settings,
    SyncClerkClient,
    TokenClass,
    TokenType,
    VerificationUnavailableError,
    Verifier,
    refusal_answer,
    require_any,
    require_api_key,
    require_machine,
    require_oauth,
)
from clerk_m2m.backend_api import (
    ApiKey,
    CreatedM2MToken,
    CreatedMachine,
    M2MToken,
    Machine,
    MachineScope,
    OAuthAccessToken,
    Page,
    ScopedMachine,
)

app = FastAPI()
settings = Settings.from_env(cache_ttl=30.0)


def on_error(connection: HTTPConnection, refusal: RefusalError) -> Response | None:
    assert_type(refusal.status, int)
    assert_type(refusal.code, str)
    assert_type(refusal.detail, str)
    assert_type(refusal.from_verifier, bool)
    assert_type(refusal.token_class, TokenClass | None)
    return PlainTextResponse(refusal.detail) if refusal.status == 401 else None


on_error_by_its_type: OnError = on_error


# The middleware, added the way that Starlette and FastAPI check

app.add_middleware(MachineAuthMiddleware)
app.add_middleware(MachineAuthMiddleware, settings, required=False, exclude=["/healthz"])
Starlette().add_middleware(
    MachineAuthMiddleware, verifier=Verifier(settings, clock=Clock()), on_error=on_error
)
app.add_middleware(MachineAuthMiddleware, exclude=["/a", ("GET", "/b"), "/static/*"])
app.add_middleware(MachineAuthMiddleware, exclude=[("GET", "/b", "/c")])  # type: ignore[list-item]
app.add_middleware(MachineAuthMiddleware, exlude=["/"])  # type: ignore[call-arg]  # a slip
app.add_middleware(MachineAuthMiddleware, verifier=settings)  # type: ignore[arg-type]  # a mix-up
assert_type(MachineAuthMiddleware(app, settings).verifier, CredentialVerifier)


# Settings


async def own_key() -> str:
    return "ak_"


assert_type(Settings(machine_id="mch_", machine_secret_key=Secret("ak_")).machine_id, str)
assert_type(settings.graph, ScopeGraph | GraphSource | Path | Literal["live"] | None)
assert_type(settings.accepts, frozenset[TokenType])
assert_type(
    settings.secret_key, Secret | Path | Callable[[], str | Secret | Awaitable[str | Secret]] | None
)
Settings(graph={"mch_": ["mch_"]}, accepts={"api_key", TokenType.M2M_TOKEN}, secret_key="sk_")
Settings(machine_secret_key=Path("key"), secret_key=lambda: "sk_")
ClerkClient(secret_key=lambda: Secret("sk_"), machine_secret_key=own_key)
auth = MachineTokenAuth(own_key)
httpx.AsyncClient(auth=auth)
httpx.Client(auth=auth)
httpx2.AsyncClient(auth=auth)
httpx2.Client(auth=auth)
assert_type(auth.token_sync(), str)
assert_type(auth.forget(), bool)
MachineTokenAuth(transport=httpx.HTTPTransport())  # type: ignore[arg-type]  # not asynchronous
Settings(accepts=["m2m_token", TokenType.API_KEY])
Settings(accepts=["m2m_tokens"])  # type: ignore[list-item]  # a typo
Settings(accepts={"api_keys"})  # type: ignore[arg-type]  # a typo
Settings(secret_key=7)  # type: ignore[arg-type]  # no key
Settings("mch_")  # type: ignore[call-arg]  # keyword-only
Settings(cache_tll=60)  # type: ignore[call-arg]  # a slip
settings.cache_ttl = 7  # type: ignore[misc]  # frozen


# Guards: a dependency has the type of the identity that it accepts

assert_type(require_machine(), Guard[MachineIdentity])
assert_type(require_machine("mch_a", "mch_b"), Guard[MachineIdentity])
assert_type(require_api_key(scopes=["read"]), Guard[ApiKeyIdentity])
assert_type(require_oauth(scopes={"read"}), Guard[OAuthIdentity])
assert_type(require_any(require_machine()), Guard[MachineIdentity])
machine_or_key = require_any(require_machine(), require_api_key())
assert_type(machine_or_key, Guard[MachineIdentity | ApiKeyIdentity])
assert_type(require_any(require_machine(), require_api_key(), require_oauth()), Guard[Identity])
assert_type(require_any(machine_or_key, require_oauth()), Guard[Identity])
either: Guard[Identity] = machine_or_key
many: Guard[MachineIdentity] = require_any(*[require_machine("mch_"), require_machine("mch_")])
require_api_key(["read"])  # type: ignore[call-arg]  # keyword-only
require_machine(7)  # type: ignore[arg-type]  # an id is text


@app.get("/orders")
async def orders(caller: Annotated[MachineIdentity, Depends(require_machine())]) -> str:
    return assert_type(caller.machine_id, str)


@app.websocket("/ws")
async def socket(
    websocket: WebSocket, key: Annotated[ApiKeyIdentity, Depends(require_api_key())]
) -> None:
    assert_type(key.user_id, str | None)
    assert_type(key.machine_id, str | None)


async def handler(request: Request) -> Response:
    assert_type(require_oauth().check(request).user_id, str)
    assert_type(require_oauth().check(request.scope), OAuthIdentity)
    assert_type(await require_machine()(request), MachineIdentity)
    return Response()


# Identities


def by_type(identity: Identity) -> str:
    assert_type(identity.scopes, frozenset[str])
    assert_type(identity.claims, Mapping[str, Any])
    assert_type(identity.expires_at, float | None)
    assert_type(identity.token_type, TokenType)
    identity.subject = "mch_"  # type: ignore[misc]  # frozen
    identity.claims["a"] = 1  # type: ignore[index]  # read-only
    if isinstance(identity, MachineIdentity):
        assert_type(identity.token_format, Literal["opaque", "jwt"])
        return identity.machine_id
    if isinstance(identity, ApiKeyIdentity):
        return assert_type(identity.name, str)
    assert_type(identity, OAuthIdentity)
    assert_type(identity.audience, tuple[str, ...])
    assert_type(identity.actor, Mapping[str, Any] | None)
    return assert_type(identity.client_id, str)


def by_token_type(identity: Identity) -> str:
    if identity.token_type is TokenType.M2M_TOKEN:
        return assert_type(identity, MachineIdentity).machine_id
    match identity.token_type:
        case TokenType.API_KEY:
            return assert_type(identity, ApiKeyIdentity).name
        case TokenType.OAUTH_TOKEN:
            return assert_type(identity, OAuthIdentity).client_id


def shown(identity: Identity) -> dict[str, Any]:
    return assert_type(identity.as_dict(), dict[str, Any])


def exhaustive(identity: Identity) -> str:
    match identity:
        case MachineIdentity(machine_id=machine_id):
            return machine_id
        case ApiKeyIdentity(name=name):
            return name
        case OAuthIdentity(client_id=client_id):
            return client_id


# The verifier


async def verify(verifier: Verifier) -> None:
    identity = await verifier.verify("mt_")
    assert_type(identity, MachineIdentity | ApiKeyIdentity | OAuthIdentity)
    assert_type(verifier.stats.as_dict(), dict[str, int])
    assert_type(await verifier.verify_headers({"Authorization": "Bearer mt_"}), Identity)
    await verifier.verify_headers([(b"authorization", b"Bearer mt_")])
    await verifier.verify_headers("Bearer mt_")  # type: ignore[arg-type]  # no headers
    verifier.invalidate(token_id="mt_")
    verifier.invalidate("mt_")  # type: ignore[call-arg]  # keyword-only


def refused(error: RefusalError) -> None:
    assert_type(refusal_answer(error), tuple[int, dict[str, str], bytes])
    match error:
        case ScopeDeniedError(decision=decision):
            assert_type(decision, Decision)
            assert_type(decision.reason, Reason)
            assert_type(decision.missing_edge, tuple[str, str] | None)
        case PermissionDeniedError(required_scopes=scopes):
            assert_type(scopes, tuple[str, ...])
        case VerificationUnavailableError(retry_after=seconds):
            assert_type(seconds, float)


# The graph

assert_type(ScopeGraph({"mch_": {"mch_"}}).decide("mch_", "mch_").allowed, bool)
assert_type(ScopeGraph.from_toml("").callees("mch_"), frozenset[str])


# The client


async def operations(clerk: ClerkClient) -> None:
    assert_type(await clerk.machines.create("orders"), CreatedMachine)
    assert_type(await clerk.machines.get("mch_"), Machine)
    assert_type((await clerk.machines.get("mch_")).scoped_machines, tuple[ScopedMachine, ...])
    assert_type(await clerk.machines.list(), Page[Machine])
    assert_type(clerk.machines.iter(), AsyncIterator[Machine])
    assert_type(await clerk.machines.get_secret_key("mch_"), Secret)
    assert_type(await clerk.machines.create_scope("mch_", "mch_"), MachineScope)
    assert_type(await clerk.m2m_tokens.create(token_format="jwt"), CreatedM2MToken)
    assert_type((await clerk.m2m_tokens.verify("mt_")).expires_at, datetime | None)
    assert_type([token async for token in clerk.m2m_tokens.iter("mch_")], list[M2MToken])
    assert_type(await clerk.api_keys.update("ak_", description=None), ApiKey)
    assert_type(await clerk.oauth_access_tokens.verify("oat_"), OAuthAccessToken | None)
    assert_type(await clerk.jwks.get(), Mapping[str, Any])
    await clerk.m2m_tokens.create(token_format="paseto")  # type: ignore[arg-type]  # no such one
    assert_type(clerk.with_options(timeout=2.0, retries=0), ClerkClient)
    async with clerk as opened:
        assert_type(opened, ClerkClient)


async def options_and_listeners(clerk: ClerkClient) -> None:
    assert_type(ClerkClient.from_env(timeout=3.0), ClerkClient)
    assert_type(clerk.on_revocation(print), Callable[[], None])
    assert_type(await clerk.machines.find_or_create("orders"), tuple[Machine, bool])
    assert_type(clerk.api_keys.iter("user_", type="nightly", query="a"), AsyncIterator[ApiKey])
    assert_type(await clerk.oauth_access_tokens.revoke("oat_", oauth_application_id="a"), None)
    ClerkClient.from_env(tmeout=3)  # type: ignore[call-arg]  # a slip


# The synchronous client


def script() -> None:
    with SyncClerkClient.from_env(timeout=3.0) as clerk:
        assert_type(clerk, SyncClerkClient)
        assert_type(clerk.machines.create("orders", default_token_ttl=60), CreatedMachine)
        assert_type(clerk.machines.get("mch_"), Machine)
        assert_type(clerk.machines.find_or_create("orders"), tuple[Machine, bool])
        assert_type(clerk.machines.list(limit=20, order_by="-created_at"), Page[Machine])
        assert_type(clerk.machines.iter(query="a"), Iterator[Machine])
        assert_type(clerk.machines.get_secret_key("mch_"), Secret)
        assert_type(clerk.m2m_tokens.create(token_format="jwt"), CreatedM2MToken)
        assert_type(list(clerk.m2m_tokens.iter("mch_")), list[M2MToken])
        assert_type(clerk.api_keys.update("ak_", description=None), ApiKey)
        assert_type(clerk.oauth_access_tokens.verify("oat_"), OAuthAccessToken | None)
        assert_type(clerk.jwks.get(), Mapping[str, Any])
        clerk.m2m_tokens.create(token_format="paseto")  # type: ignore[arg-type]  # no such one
        clerk.machines.get()  # type: ignore[call-arg]  # the id is missing
        clerk.machines.list(limt=20)  # type: ignore[call-arg]  # a slip
    SyncClerkClient(secrt_key="sk_")  # type: ignore[call-arg]  # a slip


def failed(error: BackendAPIError) -> None:
    assert_type(error.errors, tuple[FieldError, ...])
    assert_type(error.retry_after, float | None)
    assert_type(error.clerk_trace_id, str | None)
