"""The values that the Backend API returns: machines, tokens, keys, edges, pages.

Instants are aware datetimes, durations are seconds, and values that must not be printed are a
`Secret`. `claims` is any JSON, as it was stored; None if there is none. All of them work with
`dataclasses.asdict`, `copy.deepcopy` and pydantic (a `Secret` stays hidden there).
`created_at`, `updated_at` and `last_used_at` are None if Clerk sent none or an invalid one: they
decide nothing, so the rest of the answer is still used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeVar

from clerk_m2m.secret import Secret

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScopedMachine:
    """A machine in the list of machines that another machine may call."""

    id: str
    name: str
    instance_id: str
    default_token_ttl: int
    created_at: datetime | None
    updated_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine(ScopedMachine):
    """A machine; `scoped_machines` are the machines that it may call.

    `default_token_ttl` is in seconds.
    """

    scoped_machines: tuple[ScopedMachine, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CreatedMachine(Machine):
    """A new machine, with its secret key."""

    secret_key: Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineScope:
    """An edge: `caller` may call `callee`. `created_at` is None after a deletion, too."""

    caller: str
    callee: str
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Credential:
    """The common attributes of M2M tokens, API keys and OAuth access tokens."""

    id: str
    subject: str
    scopes: tuple[str, ...]
    revoked: bool
    revocation_reason: str | None
    expired: bool
    expires_at: datetime | None
    created_at: datetime | None
    updated_at: datetime | None

    @property
    def live(self) -> bool:
        """Whether the credential is neither revoked nor expired, according to Clerk."""
        return not (self.revoked or self.expired)


@dataclass(frozen=True, slots=True, kw_only=True)
class M2MToken(_Credential):
    """An M2M token; `scopes` are the machines that its subject could call when it was minted."""

    claims: Any = field(default=None, repr=False, hash=False)
    last_used_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CreatedM2MToken(M2MToken):
    """A new M2M token, with the token itself.

    `created_at` is never None: `expires_at - created_at` is the lifetime, by Clerk's clock alone.
    """

    created_at: datetime
    token: Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey(_Credential):
    """An API key of a user, an organization or a machine; `scopes` are its permissions.

    `type` is the type that it was created with, by default `api_key`.
    """

    type: str
    name: str
    description: str | None
    claims: Any = field(default=None, repr=False, hash=False)
    created_by: str | None
    last_used_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CreatedApiKey(ApiKey):
    """A new API key, with its secret."""

    secret: Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class OAuthAccessToken(_Credential):
    """An OAuth access token; `scopes` are the permissions that the user granted to the client.

    `audience` (`aud`) are the services that it is meant for, empty if Clerk sends none. `actor`
    (`act`, RFC 8693 section 4.1) is the party that acts for the user, or None. Clerk's contract has
    neither of the two.
    """

    client_id: str
    audience: tuple[str, ...] = ()
    actor: Mapping[str, Any] | None = field(default=None, repr=False, hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[T]):
    """One page of a list; `total_count` is the number of items on all pages together."""

    items: tuple[T, ...]
    total_count: int

    def __iter__(self) -> Iterator[T]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)
