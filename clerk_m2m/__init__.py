"""Protect Starlette and FastAPI services with Clerk machine credentials.

app.add_middleware(MachineAuthMiddleware)

@app.get("/orders")
async def orders(caller: Annotated[MachineIdentity, Depends(require_machine())]): ...
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from clerk_m2m._clock import Clock
from clerk_m2m._secret import Secret
from clerk_m2m.config import Settings
from clerk_m2m.decisions import Decision, Reason, Stats
from clerk_m2m.errors import (
    AnswerTooLargeError,
    BackendAPIError,
    ClerkM2MError,
    ConfigurationError,
    ConflictError,
    FieldError,
    InvalidRequestError,
    MiddlewareMissingError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitedError,
    RefusalError,
    ScopeDeniedError,
    TokenInvalidError,
    TokenMalformedError,
    TokenMissingError,
    TokenTypeNotAcceptedError,
    TokenUnavailableError,
    UnauthorizedError,
    UnavailableError,
    VerificationUnavailableError,
    VerifierMisconfiguredError,
)
from clerk_m2m.identity import ApiKeyIdentity, Identity, MachineIdentity, OAuthIdentity, TokenType
from clerk_m2m.openapi import describe_refusals
from clerk_m2m.scopes import ScopeGraph

if TYPE_CHECKING:
    from clerk_m2m.client import ClerkClient
    from clerk_m2m.guards import (
        Guard,
        require_any,
        require_api_key,
        require_machine,
        require_oauth,
    )
    from clerk_m2m.middleware import MachineAuthMiddleware
    from clerk_m2m.outbound import MachineTokenAuth
    from clerk_m2m.verifier import Verifier

__version__ = "0.1.0"

__all__ = [
    "AnswerTooLargeError",
    "ApiKeyIdentity",
    "BackendAPIError",
    "ClerkClient",
    "ClerkM2MError",
    "Clock",
    "ConfigurationError",
    "ConflictError",
    "Decision",
    "FieldError",
    "Guard",
    "Identity",
    "InvalidRequestError",
    "MachineAuthMiddleware",
    "MachineIdentity",
    "MachineTokenAuth",
    "MiddlewareMissingError",
    "NotFoundError",
    "OAuthIdentity",
    "PermissionDeniedError",
    "RateLimitedError",
    "Reason",
    "RefusalError",
    "ScopeDeniedError",
    "ScopeGraph",
    "Secret",
    "Settings",
    "Stats",
    "TokenInvalidError",
    "TokenMalformedError",
    "TokenMissingError",
    "TokenType",
    "TokenTypeNotAcceptedError",
    "TokenUnavailableError",
    "UnauthorizedError",
    "UnavailableError",
    "VerificationUnavailableError",
    "Verifier",
    "VerifierMisconfiguredError",
    "describe_refusals",
    "require_any",
    "require_api_key",
    "require_machine",
    "require_oauth",
]

# Imported when first used. They bring httpx, starlette and (the guards) FastAPI, and pytest imports
# this package at the start of every run where it is installed, for its fixtures.
_LAZY = {
    "ClerkClient": "clerk_m2m.client",
    "Guard": "clerk_m2m.guards",
    "MachineAuthMiddleware": "clerk_m2m.middleware",
    "MachineTokenAuth": "clerk_m2m.outbound",
    "Verifier": "clerk_m2m.verifier",
    "require_any": "clerk_m2m.guards",
    "require_api_key": "clerk_m2m.guards",
    "require_machine": "clerk_m2m.guards",
    "require_oauth": "clerk_m2m.guards",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_LAZY[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
