"""Clerk's machine Backend API, typed in and out.

One file per resource (`machines`, `m2m_tokens`, `api_keys`, `oauth_tokens`, `jwks`) holds its
operations, each path once. `calls` is what the operations share. `key_source` says where our own
keys come from and which is sent, `key_pauses` how long a refused one is not. `resources` are the
values that the operations give, `document` and `parsing` read them from JSON, and `problems` says
what an error answer means. `walking` reads whole lists, `revocations` tells who wants to hear of
what has ended.
`client` puts them together; `sync_client` runs the same operations in an event loop of its own
(`loop_thread`). May import `transport` and the vocabulary.
"""

from __future__ import annotations

from clerk_m2m.backend_api.calls import UNSET, Unset
from clerk_m2m.backend_api.client import ClerkClient, ClientOptions
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
from clerk_m2m.backend_api.revocations import Revocation
from clerk_m2m.backend_api.sync_client import SyncClerkClient

__all__ = [
    "UNSET",
    "ApiKey",
    "ClerkClient",
    "ClientOptions",
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
    "SyncClerkClient",
    "Unset",
]
