"""Clerk's machine Backend API, typed in and out.

One file per resource (`machines`, `m2m_tokens`, `api_keys`, `oauth_tokens`, `jwks`) holds its
operations, each path once. `calls` is what the operations share. `key_source` says where our own
keys come from and which is sent, `key_pauses` how long a refused one is not. `resources` are the
values that the operations give, `parsing` reads them from JSON, and `problems` says what an error
answer means. `client` puts them together. May import `transport` and the vocabulary.
"""

from __future__ import annotations

from clerk_m2m.backend_api.calls import UNSET, Revocation, Unset
from clerk_m2m.backend_api.client import ClerkClient
from clerk_m2m.backend_api.resources import (
    ApiKey,
    CreatedApiKey,
    CreatedM2MToken,
    CreatedMachine,
    M2MToken,
    Machine,
    MachineScope,
    OAuthAccessToken,
    Page,
    ScopedMachine,
)

__all__ = [
    "UNSET",
    "ApiKey",
    "ClerkClient",
    "CreatedApiKey",
    "CreatedM2MToken",
    "CreatedMachine",
    "M2MToken",
    "Machine",
    "MachineScope",
    "OAuthAccessToken",
    "Page",
    "Revocation",
    "ScopedMachine",
    "Unset",
]
