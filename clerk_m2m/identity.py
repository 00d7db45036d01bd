"""Who is calling: the typed identities that a handler receives.

They hold no credential, and nothing that a handler can reach in them can be changed, so a verdict
may be shared between requests.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any, ClassVar, Literal, TypeAlias

MACHINE_ID = re.compile(r"mch_[A-Za-z0-9_]{27}")
USER_ID = re.compile(r"user_[A-Za-z0-9_]{27}")
NO_CLAIMS: Mapping[str, Any] = MappingProxyType({})


class TokenType(StrEnum):
    """The kinds of machine credential, by the names that `Settings.accepts` takes."""

    M2M_TOKEN = "m2m_token"
    API_KEY = "api_key"
    OAUTH_TOKEN = "oauth_token"


class TokenClass(StrEnum):
    """What a credential claims to be, by its form. Nothing is verified yet."""

    M2M_OPAQUE = "opaque M2M token"
    M2M_JWT = "M2M JWT"
    API_KEY = "API key"
    OAUTH_OPAQUE = "opaque OAuth access token"
    OAUTH_JWT = "OAuth access token JWT"
    SESSION_JWT = "session JWT"
    MALFORMED = "ill-formed machine credential"
    UNKNOWN = "unknown credential"


def freeze(value: Any) -> Any:
    """Give a read-only copy of parsed JSON: mappings become proxies, lists become tuples."""
    # Without recursion: how deep the claims nest is the choice of whoever minted the credential.
    containers = [value]
    for each in containers:
        containers.extend(item for item in _items(each) if isinstance(item, dict | list))
    frozen: dict[int, Any] = {}
    for each in reversed(containers):  # what is inside comes before what holds it
        frozen[id(each)] = _shallow(each, frozen)
    return frozen[id(value)]


def read_audience(value: Any) -> tuple[str, ...] | None:
    """Read an `aud`: a string, or a list of at least one (RFC 7519 section 4.1.3); else None."""
    texts = [value] if isinstance(value, str) else value
    if isinstance(texts, list) and texts and all(isinstance(item, str) for item in texts):
        return tuple(texts)
    return None


def _items(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _shallow(value: Any, frozen: Mapping[int, Any]) -> Any:
    if isinstance(value, dict):
        return MappingProxyType({key: frozen.get(id(item), item) for key, item in value.items()})
    if isinstance(value, list):
        return tuple(frozen.get(id(item), item) for item in value)
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class _Identity:
    """What every identity has.

    `token_id` is Clerk's id of the credential, fit for logs. `subject` is whom it speaks for.
    `scopes` are attested by Clerk's server and empty for a JWT of a machine. `claims` are chosen by
    whoever minted the credential: information, never a permission. `expires_at` is Unix time in
    seconds, None for a credential that does not expire. `stale` marks a verdict that outlives its
    lifetime while Clerk is down (`Settings.stale_if_error`).
    """

    token_id: str
    subject: str
    scopes: frozenset[str] = frozenset()
    claims: Mapping[str, Any] = field(default_factory=lambda: NO_CLAIMS, repr=False, hash=False)
    expires_at: float | None = None
    stale: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineIdentity(_Identity):
    """A machine that called with an M2M token.

    `scopes` of an opaque token are the ids of the machines that it could call when it was minted.
    """

    token_type: ClassVar[TokenType] = TokenType.M2M_TOKEN
    token_format: Literal["opaque", "jwt"]

    @property
    def machine_id(self) -> str:
        """The caller, `mch_…`."""
        return self.subject


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKeyIdentity(_Identity):
    """A user, an organization or a machine, by its API key; `scopes` are the key's permissions."""

    token_type: ClassVar[TokenType] = TokenType.API_KEY
    name: str

    @property
    def user_id(self) -> str | None:
        """The user whom the key speaks for, `user_…`, or None."""
        return self._subject_if("user_")

    @property
    def org_id(self) -> str | None:
        """The organization that the key speaks for, `org_…`, or None."""
        return self._subject_if("org_")

    @property
    def machine_id(self) -> str | None:
        """The machine that the key speaks for, `mch_…`, or None."""
        return self._subject_if("mch_")

    def _subject_if(self, prefix: str) -> str | None:
        return self.subject if self.subject.startswith(prefix) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class OAuthIdentity(_Identity):
    """A user on whose behalf an OAuth client called; `scopes` are what the user granted it.

    `audience` are the services that the token is meant for (`aud`), empty where it names none; see
    `Settings.oauth_audience`. `actor` is who acts for the user (`act`, RFC 8693 section 4.1), as a
    mapping that cannot be changed, or None.
    """

    token_type: ClassVar[TokenType] = TokenType.OAUTH_TOKEN
    client_id: str
    audience: tuple[str, ...] = ()
    actor: Mapping[str, Any] | None = field(default=None, repr=False, hash=False)

    @property
    def user_id(self) -> str:
        """The user who granted the access, `user_…`."""
        return self.subject


Identity: TypeAlias = MachineIdentity | ApiKeyIdentity | OAuthIdentity
