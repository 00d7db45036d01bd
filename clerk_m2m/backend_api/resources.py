"""What the Backend API gives back, as values: machines, tokens, keys, edges, pages.

Instants are aware datetimes, durations are seconds, and what must not be printed is a `Secret`.
`claims` is whatever JSON was stored, as it was; None where there is none. All of them can be given
to `dataclasses.asdict`, `copy.deepcopy` and pydantic (a `Secret` stays hidden there).
`created_at`, `updated_at` and `last_used_at` are None where Clerk gave none, or none that makes
sense: nothing is decided by them, so the rest of the answer is still of use.
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
    """A machine as it is listed among those that another may call."""

    id: str
    name: str
    instance_id: str
    default_token_ttl: int
    created_at: datetime | None
    updated_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine(ScopedMachine):
    """A machine; `scoped_machines` are those that it may call. `default_token_ttl` is seconds."""

    scoped_machines: tuple[ScopedMachine, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CreatedMachine(Machine):
    """A machine just created, with its secret key."""

    secret_key: Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineScope:
    """An edge: `caller` may call `callee`. `created_at` is None too where it was just deleted."""

    caller: str
    callee: str
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Credential:
    """What M2M tokens, API keys and OAuth access tokens have in common."""

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
        """Whether Clerk says that it is neither revoked nor expired."""
        return not (self.revoked or self.expired)


@dataclass(frozen=True, slots=True, kw_only=True)
class M2MToken(_Credential):
    """An M2M token; `scopes` are the machines that its subject could call when it was minted."""

    claims: Any = field(default=None, repr=False, hash=False)
    last_used_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CreatedM2MToken(M2MToken):
    """An M2M token just minted, with the token itself.

    `created_at` is always there: `expires_at` less `created_at` is its lifetime by Clerk's clock
    alone.
    """

    created_at: datetime
    token: Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey(_Credential):
    """An API key of a user, an organization or a machine; `scopes` are its permissions.

    `type` is what it was created as, `api_key` unless told otherwise.
    """

    type: str
    name: str
    description: str | None
    claims: Any = field(default=None, repr=False, hash=False)
    created_by: str | None
    last_used_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CreatedApiKey(ApiKey):
    """An API key just created, with its secret."""

    secret: Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class OAuthAccessToken(_Credential):
    """An OAuth access token; `scopes` are what the user granted to the client.

    `audience` (`aud`) are the services that it is meant for, empty where Clerk names none; `actor`
    (`act`, RFC 8693 section 4.1) is who acts for the user, or None. Clerk's contract has neither.
    """

    client_id: str
    audience: tuple[str, ...] = ()
    actor: Mapping[str, Any] | None = field(default=None, repr=False, hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[T]):
    """One page of a list; `total_count` counts what all pages hold together."""

    items: tuple[T, ...]
    total_count: int

    def __iter__(self) -> Iterator[T]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)
