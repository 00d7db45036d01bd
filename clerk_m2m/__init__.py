"""Protect Starlette and FastAPI services with Clerk machine credentials.

app.add_middleware(MachineAuthMiddleware)

@app.get("/orders")
async def orders(caller: Annotated[MachineIdentity, Depends(require_machine())]): ...
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clerk_m2m.asgi.current import current_machine
from clerk_m2m.asgi.openapi import describe_refusals
from clerk_m2m.clock import Clock
from clerk_m2m.decision import Decision, Reason
from clerk_m2m.errors import (
    AnswerTooLargeError,
    BackendAPIError,
    BackendUnavailableError,
    ClerkM2MError,
    ConfigurationError,
    ConflictError,
    FieldError,
    FleetUnavailableError,
    InvalidRequestError,
    KeyRefusedError,
    KeyUnavailableError,
    MiddlewareMissingError,
    NotFoundError,
    OverloadedError,
    PermissionDeniedError,
    RateLimitedError,
    RefusalError,
    ScopeDeniedError,
    TokenInvalidError,
    TokenMalformedError,
    TokenMissingError,
    TokenTypeNotAcceptedError,
    TokenUnavailableError,
    VerificationUnavailableError,
    VerifierMisconfiguredError,
)
from clerk_m2m.fleet_settings import Fleet
from clerk_m2m.graph.scope_graph import ScopeGraph
from clerk_m2m.identity import (
    ApiKeyIdentity,
    Identity,
    MachineIdentity,
    OAuthIdentity,
    TokenClass,
    TokenType,
)
from clerk_m2m.lazy import lazy_names as _lazy_names
from clerk_m2m.observe.counters import Stats
from clerk_m2m.secret import Secret
from clerk_m2m.settings import Settings

if TYPE_CHECKING:
    from clerk_m2m.asgi.guards import (
        Guard,
        require_any,
        require_api_key,
        require_machine,
        require_oauth,
    )
    from clerk_m2m.asgi.middleware import MachineAuthMiddleware, OnError, verifier_of
    from clerk_m2m.asgi.refusals import refusal_answer
    from clerk_m2m.backend_api.client import ClerkClient
    from clerk_m2m.backend_api.sync_client import SyncClerkClient
    from clerk_m2m.graph.source import GraphSource
    from clerk_m2m.outbound.auth import MachineTokenAuth
    from clerk_m2m.verification.outcome import CredentialVerifier
    from clerk_m2m.verification.verifier import Verifier

__version__ = "0.1.0"

__all__ = [
    "AnswerTooLargeError",
    "ApiKeyIdentity",
    "BackendAPIError",
    "BackendUnavailableError",
    "ClerkClient",
    "ClerkM2MError",
    "Clock",
    "ConfigurationError",
    "ConflictError",
    "CredentialVerifier",
    "Decision",
    "FieldError",
    "Fleet",
    "FleetUnavailableError",
    "GraphSource",
    "Guard",
    "Identity",
    "InvalidRequestError",
    "KeyRefusedError",
    "KeyUnavailableError",
    "MachineAuthMiddleware",
    "MachineIdentity",
    "MachineTokenAuth",
    "MiddlewareMissingError",
    "NotFoundError",
    "OAuthIdentity",
    "OnError",
    "OverloadedError",
    "PermissionDeniedError",
    "RateLimitedError",
    "Reason",
    "RefusalError",
    "ScopeDeniedError",
    "ScopeGraph",
    "Secret",
    "Settings",
    "Stats",
    "SyncClerkClient",
    "TokenClass",
    "TokenInvalidError",
    "TokenMalformedError",
    "TokenMissingError",
    "TokenType",
    "TokenTypeNotAcceptedError",
    "TokenUnavailableError",
    "VerificationUnavailableError",
    "Verifier",
    "VerifierMisconfiguredError",
    "current_machine",
    "describe_refusals",
    "refusal_answer",
    "require_any",
    "require_api_key",
    "require_machine",
    "require_oauth",
    "verifier_of",
]

# Imported when first used. They import httpx, starlette and (the guards) FastAPI, and pytest
# imports this package at the start of every run, for its fixtures.
_LAZY = {
    "CredentialVerifier": "clerk_m2m.verification.outcome",
    "GraphSource": "clerk_m2m.graph.source",
    "ClerkClient": "clerk_m2m.backend_api.client",
    "SyncClerkClient": "clerk_m2m.backend_api.sync_client",
    "Guard": "clerk_m2m.asgi.guards",
    "MachineAuthMiddleware": "clerk_m2m.asgi.middleware",
    "MachineTokenAuth": "clerk_m2m.outbound.auth",
    "OnError": "clerk_m2m.asgi.middleware",
    "Verifier": "clerk_m2m.verification.verifier",
    "refusal_answer": "clerk_m2m.asgi.refusals",
    "require_any": "clerk_m2m.asgi.guards",
    "require_api_key": "clerk_m2m.asgi.guards",
    "require_machine": "clerk_m2m.asgi.guards",
    "require_oauth": "clerk_m2m.asgi.guards",
    "verifier_of": "clerk_m2m.asgi.middleware",
}


__getattr__, __dir__ = _lazy_names(globals(), _LAZY)
