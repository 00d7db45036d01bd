"""Clerk's machine Backend API, with typed arguments and results.

One file per resource (`machines`, `m2m_tokens`, `api_keys`, `oauth_tokens`, `jwks`) holds its
operations, and each path is written once. `calls` holds what the operations share. `key_source`
reads our own keys and chooses the one to send; `key_pauses` stops a refused key from being sent for
a while. `resources` are the values that the operations return. `document` and `parsing` read them
from JSON, and `problems` maps error answers to exceptions. `walking` reads whole lists.
`revocations` notifies listeners of revocations and deletions.

`client` puts them together; `sync_client` runs the same operations in its own event loop
(`loop_thread`). May import `transport` and the vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clerk_m2m.backend_api.calls import UNSET, Unset
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
from clerk_m2m.lazy import lazy_names as _lazy_names

if TYPE_CHECKING:
    from clerk_m2m.backend_api.client import ClerkClient, ClientOptions
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

# Imported when first used: the middleware needs neither client.
_LAZY = {
    "ClerkClient": "clerk_m2m.backend_api.client",
    "ClientOptions": "clerk_m2m.backend_api.client",
    "SyncClerkClient": "clerk_m2m.backend_api.sync_client",
}


__getattr__, __dir__ = _lazy_names(globals(), _LAZY)
